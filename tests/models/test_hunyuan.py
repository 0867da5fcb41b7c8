"""HunyuanDiT under contract, and what it alone does: constants of a run, rotary positions, two texts, controls."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor, nn

from skipdit import HunyuanDiT, SkipCacheConfig
from skipdit.evaluation.price import price
from tests.models.contract import Cuts, ModelContract, Reuses
from tests.models.contract.beside import Beside
from tests.models.contract.contexts import Contexts
from tests.models.contract.cost import Cost, flops
from tests.models.contract.runs import CleanStarts
from tests.models.subject import (
    HUNYUAN_SIZES,
    TIMESTEPS,
    HunyuanDiTSubject,
    Inputs,
    assert_equal,
    hunyuan_text,
    in_context,
    in_dtype,
    memories,
    raising,
    sample,
)  # fmt: skip


class TestHunyuanDiT(HunyuanDiTSubject, ModelContract):
    """Version 1.2 under the contract of every model."""


class Version11(HunyuanDiTSubject):
    """Up to version 1.1 the model is told six sizes and a style too."""

    def build(self, **config) -> HunyuanDiT:
        return super().build(use_style_cond_and_image_meta_size=True, **config)

    def inputs(self, timestep: float, *, batch: int = 2, seed: int = 0, **like) -> Inputs:
        return super().inputs(timestep, batch=batch, seed=seed, **like) | sizes_and_style(batch, seed)


@cache
def sizes_and_style(batch: int, seed: int) -> Inputs:
    sizes = 256 * torch.rand(batch, 6, generator=torch.Generator().manual_seed(seed))
    return {"image_meta_size": sizes.round(), "style": torch.zeros(batch, dtype=torch.long)}


class TestVersion11(Version11, Cuts, Reuses, CleanStarts, Contexts, Cost, Beside):
    """The contract, but for what does not touch the inputs."""

    @pytest.mark.parametrize("name", ["image_meta_size", "encoder_hidden_states_t5"])
    def test_every_condition_is_felt(self, model, name):
        inputs = self.inputs(500)
        assert not torch.equal(sample(model, inputs | {name: inputs[name] + 1}), sample(model, inputs))


def published(**config) -> HunyuanDiT:
    with torch.device("meta"):
        return HunyuanDiT(**config)


class TestPublished:
    @pytest.mark.parametrize(
        ("config", "parameters"),
        [({}, 1_516_534_048), ({"use_style_cond_and_image_meta_size": False}, 1_499_952_032)],
        ids=["1.1", "1.2"],
    )
    def test_parameter_counts(self, config, parameters):
        model = published(**config)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert (model.depth, model.num_skips) == (40, 19)

    @pytest.mark.parametrize(("depth", "num_skips"), [(1, 0), (2, 0), (3, 1), (6, 2), (7, 3), (40, 19)])
    def test_two_layers_in_the_middle_of_an_even_depth_have_no_partner_and_one_of_an_odd_depth(self, depth, num_skips):
        model = published(**HUNYUAN_SIZES, num_layers=depth)
        assert model.num_skips == num_skips
        assert [block.skip_linear is not None for block in model.blocks] == [
            index >= depth - num_skips for index in range(depth)
        ]


class TestInitialisation:
    """As published: Xavier and zero biases, what begins without effect, and what begins small."""

    SMALL = ("time_extra_emb.timestep_embedder", "time_extra_emb.extra_embedder")
    SHUT = ("norm1.linear", "norm_out.linear", "proj_out")

    @pytest.fixture
    def linears(self) -> dict[str, nn.Linear]:
        wide = {"attention_head_dim": 32, "hidden_size": 64, "cross_attention_dim": 32, "cross_attention_dim_t5": 32}
        model = HunyuanDiT(**HUNYUAN_SIZES | wide, num_layers=6)
        return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def test_biases_are_zero(self, linears):
        assert not any(linear.bias.any() for linear in linears.values())

    def test_blocks_begin_unmodulated_and_the_output_is_zero(self, linears):
        shut = {name for name, linear in linears.items() if not linear.weight.any()}
        assert shut == {name for name in linears if name.endswith(self.SHUT)}
        subject = HunyuanDiTSubject()
        assert not sample(HunyuanDiT(**HUNYUAN_SIZES, num_layers=6).eval(), subject.inputs(500)).any()

    def test_embedders_of_conditions_are_normal_with_deviation_0_02(self, linears):
        for name in (name for name in linears if name.startswith(self.SMALL)):
            assert linears[name].weight.std().item() == pytest.approx(0.02, rel=0.1), name

    def test_all_others_are_xavier_uniform_skips_too(self, linears):
        others = [name for name in linears if not name.endswith(self.SHUT) and not name.startswith(self.SMALL)]
        assert any("skip_linear" in name for name in others)
        for name in others:
            bound = math.sqrt(6 / sum(linears[name].weight.shape))
            assert linears[name].weight.abs().max() <= bound, name
            assert linears[name].weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name

    def test_patches_are_xavier_uniform_over_the_flattened_kernel(self):
        weight = HunyuanDiT(
            **HUNYUAN_SIZES | {"attention_head_dim": 32, "hidden_size": 64}, num_layers=2
        ).pos_embed.proj
        bound = math.sqrt(6 / (64 + 16))
        assert weight.weight.abs().max() <= bound
        assert weight.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@contextmanager
def counted(model: HunyuanDiT) -> Iterator[dict[str, int]]:
    """How often each part runs that sees nothing but text."""
    embed = model.time_extra_emb
    parts = {"text": model.text_embedder, "pooler": embed.pooler, "extra": embed.extra_embedder}
    calls = dict.fromkeys(parts, 0)

    def count(name: str):
        def hook(*_):
            calls[name] += 1

        return hook

    hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    yield calls
    for hook in hooks:
        hook.remove()


def times(number: int) -> dict[str, int]:
    return {"text": number, "pooler": number, "extra": number}


class TestConstants(Version11):
    """What text alone decides is worked out once a run where a cache is on; nobody can see it in the outputs."""

    EVERY_STEP = SkipCacheConfig(interval=1)

    def text(self, **like) -> Inputs:
        changing = ("hidden_states", "timestep")
        return {name: value.clone() for name, value in self.inputs(0, **like).items() if name not in changing}

    def drawn(self, model: HunyuanDiT, text: Inputs, timesteps=TIMESTEPS, **like) -> list[Tensor]:
        return [sample(model, self.inputs(timestep, **like) | text) for timestep in timesteps]

    def test_without_a_cache_they_are_worked_out_at_every_step(self, model):
        with counted(model) as calls:
            self.drawn(model, self.text())
        assert calls == times(5)

    @pytest.mark.parametrize("settings", [{"interval": 1}, {"interval": 2}, {"window": (600, 800), "interval": 2}])
    def test_under_a_cache_they_are_worked_out_once_a_run(self, settings):
        model, text = self.cached(SkipCacheConfig(**settings)), self.text()
        with counted(model) as calls:
            self.drawn(model, text)
            assert calls == times(1)
            self.drawn(model, text)
            assert calls == times(2), "the timestep rose: another run"

    @pytest.mark.parametrize("interval", [1, 2, 3])
    def test_they_change_no_bit(self, interval):
        once, anew = (self.cached(SkipCacheConfig(interval=interval)) for _ in range(2))
        text = self.text()
        expected = []
        for step, timestep in enumerate(TIMESTEPS):  # a step index joins calls with other objects to one run
            copied = {name: value.clone() for name, value in text.items()}
            expected.append(in_context(anew, "default", self.inputs(timestep) | copied, step_index=step))
        assert_equal(self.drawn(once, text), expected)
        if interval == 1:
            assert_equal(expected, self.drawn(self.build(), text))

    @pytest.mark.parametrize("name", HunyuanDiT.constant_inputs)
    @pytest.mark.parametrize("in_place", [True, False], ids=["written into", "another object"])
    def test_they_are_worked_out_anew_when_an_input_is_other(self, name, in_place):
        model, text = self.cached(self.EVERY_STEP), self.text()
        with counted(model) as calls:
            self.drawn(model, text, (900, 800))
            if in_place:
                text[name].zero_()
            else:
                text = text | {name: torch.zeros_like(text[name])}
            outputs = self.drawn(model, text, (700, 600))
        assert calls == times(2)
        assert_equal(outputs, self.drawn(self.build(), text, (700, 600)))

    def test_a_write_through_a_view_is_noticed(self):
        model, text = self.cached(self.EVERY_STEP), self.text()
        view = text["encoder_hidden_states"][:1]
        self.drawn(model, text, (900,))
        view.zero_()
        assert_equal(self.drawn(model, text, (800,)), self.drawn(self.build(), text, (800,)))

    @pytest.mark.parametrize("made_inside", [True, False])
    def test_in_inference_mode_a_write_is_noticed_too(self, made_inside):
        """Nobody counts the writes into a tensor that was made there, so that those are worked out at every step."""
        model, text = self.cached(self.EVERY_STEP), self.text()
        with torch.inference_mode(), counted(model) as calls:
            text = self.text() if made_inside else text
            before = self.drawn(model, text, (900, 800))
            expected = self.drawn(self.build(), text, (900, 800))
            text["encoder_hidden_states"].zero_()
            outputs = self.drawn(model, text, (700, 600))
            assert calls == times(4 if made_inside else 2)
            assert_equal(before + outputs, expected + self.drawn(self.build(), text, (700, 600)))

    def test_a_cached_step_costs_less_by_what_text_costs(self):
        model, text = self.cached(SkipCacheConfig(interval=1)), self.text()
        now, later = self.inputs(900) | text, self.inputs(800) | text
        constant = flops(lambda: model.constants(now["hidden_states"], **text))
        assert flops(lambda: sample(model, later)) == flops(lambda: sample(self.build(), now))
        assert (
            flops(lambda: sample(model, self.inputs(700) | text)) == flops(lambda: sample(self.build(), now)) - constant
        )
        assert constant > 0

    def test_contexts_have_their_own(self):
        model, texts = self.cached(self.EVERY_STEP), {"cond": self.text(seed=1), "uncond": self.text(seed=2)}
        with counted(model) as calls:
            for timestep in TIMESTEPS:
                for name, text in texts.items():
                    output = in_context(model, name, self.inputs(timestep) | text)
                    assert torch.equal(output, sample(self.build(), self.inputs(timestep) | text))
        assert calls == times(2)

    def test_another_size_in_the_same_words_has_its_own_positions(self):
        model, text = self.cached(self.EVERY_STEP), self.text()
        for tall in (False, True):
            assert_equal(self.drawn(model, text, tall=tall), self.drawn(self.build(), text, tall=tall))

    def test_at_the_end_of_a_run_they_are_dropped(self):
        model, text = self.cached(self.EVERY_STEP), self.text()
        self.drawn(model, text, (900, 800))
        assert memories(model)[0].constants is not None
        model._reset_stateful_cache()
        assert not memories(model)
        with counted(model) as calls:
            self.drawn(model, text, (700, 600))
        assert calls == times(1)

    def test_after_an_error_they_are_dropped(self):
        model, text = self.cached(self.EVERY_STEP), self.text()
        with raising(model.blocks[3], RuntimeError("out of memory")), pytest.raises(RuntimeError, match="memory"):
            self.drawn(model, text)
        assert not memories(model)

    def test_after_another_dtype_they_are_made_in_it(self):
        model, text = self.cached(self.EVERY_STEP), self.text()
        self.drawn(model, text, (900,))
        model.to(torch.bfloat16)
        assert_equal(self.drawn(model, text, (800,)), self.drawn(self.build().to(torch.bfloat16), text, (800,)))


def pipeline_tables(height: int, width: int, *, head_dim: int = 8, base: int = 32) -> tuple[Tensor, Tensor]:
    """As HunyuanDiTPipeline makes them."""
    crops = get_resize_crop_region_for_grid((height, width), base)
    return get_2d_rotary_pos_embed(head_dim, crops, (height, width), output_type="pt")


class TestRotary(HunyuanDiTSubject):
    def given(self, *grid: int, **config) -> tuple[HunyuanDiT, Inputs]:
        height, width = (2 * side for side in grid)
        latents = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))
        inputs = self.inputs(500) | {"hidden_states": latents, "image_rotary_emb": pipeline_tables(*grid)}
        return self.build(**config), inputs

    @pytest.mark.parametrize("side", [1, 2, 3, 5])
    def test_for_squares_our_tables_are_those_of_the_pipeline(self, side):
        ours, inputs = self.given(side, side)
        theirs = self.build(rotary="given")
        assert torch.equal(sample(ours, inputs), sample(theirs, inputs))
        assert torch.equal(sample(ours, inputs), sample(ours, inputs | {"image_rotary_emb": None}))

    @pytest.mark.parametrize("grid", [(4, 2), (3, 5)])
    def test_for_others_only_given_tables_are_those_of_the_pipeline(self, grid):
        ours, inputs = self.given(*grid)
        assert torch.equal(sample(ours, inputs), sample(ours, inputs | {"image_rotary_emb": None}))
        assert not torch.equal(sample(ours, inputs), sample(self.build(rotary="given"), inputs))

    @pytest.mark.parametrize("patch_size", [1, 2, 4])
    def test_positions_span_64_latent_pixels_whatever_the_patch(self, patch_size):
        model = self.build(patch_size=patch_size)
        cos, sin = model.constants(torch.zeros(2, 4, 8, 8), **hunyuan_text(2)).rotary
        expected = pipeline_tables(8 // patch_size, 8 // patch_size, base=64 // patch_size)
        assert_equal([cos, sin], expected)

    def test_where_tables_are_to_be_given_their_lack_is_an_error(self):
        model = self.build(rotary="given")
        for config in (None, SkipCacheConfig()):
            if config is not None:
                model.enable_cache(config)
            with pytest.raises(ValueError, match="image_rotary_emb is missing: give it, or .* rotary='exact'"):
                sample(model, self.inputs(500))

    def test_given_tables_may_change_from_step_to_step(self):
        """They are no constant: a cached model uses what comes."""
        model, text = self.build(rotary="given"), hunyuan_text(2)
        tables = [pipeline_tables(2, 2), tuple(-table for table in pipeline_tables(2, 2))]
        steps = [
            self.inputs(t) | text | {"image_rotary_emb": table} for t, table in zip((900, 800), tables, strict=True)
        ]
        expected = [sample(model, step) for step in steps]
        model.enable_cache(SkipCacheConfig(interval=1))
        assert_equal([sample(model, step) for step in steps], expected)


class TestPrecision(HunyuanDiTSubject):
    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64, torch.float16])
    @pytest.mark.parametrize("timestep", [0, 1, 991, 999])
    def test_timesteps_of_any_type_are_the_same(self, model, dtype, timestep):
        inputs = self.inputs(timestep)
        exact = sample(model, inputs | {"timestep": inputs["timestep"].float()})
        assert torch.equal(sample(model, inputs | {"timestep": inputs["timestep"].to(dtype)}), exact)

    def test_bfloat16_timesteps_are_warned_of_since_they_are_others(self, model):
        inputs = self.inputs(991)
        with pytest.warns(UserWarning, match="bfloat16, which rounds 991 to 992"):
            rounded = sample(model, inputs | {"timestep": inputs["timestep"].to(torch.bfloat16)})
        assert torch.equal(rounded, sample(model, inputs | {"timestep": torch.full((2,), 992)}))
        assert not torch.equal(rounded, sample(model, inputs))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_half_precision_model_takes_float32_and_gives_it_back(self, model, dtype):
        model, inputs = model.to(dtype), self.inputs(991)
        narrow = in_dtype(inputs, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wide = sample(model, inputs)
        assert wide.dtype == torch.float32
        assert torch.equal(wide, sample(model, narrow).float())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_timesteps_reach_a_half_precision_model_unrounded(self, model, dtype):
        seen: list[Tensor] = []
        embed = model.to(dtype).time_extra_emb
        embed.time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        sample(model, self.inputs(991))
        assert seen[0].tolist() == [991, 991]


class TestControls(HunyuanDiTSubject):
    """Residuals of a ControlNet, one for each skip, the outermost first."""

    def controls(self, *, seed: int = 0) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return [torch.randn(2, 4, 16, generator=rng) for _ in range(3)]

    def test_each_is_added_to_its_skip(self, model):
        controls = self.controls()
        with torch.no_grad():
            stream, context = model.embed(**self.inputs(500))
            skips = []
            for index in range(3):
                stream = model.layer(index, stream, context)
                skips.append(stream + controls[index])
            for index in (3, 4, 5):
                stream = model.close(index, stream, skips[5 - index], context)
            expected = model.unembed(stream, context)
        assert torch.equal(sample(model, self.inputs(500) | {"controlnet_block_samples": controls}), expected)

    @pytest.mark.parametrize("kind", [list, tuple])
    @pytest.mark.parametrize("interval", [1, 2])
    def test_the_callers_list_is_not_changed(self, kind, interval):
        """diffusers pops them off."""
        model, controls = self.cached(SkipCacheConfig(interval=interval)), kind(self.controls())
        before = [control.clone() for control in controls]
        for timestep in (900, 800):
            sample(model, self.inputs(timestep) | {"controlnet_block_samples": controls})
        assert_equal(controls, before)

    @pytest.mark.parametrize("branch", [0, 1, 2])
    def test_a_cached_step_uses_exactly_the_outer_ones(self, branch):
        """Each is spoiled in turn: only where it is used, the output is spoiled."""
        felt = []
        for spoiled in range(3):
            model, controls = self.cached(SkipCacheConfig(interval=2, branch=branch)), self.controls()
            sample(model, self.inputs(900) | {"controlnet_block_samples": controls})
            controls[spoiled] = torch.full_like(controls[spoiled], torch.nan)
            felt.append(bool(sample(model, self.inputs(800) | {"controlnet_block_samples": controls}).isnan().any()))
        assert felt == [index < branch for index in range(3)]

    @pytest.mark.parametrize("number", [0, 2, 4])
    def test_another_number_of_them_is_refused(self, model, number):
        controls = [torch.zeros(2, 4, 16)] * number
        message = f"controlnet_block_samples are {number}: this model has 3 skips, one each"
        with pytest.raises(ValueError, match=message):
            sample(model, self.inputs(500) | {"controlnet_block_samples": controls})


class TestBadArchitecture:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"num_layers": 0}, "depth is 0: it must be at least 1"),
            ({"num_skips": -1}, "num_skips is -1: depth 6 has room for 0 to 3"),
            ({"num_skips": 4}, "num_skips is 4: depth 6 has room for 0 to 3"),
            ({"hidden_size": 18}, "hidden_size is 18 and num_attention_heads x attention_head_dim 16: make them equal"),
            ({"attention_head_dim": 6, "hidden_size": 12}, "attention_head_dim is 6: rotations need a multiple of 4"),
            ({"cross_attention_dim_t5": 12}, "cross_attention_dim_t5 is 12: the pooler's 8 heads need a multiple"),
            ({"norm_type": "rms"}, "norm_type is 'rms': HunyuanDiT has 'layer_norm' alone"),
            ({"rotary": "none"}, "rotary is 'none': take one of exact, given"),
            ({"prediction_type": "x"}, "prediction_type is 'x': take one of"),
            ({"sample_size": 5}, "image is 5 x 5: both sides must be multiples of the patch size 2"),
            ({"sample_size": 0}, "sample_size is 0: it must be at least 1"),
            ({"patch_size": 0}, "patch_size is 0: it must be at least 1"),
            ({"in_channels": 0}, "in_channels is 0: it must be at least 1"),
            ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be at least 1"),
            ({"attention_head_dim": 0}, "attention_head_dim is 0: it must be at least 1"),
            ({"text_len": 0}, "text_len is 0: it must be at least 1"),
            ({"text_len_t5": 0}, "text_len_t5 is 0: it must be at least 1"),
        ],
    )
    def test_a_setting_out_of_bounds_names_value_and_bound_in_one_line(self, config, message):
        with pytest.raises(ValueError, match=message) as error:
            HunyuanDiT(**HUNYUAN_SIZES | {"num_layers": 6} | config)
        assert "\n" not in str(error.value)


BAD_INPUTS = [
    ({"hidden_states": torch.zeros(2, 4, 4, 5)}, "image is 4 x 5: both sides must be multiples of the patch size 2"),
    ({"encoder_hidden_states": torch.zeros(2, 6, 12)}, r"encoder_hidden_states has shape \(2, 6, 12\) .* 5 tokens"),
    ({"text_embedding_mask": torch.ones(2, 4)}, r"its mask \(2, 4\): this model takes 5 tokens"),
    ({"text_embedding_mask": torch.ones(1, 5)}, r"its mask \(1, 5\)"),
    ({"encoder_hidden_states_t5": torch.zeros(2, 6, 8)}, r"encoder_hidden_states_t5 has shape \(2, 6, 8\) .* 7 tokens"),
    ({"text_embedding_mask_t5": torch.ones(2, 8)}, r"its mask \(2, 8\): this model takes 7 tokens"),
    (
        {  # as many in all, but not of each
            "encoder_hidden_states": torch.zeros(2, 4, 12), "text_embedding_mask": torch.ones(2, 4),
            "encoder_hidden_states_t5": torch.zeros(2, 8, 8), "text_embedding_mask_t5": torch.ones(2, 8),
        },
        r"encoder_hidden_states has shape \(2, 4, 12\) and its mask \(2, 4\): this model takes 5 tokens",
    ),
]  # fmt: skip


class TestBadInputs(HunyuanDiTSubject):
    @pytest.mark.parametrize(("change", "message"), BAD_INPUTS)
    @pytest.mark.parametrize("cached", [True, False])
    def test_what_does_not_fit_the_model_is_named_in_one_line(self, model, change, message, cached):
        if cached:
            model.enable_cache(SkipCacheConfig())
        with pytest.raises(ValueError, match=message) as error:
            sample(model, self.inputs(500) | change)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("missing", ["image_meta_size", "style"])
    def test_version_1_1_needs_sizes_and_style(self, missing):
        subject = Version11()
        inputs = {name: value for name, value in subject.inputs(500).items() if name != missing}
        with pytest.raises(ValueError, match="image_meta_size or style is missing: .* needs both"):
            sample(subject.build(), inputs)

    def test_version_1_2_has_no_use_for_sizes_and_style(self, model):
        told = {"image_meta_size": torch.ones(2, 6), "style": torch.zeros(2, dtype=torch.long)}
        assert torch.equal(sample(model, self.inputs(500) | told), sample(model, self.inputs(500)))

    def test_padding_has_no_influence_on_the_text_but_on_its_pooling(self, model):
        """Published: masked states are replaced by a learned table, while the pooler sees all states of the T5."""
        inputs = self.inputs(500)
        for name, felt in (("encoder_hidden_states", False), ("encoder_hidden_states_t5", True)):
            padded = inputs[name].clone()
            padded[:, -1] += 1
            assert torch.equal(sample(model, inputs | {name: padded}), sample(model, inputs)) is not felt


class TestFolders(HunyuanDiTSubject):
    @pytest.mark.parametrize("config", [{}, {"num_skips": None}, {"depth": 7, "num_skips": 1}, {"rotary": "given"}])
    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_saving_and_loading_is_exact(self, config, low_cpu_mem_usage, tmp_path):
        model = self.build(**config)
        model.save_pretrained(tmp_path)
        loaded = HunyuanDiT.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert (loaded.depth, loaded.num_skips, loaded.config.rotary) == (
            model.depth, model.num_skips, model.config.rotary,
        )  # fmt: skip
        step = self.inputs(500) | {"image_rotary_emb": pipeline_tables(2, 2)}
        assert torch.equal(sample(loaded, step), sample(model, step))

    @pytest.mark.parametrize("version", [HunyuanDiTSubject, Version11])
    def test_example_inputs_are_those_of_a_call(self, version):
        model = version().build()
        inputs = model.example_inputs(3)
        assert sample(model, inputs).shape == (3, 8, 4, 4)
        assert inputs.keys() == version().inputs(500).keys()

    def test_example_inputs_have_tables_where_they_are_to_be_given(self):
        given, exact = (self.build(rotary=rotary) for rotary in ("given", "exact"))
        assert torch.equal(sample(given, given.example_inputs(2)), sample(exact, exact.example_inputs(2)))

    def test_the_price_is_the_same_wherever_tables_come_from(self):
        given, exact = (price(self.build(rotary=rotary), SkipCacheConfig()) for rotary in ("given", "exact"))
        assert given == exact
