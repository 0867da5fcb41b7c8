"""A user's first run: 200 images in four folders, trained on, interrupted, resumed, drawn from."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipdit import DiT, Latte, load_pipeline
from skipdit.cli import INTERRUPTED
from skipdit.training import loop
from skipdit.videos import write_video
from tests.cli.conftest import contents
from tests.data.pictures import write_pictures
from tests.data.test_captions import write_captions
from tests.data.test_latents import autoencoder

TINY = (
    "train --data pictures --size S/4 --skips --model.hidden-size 24 --model.depth 4 --model.num-heads 2"
    " --model.num-skips 2 --steps 6 --batch-size 8 --log-every 1 --checkpoint-every 2 --preview-every 4"
    " --preview-steps 2 --precision fp32 --out runs/mine "
)
LENT = "train --data pictures --init fashion-dit --steps 2 --batch-size 4 --log-every 1 --preview-every 0 --out run "


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def here(skipdit, drawn):
    """The command, in a folder with 200 pictures."""
    shutil.copytree(drawn, "pictures")
    return skipdit


@pytest.fixture
def interrupted_at(monkeypatch):
    def arrange(step: int) -> None:
        noised_batch = loop.noised_batch

        def batch(run, **part):
            if run.step == step:
                monkeypatch.setattr(loop, "noised_batch", noised_batch)
                signal.raise_signal(signal.SIGINT)
            return noised_batch(run, **part)

        monkeypatch.setattr(loop, "noised_batch", batch)

    return arrange


def test_a_first_run_is_interrupted_resumed_and_drawn_from_by_class_name(here, interrupted_at):
    assert here(TINY.replace("runs/mine", "through")).code == 0
    interrupted_at(3)
    said = here(TINY)
    assert (said.code, said.complaint) == (INTERRUPTED, "interrupted; the same command goes on at step 4 of 6")
    said = here(TINY)
    assert (said.code, said.out) == (0, "runs/mine/model: 6 steps on pictures\n")
    left = contents()
    for path in ("loss.csv", "model/diffusion_pytorch_model.safetensors", "checkpoint-00000006/ema.safetensors"):
        assert left[f"runs/mine/{path}"] == left[f"through/{path}"]
    said = here("sample runs/mine --classes triangle circle --num-images 4 --steps 2 --cache.interval 2 --out drawn")
    assert said.code == 0
    assert Image.open("drawn/000000.png").size == (28, 28)
    assert json.loads(left["runs/mine/model/config.json"])["id2label"]["3"] == "triangle"


def test_an_unknown_class_names_those_that_there_are(here):
    here(TINY)
    assert "circle, cross, square, triangle" in here("sample runs/mine --classes ring").complaint


def test_a_model_of_your_own_is_as_large_and_as_coloured_as_the_images(here):
    here(TINY)
    config = DiT.from_pretrained("runs/mine/model", low_cpu_mem_usage=False).config
    assert (config.sample_size, config.in_channels, config.num_classes, config.num_skips) == (28, 3, 4, 2)


def test_grey_images_make_a_grey_model(here):
    for name in contents():
        Image.open(name).convert("L").save(name)
    here(TINY)
    assert DiT.from_pretrained("runs/mine/model", low_cpu_mem_usage=False).config.in_channels == 1


def test_a_pretrained_model_is_upcycled_for_the_data(here):
    said = here(LENT + "--upcycle 4")
    assert said.code == 0
    assert "fashion-dit lends its weights; new are the table of its 4 classes and 4 skips (fuse residual)" in said.err
    config = DiT.from_pretrained("run/model", low_cpu_mem_usage=False).config
    assert (config.num_skips, config.fuse, config.num_classes, config.in_channels) == (4, "residual", 4, 1)


def test_a_run_on_a_data_set_of_ones_own(skipdit):
    tiny = TINY.replace("--data pictures", "--data tests.data.own:two_dots").replace("S/4", "S/2")
    assert skipdit(tiny).code == 0
    assert DiT.from_pretrained("runs/mine/model", low_cpu_mem_usage=False).config.num_classes == 2


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (f"{TINY} --steps-total 3", "unknown setting --steps-total: did you mean"),
        (f"{TINY} --size M/2", "unknown size 'M/2'"),
        (f"{TINY} --model.num-skips 3", "num_skips is 3: depth 4 has room for 0 to 2 skips"),
        (f"{TINY} --image-size 30", "image is 30 x 30: both sides must be multiples of the patch size 4"),
        (f"{TINY} --upcycle 2", "upcycle is 2 without init"),
        (f"{TINY} --data nowhere", "nowhere is no folder"),
        (f"{TINY} --data nowhere:nothing", "dataset 'nowhere:nothing' cannot be imported"),
        (f"{LENT} --skips 4", "init is fashion-dit beside skips, which it settles"),
        (f"{LENT} --size S/2", "init is fashion-dit beside size, which it settles"),
        (f"{LENT} --init fashion-skip --upcycle 4", "upcycle is 4: init has 4 skips already, leave it out"),
        (f"{LENT} --fuse replace", "fuse is replace without upcycle"),
        (f"{LENT} --init captioned-digits-latte", "init captioned-digits-latte is a LatteT2V, which draws from text"),
        (f"{LENT} --init moving-digits-latte", "init moving-digits-latte is a Latte, the model a DiT"),
        (f"{LENT} --model.hidden-size 64", "init fashion-dit has hidden_size 128 (the model: 64)"),
        (f"{LENT} --init fashion-dot", "unknown model 'fashion-dot': did you mean fashion-dit"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(here, flags, complaint):
    before = contents()
    said = here(flags)
    assert said.complaint.startswith(complaint)
    assert said.code in (1, 2)
    assert contents() == before


def test_a_loss_that_is_not_a_number_keeps_the_last_good_checkpoint(here):
    said = here(TINY + "--learning-rate 1e30")
    assert "lower learning_rate" in said.complaint
    assert not [path for path in contents() if path.startswith("runs/mine/model")]


def test_help_says_where_the_other_settings_are_listed(here, capfd):
    with pytest.raises(SystemExit):
        here("train --data pictures --help")
    assert "skipdit train digits --help" in " ".join(capfd.readouterr().out.replace("│", " ").split())


# Videos.


def write_videos():
    draw = np.random.default_rng(0)
    for name in ("run/a.mkv", "jump/b.mkv"):
        Path("clips", name).parent.mkdir(parents=True)
        write_video(draw.integers(0, 256, (12, 20, 24, 3)).astype(np.uint8), Path("clips", name), fps=8)


def test_a_folder_of_videos_trains_a_latte_that_draws(skipdit):
    write_videos()
    said = skipdit(
        "train --data clips --frames 4 --interval 1 --image-size 16 --size S/8 --skips --model.hidden-size 24"
        " --model.num-heads 2 --model.depth 2 --model.num-skips 1 --steps 2 --batch-size 2 --log-every 1"
        " --checkpoint-every 1 --preview-every 2 --preview-steps 2 --out run"
    )
    assert (said.code, said.out) == (0, "run/model: 2 steps on clips\n")
    assert skipdit("sample run --classes jump --steps 2 --out drawn.gif").code == 0
    assert Latte.from_pretrained("run/model", low_cpu_mem_usage=False).config.num_frames == 4


def test_folders_of_frames_without_classes_train_an_unconditional_latte(skipdit):
    write_pictures(Path("pictures"), each=6)
    said = skipdit(
        "train --data pictures --frames 4 --interval 1 --unlabelled --image-size 16 --size S/8 --model.hidden-size 24"
        " --model.num-heads 2 --model.depth 2 --model.num-skips 1 --steps 2 --batch-size 2 --log-every 1"
        " --checkpoint-every 1 --preview-every 2 --preview-steps 2 --out run"
    )
    assert said.code == 0
    assert skipdit("sample run --steps 2 --num-images 2 --guidance-scale 1 --out drawn.gif").code == 0


# Latents.


def test_a_folder_is_encoded_trained_on_and_drawn_from(here):
    autoencoder().save_pretrained("vae")
    autoencoder(seed=1).save_pretrained("other")
    said = here("data encode pictures --vae vae --image-size 16 --out latents")
    assert said.out.startswith("latents: 400 latents, encoded at ")
    run = (
        "train --data latents --size S/2 --model.hidden-size 24 --model.num-heads 2 --model.depth 2 --model.num-skips 1"
        " --steps 2 --batch-size 4 --log-every 1 --checkpoint-every 1 --preview-steps 2 --out run --vae "
    )
    assert here(run + "other").complaint.startswith("vae other is not the autoencoder that made these latents")
    assert not Path("run").exists()
    assert here(run + "vae --preview-every 2").code == 0
    assert Image.open("run/previews/00000002.png")
    assert "give the vae" in here("sample run --steps 2 --out drawn").complaint
    assert here("sample run --vae vae --classes cross --steps 2 --out drawn").code == 0
    assert Image.open("drawn/000000.png").size == (16, 16)


def test_latents_of_videos_train_a_latte(skipdit):
    write_videos()
    autoencoder().save_pretrained("vae")
    encode = "data encode clips --vae vae --frames 4 --interval 1 --image-size 16 --no-flip --out latents"
    assert skipdit(encode).code == 0
    said = skipdit(
        "train --data latents --vae vae --size S/4 --model.hidden-size 24 --model.num-heads 2 --model.depth 2"
        " --model.num-skips 1 --steps 2 --batch-size 2 --log-every 1 --checkpoint-every 1 --preview-every 2"
        " --preview-steps 2 --out run"
    )
    assert said.code == 0, said.err
    assert skipdit("sample run --vae vae --classes jump --steps 2 --out drawn.gif").code == 0


def test_an_autoencoder_beside_images_says_how_to_encode_them(here):
    said = here("train --data pictures --vae sd-vae-ft-mse")
    assert "run `skipdit data encode pictures --vae sd-vae-ft-mse --out latents`" in said.complaint


# Captions.


def test_images_with_captions_train_a_model_that_draws_from_a_prompt(here):
    write_captions(Path("pictures"))
    run = (
        "train --data pictures --model.num-layers 4 --model.num-skips 1 --model.num-attention-heads 2"
        " --model.attention-head-dim 16 --steps 2 --batch-size 2 --log-every 1 --checkpoint-every 1 --preview-every 2"
        " --preview-steps 2 --precision fp32 --out run "
    )
    assert here(run + "--size S/2").complaint.startswith("size is S/2, which a model of captions does not take")
    assert here(run + "--image-size 32").complaint.startswith("image_size is 32: a model of captions takes multiples")
    assert here(run).code == 0
    said = here("sample run --prompt circle --steps 2 --scheduler ddim --out drawn.png")
    assert said.code == 0, said.err
    assert load_pipeline("run").scheduler.config.beta_schedule == "linear"


def test_the_embedded_model_of_text_goes_on_with_captions_of_ones_own(here):
    write_captions(Path("pictures"))
    said = here(
        "train --data pictures --init emoji-hunyuan --steps 1 --batch-size 2 --log-every 1 --checkpoint-every 1"
        " --preview-every 0 --out run"
    )
    assert said.code == 0, said.err
    assert here("train --data pictures --init fashion-dit").complaint.startswith("init fashion-dit is a DiT: captions")
