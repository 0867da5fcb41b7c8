"""A plan inside pipelines that know nothing of it: diffusers' own, unmodified, around tiny random weights."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LattePipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)

from skipdit import DiT
from skipdit.pipelines import PixelAutoencoder
from skipdit.tuning import TunedScheduler
from skipdit.tuning.fit import Recorder, fitter_for, teacher_for
from skipdit.tuning.scheduler import base_config
from tests.pipelines.tiny import drawn, hunyuan_pipeline, tiny_latte_t2v, tiny_stock_hunyuan, tiny_vae

STEPS = 6
NOTHING = dict.fromkeys(("text_encoder", "tokenizer", "vae"))


def dit():
    model = drawn(DiT(sample_size=4, hidden_size=16, depth=4, num_heads=2, num_skips=2), seed=0)
    return DiTPipeline(transformer=model, vae=tiny_vae(), scheduler=DDIMScheduler(clip_sample=False)), {
        "class_labels": [3, 7], "output_type": "np",
    }  # fmt: skip


def latte():
    pipe = LattePipeline(
        tokenizer=None, text_encoder=None, vae=PixelAutoencoder(latent_channels=1), transformer=tiny_latte_t2v(),
        scheduler=DDIMScheduler(clip_sample=False),
    )  # fmt: skip
    text, no_text = torch.randn(2, 2, 5, 12, generator=torch.Generator().manual_seed(0))
    return pipe, {
        "prompt": None, "negative_prompt": None, "prompt_embeds": text, "negative_prompt_embeds": no_text,
        "video_length": 3, "height": 8, "width": 8, "output_type": "latent",
    }  # fmt: skip


def flux():
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipe = FluxPipeline(
        **NOTHING, text_encoder_2=None, tokenizer_2=None, transformer=drawn(model, seed=0), scheduler=scheduler
    )
    return pipe, {
        "prompt_embeds": torch.ones(2, 3, 16), "pooled_prompt_embeds": torch.ones(2, 16), "height": 64, "width": 64,
        "output_type": "latent",
    }  # fmt: skip


def sd3():
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=16, out_channels=4,
    )  # fmt: skip
    others = dict.fromkeys(("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(**NOTHING, **others, transformer=drawn(model, seed=0), scheduler=scheduler)
    text, pooled = torch.ones(2, 3, 32), torch.ones(2, 16)
    return pipe, {
        "prompt_embeds": text, "negative_prompt_embeds": -text, "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": -pooled, "height": 64, "width": 64, "output_type": "latent",
    }  # fmt: skip


def wan():
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipe = WanPipeline(**NOTHING, transformer=drawn(model, seed=0), scheduler=scheduler)
    text = torch.ones(2, 3, 32)
    return pipe, {
        "prompt_embeds": text, "negative_prompt_embeds": -text, "height": 32, "width": 32, "num_frames": 5,
        "output_type": "latent",
    }  # fmt: skip


def hunyuan(folder):
    pipe = hunyuan_pipeline(folder, tiny_stock_hunyuan(), scheduler=DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, beta_schedule="scaled_linear", timestep_spacing="leading",
        steps_offset=1,
    ))  # fmt: skip
    return pipe, {
        "prompt": ["a red apple", "a cat"], "height": 64, "width": 64, "use_resolution_binning": False,
        "output_type": "latent",
    }  # fmt: skip


@pytest.fixture(params=[dit, latte, hunyuan, flux, sd3, wan], ids=lambda make: make.__name__)
def drawing(request, tmp_path):
    """A function that draws by a scheduler, how often it has called the model, and the pipeline's own scheduler."""
    pipe, settings = request.param(tmp_path) if request.param is hunyuan else request.param()
    pipe.set_progress_bar_config(disable=True)
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))

    def draw(scheduler):
        calls.clear()
        pipe.scheduler = scheduler
        noise = [torch.Generator().manual_seed(seed) for seed in range(2)]
        return torch.as_tensor(pipe(**settings, generator=noise, num_inference_steps=STEPS, return_dict=False)[0])

    return draw, calls, pipe.scheduler


def test_every_step_computed_is_the_pipeline_as_it_was(drawing):
    draw, _, scheduler = drawing
    expected = draw(scheduler)
    teacher = teacher_for(scheduler, STEPS)
    assert torch.equal(draw(teacher), expected)
    plan = TunedScheduler(base_config(scheduler), teacher.grid, list(range(STEPS)))
    assert torch.equal(draw(plan), expected)


def test_a_fitted_plan_saves_calls_and_draws_the_same_bits_again(drawing, tmp_path):
    draw, calls, scheduler = drawing
    teacher = teacher_for(scheduler, STEPS)
    draw(teacher)
    every = len(calls)
    fitter = fitter_for(teacher, [0, 2, 3], teacher.rollout.trajectory)
    fitted = draw(fitter)
    plan = TunedScheduler(base_config(scheduler), teacher.grid, [0, 2, 3], fitter.weights)
    assert torch.equal(draw(plan), fitted)
    assert 2 * len(calls) == every
    plan.save_pretrained(tmp_path / "plan")
    assert torch.equal(draw(TunedScheduler.from_pretrained(tmp_path / "plan")), fitted)


def test_a_fitted_plan_is_nearer_than_its_forecast_on_the_noise_that_it_was_fitted_to(drawing):
    draw, _, scheduler = drawing
    teacher = teacher_for(scheduler, STEPS)
    draw(teacher)
    fitter = fitter_for(teacher, [0, 2, 3], teacher.rollout.trajectory)
    draw(fitter)
    draw(forecast := teacher_like(teacher, [0, 2, 3]))
    end = teacher.rollout.end
    assert (fitter.rollout.end - end).norm() < (forecast.rollout.end - end).norm()


def teacher_like(teacher, computed):
    """Records a plan without corrections."""
    return Recorder(base_config(teacher.base), teacher.grid, computed)
