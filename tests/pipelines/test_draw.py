"""What `draw` would refuse is refused by `check`, whoever asks; and how long a prompt is."""

import pytest
from diffusers import DiffusionPipeline, LattePipeline

from skipdit.data.text import MAX_TOKENS, minilm
from skipdit.pipelines import PixelAutoencoder
from skipdit.pipelines.draw import Settings, check, draw, text_tokens
from skipdit.pipelines.schedulers import make_scheduler
from tests.pipelines.tiny import tiny_latte_t2v, tiny_vae, video_pipeline


def by_text(*, vae=None, **config) -> LattePipeline:
    model = tiny_latte_t2v(caption_channels=384, **config)
    return LattePipeline(*minilm(), vae or PixelAutoencoder(latent_channels=1), model, make_scheduler("ddim"))


@pytest.fixture(scope="module")
def pipeline() -> LattePipeline:
    return by_text()


LONG = "dog " * (MAX_TOKENS - 1)  # and the two special ones

TEXT = {
    "guidance_scale is 0.5: a model of text takes 1": Settings(guidance_scale=0.5),
    "guidance_channels is 3, for which a model of text has no use": Settings(guidance_channels=3),
    "negative_prompt is 'bad' at guidance_scale 1": Settings(guidance_scale=1, negative_prompt="bad"),
    "negative_prompt 'dog dog .*' has 121 tokens, more than 120": Settings(negative_prompt=LONG),
    "video has 4 frames: .* for 1 to 3": Settings(num_frames=4),
    "video has 0 frames: .* for 1 to 3": Settings(num_frames=0),
    "decode_chunk_size is 0: it must be at least 1": Settings(decode_chunk_size=0),
    "side 12 is not a multiple of 8 above 0": Settings(height=16, width=12),
    "side 0 is not a multiple of 8 above 0": Settings(height=0),
}


@pytest.mark.parametrize("message", TEXT)
def test_what_a_text_pipeline_would_refuse_or_leave_out_is_refused(pipeline, message):
    with pytest.raises(ValueError, match=message):
        check(pipeline, ["dog"], TEXT[message])


def test_a_prompt_that_would_be_cut_off_is_refused(pipeline):
    check(pipeline, ["dog", LONG[4:]], Settings())
    with pytest.raises(ValueError, match=r"prompt 'dog dog .*' has 121 tokens, more than 120: shorten it"):
        check(pipeline, ["dog", LONG], Settings())


def test_a_vae_of_other_latents_is_refused():
    with pytest.raises(ValueError, match="the model draws 1 channels, its vae takes 4: give the vae of its latents"):
        check(by_text(vae=tiny_vae()), ["dog"], Settings())


@pytest.mark.parametrize("frames", [0, 4])
def test_a_video_longer_than_the_model_is_refused(frames):
    check(video_pipeline(), [1], Settings(num_frames=3))
    with pytest.raises(ValueError, match=f"video has {frames} frames: this model has temporal positions for 1 to 3"):
        check(video_pipeline(), [1], Settings(num_frames=frames))


def test_a_video_is_checked_as_whatever_has_classes():
    with pytest.raises(ValueError, match="class id 11 is out of range"):
        check(video_pipeline(), [11], Settings())


@pytest.mark.parametrize("asked", [check, lambda *call: draw(*call[:2], [], call[2])])
def test_a_pipeline_that_is_none_of_ours_is_refused(asked):
    with pytest.raises(ValueError, match="DiffusionPipeline is no pipeline that this draws with"):
        asked(DiffusionPipeline(), ["dog"], Settings())


def test_a_prompt_has_the_tokens_that_the_model_sees(pipeline):
    """LattePipeline lowers and strips it, and reads no more than 120 of them."""
    assert text_tokens(pipeline, ["a dog"]) == 4
    assert text_tokens(pipeline, ["a dog", "a small dog"]) == round((4 + 5) / 2)
    assert text_tokens(pipeline, [LONG]) == MAX_TOKENS
    assert text_tokens(video_pipeline(), [1]) is None


def test_a_prompt_is_counted_as_the_pipeline_writes_it(tmp_path):
    """In small letters, also for a tokenizer that tells them from capitals."""
    tokenizer, text_encoder = minilm()
    tokenizer.save_pretrained(tmp_path)
    cased = type(tokenizer).from_pretrained(tmp_path, do_lower_case=False)
    assert len(cased("SKIPDIT").input_ids) < len(cased("skipdit").input_ids)
    model = tiny_latte_t2v(caption_channels=384)
    pipeline = LattePipeline(cased, text_encoder, PixelAutoencoder(latent_channels=1), model, make_scheduler("ddim"))
    assert text_tokens(pipeline, [" SKIPDIT "]) == len(cased("skipdit").input_ids)
