"""What enters a model: inputs of any precision, timesteps in any form, and folders that hold all of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.subject import Subject, in_dtype, sample

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Entries(Subject):
    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_a_folder_loads_in_the_dtype_that_is_asked_for(self, model, low_cpu_mem_usage, tmp_path):
        model.save_pretrained(tmp_path)
        for dtype in (torch.bfloat16, torch.float32):
            loaded = type(model).from_pretrained(tmp_path, torch_dtype=dtype, low_cpu_mem_usage=low_cpu_mem_usage)
            assert loaded.dtype == dtype
            assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
            output = sample(loaded, self.inputs(500))
            torch.testing.assert_close(output, sample(model, self.inputs(500)), rtol=0.1, atol=output.std().item())

    def test_inputs_are_cast_to_the_model_and_outputs_back(self, model):
        model.bfloat16()
        wide = self.inputs(500)
        narrow = sample(model, in_dtype(wide, torch.bfloat16))
        assert narrow.dtype == torch.bfloat16
        assert torch.equal(sample(model, wide), narrow.float())

    def test_one_timestep_stands_for_all_samples(self, model):
        expected = sample(model, self.inputs(500))
        for timestep in (500, 500.0, torch.tensor(500), torch.tensor([500])):
            assert torch.equal(sample(model, self.inputs(500) | {"timestep": timestep}), expected)
        with pytest.raises(ValueError, match="2 samples take 1 or 2"):
            sample(model, self.inputs(500) | {"timestep": torch.tensor([1, 2, 3])})

    @pytest.mark.parametrize("timesteps", [[500, 501], (500.0, 501.0), np.array([500, 501]), range(500, 502)])
    def test_timesteps_come_as_any_numbers(self, model, timesteps):
        expected = sample(model, self.inputs(500) | {"timestep": torch.tensor([500.0, 501.0])})
        assert torch.equal(sample(model, self.inputs(500) | {"timestep": timesteps}), expected)

    @pytest.mark.parametrize(
        "timestep",
        [
            None, "7", b"7", True, [True], [None], [], [1, 2, 3], [[1, 2]], {3}, -1, float("nan"), np.array(["a"]),
            torch.tensor([True]), torch.tensor([[1.0, 2.0]]), torch.tensor([500.0, -1.0]), torch.tensor([1j]),
        ],
    )  # fmt: skip
    def test_what_is_no_timestep_is_refused_in_one_line(self, model, timestep):
        with pytest.raises(ValueError, match=r"^timestep .*: (give|take|2 samples take 1 or 2) [^\n]*$"):
            sample(model, self.inputs(500) | {"timestep": timestep})

    def test_inputs_of_other_axes_or_channels_are_refused_in_one_line(self, model):
        noise = self.inputs(500)["hidden_states"]
        for wrong in (noise[0], torch.cat([noise, noise], dim=model.channel_dim), noise.numpy(), None):
            with pytest.raises(ValueError, match=r"^hidden_states .* takes a tensor \[B, [^\n]*C=4[^\n]*$"):
                sample(model, self.inputs(500) | {"hidden_states": wrong})

    @pytest.mark.parametrize("wrong", ["a dog", [1.5, 2.5]])
    def test_conditions_of_another_kind_are_refused_in_one_line(self, model, wrong):
        names = self.inputs(500).keys() - {"hidden_states", "timestep", "image_meta_size", "style"}
        assert names
        for name in names:
            with pytest.raises(ValueError, match=r"^[^\n]* is [^\n]*: give (a tensor|whole numbers)[^\n]*$"):
                sample(model, self.inputs(500) | {name: wrong})

    def test_a_dtype_is_named_or_refused(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert type(model).from_pretrained(tmp_path, torch_dtype="bf16").dtype == torch.bfloat16
        for dtype in ("nonsense", torch.int8, 16):
            with pytest.raises(ValueError, match=r"dtype is .*: take one of float32"):
                type(model).from_pretrained(tmp_path, dtype=dtype)

    def test_a_folder_without_all_weights_is_refused(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / WEIGHTS)
        lost = next(iter(tensors))
        del tensors[lost]
        save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
        with pytest.raises(ValueError, match=f"does not fit its config.json: 1 missing: {lost}"):
            type(model).from_pretrained(tmp_path)

    def test_a_folder_of_another_class_or_setting_is_refused(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        for change, message in (
            ({"_class_name": "DiTTransformer2DModel"}, "holds a DiTT"),
            ({"twisted": 1}, "sets twisted"),
        ):
            (tmp_path / "config.json").write_text(json.dumps(config | change))
            with pytest.raises(ValueError, match=message) as refused:
                type(model).from_pretrained(tmp_path)
            assert "\n" not in str(refused.value)

    def test_the_word_of_another_model_is_answered_with_its_own(self, model):
        for name, twin in (("depth", "num_layers"), ("num_heads", "num_attention_heads")):
            ours, theirs = (name, twin) if name in model.config else (twin, name)
            with pytest.raises(TypeError, match=f"{type(model).__name__} has no {theirs}: it is called {ours} there"):
                type(model)(**{theirs: 2})
