"""HunyuanDiT by folder: models, whole pipelines, and what lends a model the rest of one."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from skipdit import HunyuanDiT, SkipCacheConfig
from skipdit.hub import CheckpointError, load_pipeline
from skipdit.hub.load import PUBLISHED, load_model, scheduler_for
from skipdit.hub.names import HUNYUAN
from skipdit.pipelines.schedulers import make_scheduler
from tests.models.subject import HUNYUAN_SIZES, randomised
from tests.pipelines.tiny import tiny, tiny_vae

SIZES = HUNYUAN_SIZES | {"text_len": 77, "text_len_t5": 256, "num_layers": 6}
WORDS = ("[PAD]", "[UNK]", "red", "blue", "apple", "</s>")
SCALED_V1_2 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.018}
Folder = str


def model_of(**changes) -> HunyuanDiT:
    return randomised(HunyuanDiT(**SIZES | {"num_skips": 2} | changes))


def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def eightfold_vae() -> AutoencoderKL:
    """As HunyuanDiTPipeline takes for granted where it lays out rotary tables."""
    return AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=2, latent_channels=4,
    ).eval()  # fmt: skip


def parts() -> dict:
    """All of a pipeline but its model and scheduler."""
    torch.manual_seed(0)
    few = {"vocab_size": len(WORDS), "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(hidden_size=12, intermediate_size=16, max_position_embeddings=80, **few)
    t5 = T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=len(WORDS))
    return {
        "vae": eightfold_vae(), "text_encoder": BertModel(bert).eval(), "tokenizer": words(),
        "text_encoder_2": T5EncoderModel(t5).eval(), "tokenizer_2": words(), "safety_checker": None,
        "feature_extractor": None,
    }  # fmt: skip


def published_folder(path: Path, *, scheduler: SchedulerMixin | None = None, **others) -> Folder:
    """As Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers is laid out, with diffusers' model in it."""
    theirs = HunyuanDiT2DModel(**SIZES, in_channels=4, patch_size=2)
    theirs.load_state_dict(model_of().state_dict())
    noise = make_scheduler("ddpm") if scheduler is None else scheduler
    pipe = HunyuanDiTPipeline(transformer=theirs, scheduler=noise, requires_safety_checker=False, **parts() | others)
    pipe.save_pretrained(path)
    return str(path)


def drawn(pipe: HunyuanDiTPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        "red apple", height=64, width=64, num_inference_steps=4, output_type="latent", use_resolution_binning=False,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip


# Models.


@pytest.mark.parametrize("styled", [False, True, None])
def test_a_folder_of_diffusers_model_is_a_hunyuan_dit(tmp_path, styled):
    """That says nothing of styles means to have them."""
    theirs = HunyuanDiT2DModel(
        **SIZES | {"use_style_cond_and_image_meta_size": styled is not False}, in_channels=4, patch_size=2
    )
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if styled is None:
        del config["use_style_cond_and_image_meta_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path))
    assert (type(model), model.num_skips, model.config.prediction_type) == (HunyuanDiT, 2, "v_prediction")
    state = theirs.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# Whole pipelines.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    return published_folder(tmp_path_factory.mktemp("published") / "pipeline", scheduler=DDPMScheduler(
        **SCALED_V1_2, prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1, clip_sample=False,
    ))  # fmt: skip


def test_a_published_folder_draws_in_diffusers_own_pipeline_what_it_draws_there(folder):
    ours, theirs = load_pipeline(folder), HunyuanDiTPipeline.from_pretrained(folder)
    assert isinstance(ours, HunyuanDiTPipeline)
    assert type(ours.transformer) is HunyuanDiT
    torch.testing.assert_close(drawn(ours), drawn(theirs), rtol=0, atol=1e-5)


def test_its_model_is_cached_and_saved_with_it(folder, tmp_path):
    pipe = load_pipeline(folder)
    uncached = drawn(pipe)
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    assert torch.equal(drawn(again), uncached)
    again.transformer.enable_cache(SkipCacheConfig(interval=2))
    assert not torch.equal(drawn(again), uncached)
    assert again.transformer.cache_stats()["default"].plan == "#.#."


def test_a_folder_without_a_safety_checker_asks_for_none(folder):
    index = json.loads(Path(folder, "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    pipe = load_pipeline(folder)
    assert (pipe.safety_checker, pipe.config.requires_safety_checker) == (None, False)


def test_a_safety_checker_stays_in_its_place(tmp_path):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=8))
    path = published_folder(tmp_path / "pipeline", safety_checker=checker, feature_extractor=CLIPImageProcessor())
    pipe = load_pipeline(path)
    assert type(pipe.safety_checker) is StableDiffusionSafetyChecker


# Noise.


@pytest.mark.parametrize(("styled", "beta_end"), [(False, 0.018), (True, 0.03)])
def test_a_bare_model_was_trained_with_the_noise_of_its_version(styled, beta_end):
    with torch.device("meta"):
        model = HunyuanDiT(**SIZES | {"use_style_cond_and_image_meta_size": styled})
    assert PUBLISHED[HunyuanDiT] == ("ddpm", 100)
    found = scheduler_for(model).config
    assert (found.beta_schedule, found.beta_start, found.beta_end) == ("scaled_linear", 0.00085, beta_end)
    assert (found.prediction_type, found.variance_type, found.steps_offset) == ("v_prediction", "fixed_small", 1)
    assert scheduler_for(model, "ddim", beta_end=0.02).config.beta_end == 0.02
    with pytest.raises(ValueError, match=r"betas go from 0\.00085 to 1: beta_end must lie above beta_start"):
        scheduler_for(model, beta_end=1)


def test_the_noise_of_a_folder_stays_whatever_the_sampler(tmp_path):
    """The small embedded one has DiT's linear betas; only who asks for others gets them."""
    path = published_folder(tmp_path / "pipeline", scheduler=make_scheduler("ddpm", prediction_type="epsilon"))
    pipe = load_pipeline(path, scheduler="dpmms")
    names = {None: "DDPM", "ddim": "DDIM", "dpmms": "DPMSolverMultistep", "euler": "EulerDiscrete"}
    found = {name: scheduler_for(pipe.transformer, name, folder=Path(path)) for name in names}
    assert pipe.scheduler.config == found["dpmms"].config
    assert {name: type(each).__name__ for name, each in found.items()} == {
        name: f"{kind}Scheduler" for name, kind in names.items()
    }
    for each in found.values():
        assert torch.equal(each.betas, torch.linspace(1e-4, 0.02, 1000))
        assert each.config.prediction_type == "epsilon"
    assert load_pipeline(path, beta_end=0.03).scheduler.config.beta_end == 0.03


def test_the_published_folder_says_what_its_version_does(folder):
    model, own = load_model(folder), Path(folder)
    for name in ("ddpm", "ddim", "dpm++"):
        assert scheduler_for(model, name, folder=own).config == scheduler_for(model, name).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_betas": [0.1, 0.2]}, "sets trained_betas: noise by num_train_timesteps, beta_schedule, "),
        ({"rescale_betas_zero_snr": True}, "sets rescale_betas_zero_snr"),
        ({"beta_end": None}, "lacks beta_end"),
    ],
)
def test_noise_that_not_every_sampler_can_take_over_is_refused(tmp_path, changes, message):
    make_scheduler("ddpm").save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(CheckpointError, match=message):
        scheduler_for(model_of(), folder=tmp_path)


# A model that comes without the rest.


@pytest.mark.parametrize("kept", ["folder", "original file"])
def test_a_base_lends_text_encoders_and_autoencoder(folder, tmp_path, kept):
    path, model = tmp_path / ("model" if kept == "folder" else "model.pt"), model_of()
    torch.save({"ema": HUNYUAN.to_original(model.state_dict())}, path) if kept != "folder" else model.save_pretrained(
        path
    )
    lent = load_pipeline(str(path), base=folder)
    assert torch.equal(drawn(lent), drawn(load_pipeline(folder)))


def test_an_autoencoder_of_its_own_goes_before(folder, tmp_path):
    torch.manual_seed(1)
    tiny_vae().save_pretrained(tmp_path / "vae")
    weights = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    found = load_pipeline(folder, vae=str(tmp_path / "vae")).vae.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_without_a_base_it_is_asked_for(tmp_path, folder):
    model_of().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="this model reads text of width 12: give base, the folder of a pipeline"):
        load_pipeline(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"base is .*nowhere.*model_index\.json"):
        load_pipeline(str(tmp_path / "model"), base=str(tmp_path / "nowhere"))
    tiny().save_pretrained(tmp_path / "dit")
    with pytest.raises(ValueError, match="base is .*: DiT takes no text"):
        load_pipeline(str(tmp_path / "dit"), base=folder)


def test_a_pipeline_of_another_kind_lends_nothing(tmp_path):
    model_of().save_pretrained(tmp_path / "model")
    (tmp_path / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    with pytest.raises(CheckpointError, match="holds a LattePipeline: HunyuanDiT takes its parts from a HunyuanDiTPip"):
        load_pipeline(str(tmp_path / "model"), base=str(tmp_path))
