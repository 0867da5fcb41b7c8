"""HunyuanDiT inside diffusers' unmodified HunyuanDiTPipeline and its ControlNet pipeline, which know nothing of it."""

import accelerate
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, HunyuanDiTControlNetPipeline, HunyuanDiTPipeline
from torch import Tensor
from transformers import BitsAndBytesConfig, T5EncoderModel

from skipdit import HunyuanDiT, SkipCacheConfig
from tests.models.subject import memories, raising, tensors_remembered
from tests.pipelines.tiny import PUBLISHED_NOISE, hunyuan_pipeline, tiny_controlnet, tiny_stock_hunyuan

SQUARE, WIDE = {"height": 32, "width": 32}, {"height": 32, "width": 64}
EVERY_STEP, EVERY_SECOND = SkipCacheConfig(interval=1), SkipCacheConfig(interval=2)
PUBLISHED = SkipCacheConfig.preset("text-to-image")


@pytest.fixture
def stock(tmp_path) -> HunyuanDiTPipeline:
    """A whole pipeline of tiny parts, as diffusers has it."""
    return hunyuan_pipeline(tmp_path, tiny_stock_hunyuan())


@pytest.fixture
def pipe(stock) -> HunyuanDiTPipeline:
    return in_rooms(stock)


def in_rooms(stock: HunyuanDiTPipeline, *, cache: SkipCacheConfig | None = None, **changes) -> HunyuanDiTPipeline:
    """Another pipeline of the same parts, whose transformer has three rooms."""
    parts = stock.components | {"transformer": HunyuanDiT.from_diffusers(stock.transformer, **changes)}
    made = type(stock)(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    if cache is not None:
        made.transformer.enable_cache(cache)
    return made


def images(pipe: HunyuanDiTPipeline, prompt="a red apple", *, steps: int = 4, seed: int = 0, **settings) -> np.ndarray:
    settings = SQUARE | {"output_type": "np", "guidance_scale": 5.0} | settings
    return pipe(
        prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), use_resolution_binning=False,
        **settings,
    ).images  # fmt: skip


class TestUncached:
    @pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
    def test_squares_are_those_of_the_stock_model(self, stock, guidance_scale):
        expected = images(stock, guidance_scale=guidance_scale)
        assert expected.shape == (1, 32, 32, 3)
        assert expected.std() > 0.01
        assert np.array_equal(images(in_rooms(stock), guidance_scale=guidance_scale), expected)

    @pytest.mark.parametrize("size", [WIDE, {"height": 64, "width": 32}])
    def test_other_sizes_are_those_of_the_stock_model_with_given_tables_alone(self, stock, size):
        expected = images(stock, **size)
        assert expected.shape == (1, size["height"], size["width"], 3)
        assert np.array_equal(images(in_rooms(stock, rotary="given"), **size), expected)
        assert not np.array_equal(images(in_rooms(stock), **size), expected)

    @pytest.mark.parametrize("size", [SQUARE, WIDE])
    def test_with_sizes_and_style_too(self, tmp_path, size):
        stock = hunyuan_pipeline(tmp_path, tiny_stock_hunyuan(use_style_cond_and_image_meta_size=True))
        assert np.array_equal(images(in_rooms(stock, rotary="given"), **size), images(stock, **size))

    def test_a_pipeline_whose_transformer_is_replaced_draws_the_same(self, stock):
        expected = images(stock)
        stock.transformer = HunyuanDiT.from_diffusers(stock.transformer)
        assert np.array_equal(images(stock), expected)

    def test_several_prompts_and_images_of_each(self, stock):
        asked = {"prompt": ["a red apple", "a blue cat"], "num_images_per_prompt": 2}
        ours = images(in_rooms(stock, cache=EVERY_STEP), **asked)
        assert ours.shape == (4, 32, 32, 3)
        assert np.array_equal(ours, images(stock, **asked))


class TestPlans:
    @pytest.mark.parametrize(("steps", "full", "cached"), [(50, 33, 17), (100, 67, 33)])
    def test_the_published_schedule(self, stock, steps, full, cached):
        pipe = in_rooms(stock, cache=PUBLISHED)
        images(pipe, steps=steps, output_type="latent", guidance_scale=1.0)
        stats = pipe.transformer.cache_stats()["default"]
        assert (stats.full, stats.cached) == (full, cached)
        timesteps = pipe.scheduler.timesteps.tolist()
        assert (timesteps[0], timesteps[-1]) == (1000 - 1000 // steps + 1, 1)
        before = [1000, *timesteps]
        expected = [step % 2 == 0 or timestep >= 700 or before[step] <= 50 for step, timestep in enumerate(timesteps)]
        assert stats.plan == "".join("#" if computes else "." for computes in expected)

    def test_text_is_worked_out_once_a_call(self, stock):
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        calls = []
        pipe.transformer.text_embedder.register_forward_hook(lambda *_: calls.append("text"))
        pipe.transformer.time_extra_emb.pooler.register_forward_hook(lambda *_: calls.append("pooler"))
        images(pipe)
        assert sorted(calls) == ["pooler", "text"]
        images(pipe)
        assert sorted(calls) == ["pooler"] * 2 + ["text"] * 2

    def test_a_callback_that_changes_the_prompt_is_heard(self, stock):
        """As for prompts that alternate: the new text is worked out from the step on at which it comes."""

        def change(pipe, step, timestep, tensors):
            return {"prompt_embeds": -tensors["prompt_embeds"]} if step == 1 else {}

        told = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        changed = images(in_rooms(stock, cache=EVERY_STEP), **told)
        assert np.array_equal(changed, images(stock, **told))
        assert not np.array_equal(changed, images(stock))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
class TestEveryCall:
    def test_computing_every_step_equals_the_stock_model(self, stock, guidance_scale):
        cached = in_rooms(stock, cache=EVERY_STEP)
        assert np.array_equal(*(images(each, guidance_scale=guidance_scale) for each in (cached, stock)))

    def test_a_second_call_is_the_same_and_a_cached_one_is_not_the_uncached(self, stock, guidance_scale):
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        first, second = (images(pipe, guidance_scale=guidance_scale) for _ in range(2))
        assert np.array_equal(first, second)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#."
        assert not memories(pipe.transformer)
        assert not np.array_equal(first, images(stock, guidance_scale=guidance_scale))

    @pytest.mark.parametrize("layer", [0, 3, 5])
    def test_a_call_after_one_that_failed_inside_the_model_is_as_fresh(self, stock, layer, guidance_scale):
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        failing = pipe.transformer.blocks[layer]
        with raising(failing, RuntimeError("out of memory")), pytest.raises(RuntimeError, match="out of memory"):
            images(pipe, guidance_scale=guidance_scale, seed=1)
        assert not tensors_remembered(pipe.transformer)
        fresh = in_rooms(stock, cache=EVERY_SECOND)
        assert np.array_equal(*(images(each, guidance_scale=guidance_scale) for each in (pipe, fresh)))

    @pytest.mark.parametrize("last", [0, 1, 2])
    def test_a_call_after_one_that_was_broken_off_between_steps_is_as_fresh(self, stock, last, guidance_scale):
        def stop(pipe, step, timestep, tensors):
            if step == last:
                raise KeyboardInterrupt
            return {}

        pipe = in_rooms(stock, cache=EVERY_SECOND)
        with pytest.raises(KeyboardInterrupt):
            images(pipe, "a blue cat", guidance_scale=guidance_scale, callback_on_step_end=stop)
        fresh = in_rooms(stock, cache=EVERY_SECOND)
        assert np.array_equal(*(images(each, guidance_scale=guidance_scale) for each in (pipe, fresh)))


def test_guidance_may_be_turned_on_and_off_between_calls(stock):
    pipe = in_rooms(stock, cache=EVERY_SECOND)
    for scale in (5.0, 1.0, 5.0):
        fresh = in_rooms(stock, cache=EVERY_SECOND)
        assert np.array_equal(*(images(each, guidance_scale=scale) for each in (pipe, fresh)))


class TestControlNet:
    @pytest.fixture
    def controlled(self, stock) -> HunyuanDiTControlNetPipeline:
        made = HunyuanDiTControlNetPipeline(
            **stock.components, controlnet=tiny_controlnet(), requires_safety_checker=False
        )
        made.set_progress_bar_config(disable=True)
        return made

    def drawn(self, pipe: HunyuanDiTControlNetPipeline, *, strength: float = 1.0, **settings) -> np.ndarray:
        """The pipeline samples the control's latents from no generator that it is given."""
        torch.manual_seed(0)
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        settings = SQUARE | {"output_type": "np"} | settings
        return pipe(
            "a red apple", control_image=image, controlnet_conditioning_scale=strength, num_inference_steps=4,
            generator=torch.Generator().manual_seed(0), use_resolution_binning=False, **settings,
        ).images  # fmt: skip

    def test_uncached_images_are_those_of_the_stock_model(self, controlled):
        expected = self.drawn(controlled)
        assert not np.array_equal(expected, self.drawn(controlled, strength=0.0))
        assert np.array_equal(self.drawn(in_rooms(controlled)), expected)

    def test_computing_every_step_equals_the_stock_model(self, controlled):
        assert np.array_equal(self.drawn(in_rooms(controlled, cache=EVERY_STEP)), self.drawn(controlled))

    def test_a_cached_run_works_and_feels_the_control(self, controlled):
        """The reference fails here: its cached steps pop one control and find others left."""
        pipe = in_rooms(controlled, cache=EVERY_SECOND)
        first, second = (self.drawn(pipe) for _ in range(2))
        assert np.array_equal(first, second)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#."
        assert not np.array_equal(first, self.drawn(controlled))
        assert not np.array_equal(first, self.drawn(pipe, strength=0.0))

    @pytest.mark.parametrize("branch", [0, 1])
    def test_a_cached_step_uses_exactly_the_outer_controls(self, controlled, branch):
        """Each is spoiled at cached steps in turn: where it is used, and only there, nothing is left of the image."""
        felt = []
        for spoiled in range(2):
            steps: list[int] = []

            def spoil(_, inputs, output, spoiled=spoiled, steps=steps):
                steps.append(len(steps))
                spoils = steps[-1] % 2 == 1
                controls = enumerate(output[0])
                return ([value * torch.nan if spoils and index == spoiled else value for index, value in controls],)

            hook = controlled.controlnet.register_forward_hook(spoil)
            config = SkipCacheConfig(interval=2, branch=branch)
            latents = self.drawn(in_rooms(controlled, cache=config), output_type="latent")
            hook.remove()
            assert len(steps) == 4
            felt.append(bool(latents.isnan().any()))
        assert felt == [index < branch for index in range(2)]


class TestLowMemory:
    """Weights elsewhere or narrower between their uses; what is drawn with them is the same."""

    OFFLOADS = [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]

    @pytest.mark.parametrize("version", [False, True])
    def test_sequential_offload(self, tmp_path, version):
        """Parameters are on no device between their uses: the pooler's and the padding's too."""
        stock = hunyuan_pipeline(tmp_path, tiny_stock_hunyuan(use_style_cond_and_image_meta_size=version))
        expected = images(in_rooms(stock, cache=EVERY_SECOND))
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        accelerate.cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
        assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}
        assert np.array_equal(images(pipe), expected)
        assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}

    @pytest.mark.parametrize("cache", [None, EVERY_SECOND])
    def test_the_pipelines_model_offload(self, stock, cache):
        pipe = in_rooms(stock, cache=cache)
        expected = images(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        assert hasattr(pipe.transformer, "_hf_hook")
        for _ in range(2):
            assert np.array_equal(images(pipe), expected)

    @pytest.mark.parametrize("cache", [None, EVERY_SECOND])
    def test_what_the_pipelines_sequential_offload_does(self, stock, cache):
        """Part by part: `enable_sequential_cpu_offload` itself asks for "cpu:0", at which accelerate fails."""
        pipe = in_rooms(stock, cache=cache)
        expected = images(pipe)
        for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer, pipe.vae):
            accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
        for _ in range(2):
            assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}
            assert np.array_equal(images(pipe), expected)

    def test_the_stock_model_takes_neither_offload(self, stock):
        with pytest.raises(ValueError, match="does not support group offloading"):
            stock.transformer.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
        accelerate.cpu_offload(stock.transformer, execution_device=torch.device("cpu"))
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            images(stock)

    @pytest.mark.parametrize("offload", OFFLOADS)
    def test_group_offload_to_disk(self, stock, offload, tmp_path):
        """What is in memory between the calls is spoiled: only what is read back from the disk can be right."""
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        expected = images(pipe)
        where = {"onload_device": torch.device("cpu"), "offload_to_disk_path": str(tmp_path / "weights")}
        pipe.transformer.enable_group_offload(**where, **offload)
        for tensor in pipe.transformer.parameters():
            tensor.data.fill_(torch.nan)
        assert np.array_equal(images(pipe), expected)

    def test_layerwise_casting(self, stock):
        pipe = in_rooms(stock)
        exact = images(pipe)
        pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        linears = [name for name, p in pipe.transformer.named_parameters() if p.dtype == torch.float8_e4m3fn]
        assert len(linears) > 100
        assert not [name for name in linears if "norm" in name or "pooler" in name or "pos_embed" in name]
        narrow = images(pipe)
        assert not np.array_equal(narrow, exact)
        assert np.abs(narrow - exact).mean() < 0.1
        pipe.transformer.enable_cache(EVERY_STEP)
        assert np.array_equal(images(pipe), narrow)

    def test_text_is_encoded_first_and_its_encoders_dropped(self, pipe, tmp_path):
        """As in docs/how-to-low-memory.md, where the T5 is read in 8 bits."""
        expected = images(pipe)
        pipe.save_pretrained(tmp_path / "whole")
        told = encoded(HunyuanDiTPipeline.from_pretrained(tmp_path / "whole", transformer=None, vae=None))
        nobody = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        drawing = HunyuanDiTPipeline.from_pretrained(tmp_path / "whole", **nobody)
        drawing.set_progress_bar_config(disable=True)
        assert isinstance(drawing.transformer, HunyuanDiT)
        assert np.array_equal(images(drawing, None, **told), expected)

    @pytest.mark.slow  # `make test-all` brings bitsandbytes
    def test_the_t5_reads_in_8_bits(self, pipe, tmp_path):
        pytest.importorskip("bitsandbytes")
        pipe.save_pretrained(tmp_path / "whole")
        eight_bits = T5EncoderModel.from_pretrained(
            tmp_path / "whole", subfolder="text_encoder_2", dtype=torch.bfloat16, device_map="cpu",
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        )  # fmt: skip
        kinds = {name.split(".")[-2]: weight.dtype for name, weight in eight_bits.encoder.named_parameters()}
        assert {name for name, kind in kinds.items() if kind == torch.int8} == {"q", "k", "v", "o", "wi_0", "wi_1"}
        assert kinds["wo"] == torch.bfloat16  # which transformers does not narrow
        parts = {"text_encoder_2": eight_bits, "transformer": None, "vae": None}
        told = encoded(HunyuanDiTPipeline.from_pretrained(tmp_path / "whole", **parts))
        narrow, exact = told["prompt_embeds_2"].float(), encoded(pipe)["prompt_embeds_2"]
        assert 0 < (narrow - exact).norm() < 0.05 * exact.norm()
        told = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in told.items()}
        drawn = images(pipe, None, **told)
        assert 0 < np.abs(drawn - images(pipe)).mean() < 0.05
        pipe.transformer.enable_cache(EVERY_STEP)
        assert np.array_equal(images(pipe, None, **told), drawn)


def encoded(pipe: HunyuanDiTPipeline) -> dict[str, Tensor]:
    """Text of both encoders, under the names of the pipeline's arguments."""
    told = {}
    with torch.no_grad():
        for index, suffix in enumerate(("", "_2")):
            text, negative, mask, negative_mask = pipe.encode_prompt("a red apple", text_encoder_index=index)
            told |= {f"prompt_embeds{suffix}": text, f"prompt_attention_mask{suffix}": mask}
            told |= {f"negative_prompt_embeds{suffix}": negative}
            told |= {f"negative_prompt_attention_mask{suffix}": negative_mask}
    return told


class TestFolders:
    @pytest.mark.parametrize("cls", [HunyuanDiTPipeline, DiffusionPipeline])
    def test_a_pipeline_is_saved_and_loaded_with_our_transformer(self, stock, cls, tmp_path):
        pipe = in_rooms(stock, cache=EVERY_SECOND)
        expected = images(in_rooms(stock))
        pipe.save_pretrained(tmp_path / "whole")
        loaded = cls.from_pretrained(tmp_path / "whole")
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is HunyuanDiTPipeline
        assert type(loaded.transformer) is HunyuanDiT
        assert not loaded.transformer.is_cache_enabled
        assert np.array_equal(images(loaded), expected)

    def test_the_transformer_of_a_stock_folder_is_read_as_ours(self, stock, tmp_path):
        expected = images(stock)
        stock.save_pretrained(tmp_path / "whole")
        ours = HunyuanDiT.from_pretrained(tmp_path / "whole", subfolder="transformer")
        loaded = HunyuanDiTPipeline.from_pretrained(tmp_path / "whole", transformer=ours)
        loaded.set_progress_bar_config(disable=True)
        assert np.array_equal(images(loaded), expected)


class TestPrecision:
    @pytest.fixture
    def seen(self, pipe) -> list[int]:
        """The timesteps that the model embeds."""
        told: list[int] = []
        embed = pipe.transformer.time_extra_emb.time_proj
        embed.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0][0].item()))
        return told

    def latents(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)

    def test_in_float16_timesteps_are_exact(self, pipe, seen):
        images(pipe.to(torch.float16), steps=20, output_type="latent")
        assert seen == pipe.scheduler.timesteps.tolist()

    def test_in_bfloat16_they_are_exact_where_latents_are_float32(self, pipe, seen):
        pipe.scheduler = DDIMScheduler(**PUBLISHED_NOISE)
        drawn = images(pipe.to(torch.bfloat16), steps=20, output_type="latent", latents=self.latents())
        assert seen == pipe.scheduler.timesteps.tolist()
        assert drawn.dtype == torch.float32
        assert drawn.isfinite().all()

    def test_in_bfloat16_float32_prompt_embeds_alone_do_not_help(self, pipe, seen):
        """The pipeline casts them to the type of the transformer, and takes that for latents and timesteps."""
        told = encoded(pipe)
        assert {told[name].dtype for name in told if name.endswith(("embeds", "embeds_2"))} == {torch.float32}
        pipe.transformer.to(torch.bfloat16)
        with pytest.warns(UserWarning, match="bfloat16"):
            images(pipe, None, steps=20, output_type="latent", **told)
        assert seen != pipe.scheduler.timesteps.tolist()

    def test_in_bfloat16_throughout_they_are_rounded_and_that_is_warned_of(self, pipe, seen):
        with pytest.warns(UserWarning, match="give it latents in float32"):
            images(pipe.to(torch.bfloat16), steps=20, output_type="latent")
        assert seen != pipe.scheduler.timesteps.tolist()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_half_precision_transformer_beside_a_float32_autoencoder_draws(self, pipe, seen, dtype):
        pipe.transformer.to(dtype)
        assert np.isfinite(images(pipe, steps=20, latents=self.latents())).all()
        assert seen == pipe.scheduler.timesteps.tolist()
