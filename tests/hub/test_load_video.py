"""Video models by folder: the pipeline that a model takes, and where a text model finds its text encoder."""

import pytest
import torch
from diffusers import LattePipeline

from skipdit import LatteT2V
from skipdit.data.text import minilm
from skipdit.hub import load_pipeline
from skipdit.pipelines import ClassToVideoPipeline, PixelAutoencoder
from skipdit.pipelines.draw import Settings, draw
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator
from tests.pipelines.tiny import tiny_latte, tiny_latte_t2v, tiny_vae

PROMPTS = ["the digit eight moving upwards", "a 3 moving left"]


def reader_of_minilm(**config) -> LatteT2V:
    return tiny_latte_t2v(caption_channels=384, **config)


def clips_of(pipe, subjects) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    noise = [generator(0, index) for index in range(len(subjects))]
    return draw(pipe, subjects, noise, Settings(steps=3, guidance_scale=2.0))


def test_a_latte_folder_is_a_class_to_video_pipeline(tmp_path):
    model = tiny_latte()
    model.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), scheduler="ddim")
    assert isinstance(loaded, ClassToVideoPipeline)
    assert torch.equal(clips_of(loaded, [1, 2]), clips_of(ClassToVideoPipeline(model, make_scheduler("ddim")), [1, 2]))


@pytest.fixture
def text_model(tmp_path):
    model = reader_of_minilm()
    model.save_pretrained(tmp_path / "model")
    return model, str(tmp_path / "model")


def in_latte_pipeline(model: LatteT2V) -> LattePipeline:
    tokenizer, text_encoder = minilm()
    vae = PixelAutoencoder(latent_channels=1)
    return LattePipeline(tokenizer, text_encoder, vae, model, make_scheduler("ddim"))


def test_a_text_model_of_minilms_width_brings_minilm_and_pixels(text_model):
    model, folder = text_model
    loaded = load_pipeline(folder, scheduler="ddim")
    assert isinstance(loaded, LattePipeline)
    assert torch.equal(clips_of(loaded, PROMPTS), clips_of(in_latte_pipeline(model), PROMPTS))


def test_a_base_lends_text_encoder_and_autoencoder(text_model, tmp_path):
    model, folder = text_model
    in_latte_pipeline(reader_of_minilm(num_skips=0)).save_pretrained(tmp_path / "base")
    loaded = load_pipeline(folder, scheduler="ddim", base=str(tmp_path / "base"))
    assert loaded.transformer.num_skips == 2
    assert torch.equal(clips_of(loaded, PROMPTS), clips_of(in_latte_pipeline(model), PROMPTS))


def test_a_text_pipeline_folder_brings_everything(text_model, tmp_path):
    model, _ = text_model
    in_latte_pipeline(model).save_pretrained(tmp_path / "pipeline")
    loaded = load_pipeline(str(tmp_path / "pipeline"), scheduler="ddim")
    assert torch.equal(clips_of(loaded, PROMPTS), clips_of(in_latte_pipeline(model), PROMPTS))


def test_a_prompt_of_several_draws_what_it_draws_alone(text_model):
    """Whatever the lengths of the prompts beside it: no padding is attended to."""
    pipe = in_latte_pipeline(text_model[0])
    together = clips_of(pipe, PROMPTS)
    torch.testing.assert_close(together[:1], clips_of(pipe, PROMPTS[:1]), rtol=0, atol=1e-5)


def test_a_text_model_of_another_width_asks_for_its_base(tmp_path):
    tiny_latte_t2v().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reads text of width 12: give base"):
        load_pipeline(str(tmp_path))


def test_a_text_model_lends_no_variance(text_model):
    """LattePipeline guides all channels that it keeps, and a guided variance is far out of its bounds."""
    loaded = load_pipeline(text_model[1], scheduler="ddpm")
    assert loaded.transformer.config.out_channels == 2 * loaded.transformer.config.in_channels
    assert loaded.scheduler.config.variance_type == "fixed_small"


def test_a_model_comes_with_its_published_scheduler(text_model, tmp_path):
    tiny_latte(out_channels=2).save_pretrained(tmp_path / "latte")
    of_text, of_classes = (load_pipeline(path).scheduler for path in (text_model[1], str(tmp_path / "latte")))
    assert (type(of_text).__name__, of_text.config.timestep_spacing) == ("DDIMScheduler", "leading")
    assert (type(of_classes).__name__, of_classes.config.variance_type) == ("DDPMScheduler", "learned_range")


def test_a_base_that_is_no_pipeline_and_one_that_is_not_taken_are_refused(text_model, tmp_path):
    with pytest.raises(ValueError, match=r"base is .*nowhere.*model_index.json"):
        load_pipeline(text_model[1], base=str(tmp_path / "nowhere"))
    tiny_latte().save_pretrained(tmp_path / "latte")
    with pytest.raises(ValueError, match="base is .*: Latte takes no text; give its vae alone"):
        load_pipeline(str(tmp_path / "latte"), base=text_model[1])


def test_a_vae_is_taken_from_where_it_is_named(tmp_path):
    tiny_latte(in_channels=4).save_pretrained(tmp_path / "model")
    tiny_vae().save_pretrained(tmp_path / "vae")
    loaded = load_pipeline(str(tmp_path / "model"), scheduler="ddim", vae=str(tmp_path / "vae"))
    assert clips_of(loaded, [1]).shape[-3] == 3
