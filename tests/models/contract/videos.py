"""The frames of a clip know of one another, stills of nothing but themselves, and one table tells the time."""

from abc import abstractmethod
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from skipdit import SkipCacheConfig
from skipdit.models.base import LongSkipModel
from tests.models.subject import Inputs, Subject, assert_equal, in_dtype, recorded, sample

FRAMES, STILLS = 3, 2


class Videos(Subject):
    """For models of clips [.., F, ..] behind which stills may stand; a clip of the subject has three frames."""

    frame_dim: int
    length: str  # the argument that is the number of temporal positions

    @abstractmethod
    def temporal_layers(self, model: LongSkipModel) -> Sequence[nn.Module]:
        """The temporal block of each layer."""

    @abstractmethod
    def temporal_table(self, model: LongSkipModel) -> Tensor:
        """The positions of frames, [1, F, D]."""

    @abstractmethod
    def with_stills(self, clip: Inputs, stills: Tensor) -> Inputs:
        """A clip and stills behind its frames, each with a condition of its own."""

    @abstractmethod
    def with_other_condition(self, joint: Inputs, still: int) -> Inputs:
        """The same but for the class, or the text, of one still."""

    @abstractmethod
    def sample_alone(self, model: LongSkipModel, joint: Inputs, still: int) -> Tensor:
        """What the model without its temporal half says of one still alone."""

    def clip(self, frames: int = FRAMES, *, dtype: torch.dtype = torch.float64) -> Inputs:
        inputs = in_dtype(self.inputs(500), dtype)
        return inputs | {"hidden_states": inputs["hidden_states"].narrow(self.frame_dim, 0, frames)}

    def joint(self) -> Inputs:
        clip = self.clip()
        noise = torch.randn(clip["hidden_states"].shape, generator=torch.Generator().manual_seed(7)).double()
        return self.with_stills(clip, noise.narrow(self.frame_dim, 0, STILLS))

    def pictures(self, video: Tensor) -> list[Tensor]:
        return list(video.split(1, dim=self.frame_dim))

    def with_other_picture(self, joint: Inputs, place: int) -> Inputs:
        changed = joint["hidden_states"].clone()
        changed.select(self.frame_dim, place).add_(1)
        return joint | {"hidden_states": changed}

    def assert_changed(self, model: LongSkipModel, joint: Inputs, other: Inputs, places: set[int]) -> None:
        """Exactly the pictures in these places come out otherwise."""
        before, after = (self.pictures(sample(model, inputs)) for inputs in (joint, other))
        assert {place for place, pair in enumerate(zip(before, after)) if not torch.equal(*pair)} == places

    # Joint training.

    def test_frames_are_those_of_the_clip_alone(self, model):
        model = model.double()
        outputs = sample(model, self.joint())
        assert outputs.shape[self.frame_dim] == FRAMES + STILLS
        frames = outputs.narrow(self.frame_dim, 0, FRAMES)
        torch.testing.assert_close(frames, sample(model, self.clip()), rtol=1e-9, atol=1e-9)

    def test_a_still_is_that_still_alone_without_the_temporal_half(self, model):
        model, joint = model.double(), self.joint()
        outputs = self.pictures(sample(model, joint))
        for still in range(STILLS):
            alone = self.sample_alone(model, joint, still)
            torch.testing.assert_close(outputs[FRAMES + still], alone, rtol=1e-9, atol=1e-9)

    def test_stills_influence_neither_frames_nor_one_another(self, model):
        model, joint = model.double(), self.joint()
        for still in range(STILLS):
            self.assert_changed(model, joint, self.with_other_picture(joint, FRAMES + still), {FRAMES + still})

    def test_frames_influence_one_another_and_no_still(self, model):
        model, joint = model.double(), self.joint()
        for frame in range(FRAMES):
            self.assert_changed(model, joint, self.with_other_picture(joint, frame), set(range(FRAMES)))

    def test_the_condition_of_a_still_is_felt_by_that_still(self, model):
        model, joint = model.double(), self.joint()
        for still in range(STILLS):
            self.assert_changed(model, joint, self.with_other_condition(joint, still), {FRAMES + still})

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_stills_teach_all_but_the_temporal_half(self, model, checkpointing):
        model = model.double().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        outputs = model(**self.joint()).sample
        outputs.narrow(self.frame_dim, FRAMES, STILLS).square().mean().backward()
        temporal = {id(parameter) for layer in self.temporal_layers(model) for parameter in layer.parameters()}
        taught = {p for p in model.parameters() if p.grad is not None and p.grad.any()}
        trained = {p for p in model.parameters() if p.requires_grad}
        assert trained - taught == {parameter for parameter in trained if id(parameter) in temporal}

    def test_frames_and_stills_together_teach_everything(self, model):
        model = model.double().train()
        model(**self.joint()).sample.square().mean().backward()
        assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)

    @pytest.mark.parametrize("branch", [1, 2])
    def test_frames_are_those_of_the_clip_alone_under_the_cache_too(self, branch):
        joint, alone = (self.cached(SkipCacheConfig(interval=2, branch=branch)).double() for _ in range(2))
        both, clip = self.joint(), self.clip()
        for timestep in (900, 800, 700):
            now = {"timestep": torch.full((2,), timestep)}
            frames = sample(joint, both | now).narrow(self.frame_dim, 0, FRAMES)
            torch.testing.assert_close(frames, sample(alone, clip | now), rtol=1e-9, atol=1e-9)
        assert joint.cache_stats()["default"].plan == "#.#"

    # Time.

    def test_the_order_of_frames_is_felt(self, model):
        model, clip = model.double(), self.clip()
        turned = clip | {"hidden_states": clip["hidden_states"].flip(self.frame_dim)}
        assert not torch.allclose(sample(model, turned).flip(self.frame_dim), sample(model, clip))

    def test_it_is_the_table_that_tells_the_order(self, model):
        model, clip = model.double(), self.clip()
        self.temporal_table(model).data.zero_()
        turned = clip | {"hidden_states": clip["hidden_states"].flip(self.frame_dim)}
        turned_back = sample(model, turned).flip(self.frame_dim)
        torch.testing.assert_close(turned_back, sample(model, clip), rtol=1e-9, atol=1e-9)

    @torch.no_grad()
    def test_the_table_is_added_in_the_first_layer_alone(self, model):
        timeless = self.build()
        self.temporal_table(timeless).data.zero_()
        stream, context = model.embed(**self.clip(dtype=torch.float32))
        same = [
            torch.equal(*(one.layer(index, stream, context) for one in (model, timeless)))
            for index in range(model.depth)
        ]
        assert same == [False] + [True] * (model.depth - 1)

    @pytest.mark.parametrize("frames", [1, 2, 3])
    def test_a_shorter_clip_has_the_first_positions(self, model, frames):
        clip = self.clip(frames, dtype=torch.float32)
        made_for_it = self.build(**{self.length: frames})
        assert sample(model, clip).shape[self.frame_dim] == frames
        assert torch.equal(sample(model, clip), sample(made_for_it, clip))

    @pytest.mark.parametrize("branch", [0, 1, 2])
    def test_a_cached_step_runs_the_temporal_blocks_of_the_outer_layers_alone(self, branch):
        model = self.cached(SkipCacheConfig(interval=2, branch=branch))
        with recorded(self.temporal_layers(model)) as ran:
            sample(model, self.inputs(900))
            assert ran == [0, 1, 2, 3, 4, 5]
            ran.clear()
            sample(model, self.inputs(800))
        assert ran == [*range(branch), *range(6 - branch, 6)]

    # What does not fit.

    @pytest.mark.parametrize("frames", [4, 9])
    def test_more_frames_than_positions_are_refused(self, model, frames):
        clip = self.clip(dtype=torch.float32)
        longer = torch.cat([clip["hidden_states"]] * 3, dim=self.frame_dim).narrow(self.frame_dim, 0, frames)
        with pytest.raises(
            ValueError, match=f"video has {frames} frames: this model has temporal positions for 1 to 3"
        ):
            sample(model, clip | {"hidden_states": longer})

    @pytest.mark.parametrize(("num_images", "frames"), [(5, 0), (6, -1)])
    def test_stills_without_a_clip_are_refused(self, model, num_images, frames):
        with pytest.raises(ValueError, match=rf"video has {frames} frames \(after the last {num_images} stills\)"):
            sample(model.double(), self.joint() | {"num_images": num_images})

    def test_fewer_stills_than_none_are_refused(self, model):
        with pytest.raises(ValueError, match="num_images is -1: it must be at least 0"):
            sample(model, self.clip(dtype=torch.float32) | {"num_images": -1})

    # Memory and compilation.

    def test_the_classes_that_are_kept_whole_and_compiled_are_in_the_model(self, model):
        inside = {type(module).__name__ for module in model.modules()}
        assert {*model._no_split_modules, *model._repeated_blocks} <= inside

    def test_compiled_blocks_change_no_value(self, model):
        expected = self.run(model)
        torch._dynamo.reset()
        model.compile_repeated_blocks(backend="eager")
        assert_equal(self.run(model), expected)
