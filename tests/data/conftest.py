"""What tests of captions share: diffusers' text-to-video pipeline around our text encoder, without a denoiser."""

import pytest


@pytest.fixture(scope="session")
def latte():
    from diffusers import DDIMScheduler, LattePipeline

    from skipdit.data.text import minilm

    tokenizer, model = minilm()
    return LattePipeline(tokenizer, model, vae=None, transformer=None, scheduler=DDIMScheduler())
