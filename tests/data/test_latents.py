"""A latent cache: what the autoencoder says, written once; it resumes, is shared, and knows whose it is."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from skipdit.data import Clips, Crop, image_folder, latents, video_folder
from skipdit.data.image_folder import Images
from skipdit.data.latents import check_autoencoder, encode, fingerprint, posterior
from skipdit.videos import write_video
from tests.data.pictures import write_pictures

ROOT = Path(__file__).parents[2]


def autoencoder(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**settings | blocks | changes).eval()


@pytest.fixture(scope="module")
def vae():
    return autoencoder()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Images:
    return image_folder(write_pictures(tmp_path_factory.mktemp("pictures"), each=3), Crop(16, flip=True))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("skipdit.data.latents.SHARD", 5)


def test_a_cache_holds_the_posterior_of_every_image_and_its_mirror(tmp_path, vae, images, small_shards):
    encode(images, tmp_path, vae, batch_size=4)
    cache, everything = latents.latents(tmp_path), torch.arange(24)
    mean, std = posterior(vae, images.x_0(everything))
    torch.testing.assert_close(cache.read("mean", everything), mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cache.read("std", everything), std, rtol=1e-3, atol=1e-3)
    assert cache.labels.tolist() == images.labels.repeat(2).tolist()
    assert cache.gives == {"in_channels": 4, "height": 8, "width": 8, "num_classes": 4}
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "index.json"
    assert len(list(tmp_path.glob("latents-*.safetensors"))) == 5


def test_samples_are_scaled_draws_of_the_posterior(tmp_path, vae, images):
    encode(images, tmp_path, vae)
    cache = latents.latents(tmp_path)
    index = torch.tensor([7])
    draws = torch.cat([cache.x_0(index + 24 * draw) for draw in range(4)]) / vae.config.scaling_factor
    assert len(cache) == 4 * 24
    assert torch.equal(cache.x_0(index), cache.x_0(index))
    assert not torch.equal(draws[0], draws[1])
    standard = (draws - cache.read("mean", index)) / cache.read("std", index)
    assert standard.mean().item() == pytest.approx(0, abs=0.15)
    assert standard.std().item() == pytest.approx(1, abs=0.1)


class Killed(Exception):
    pass


def test_an_encoding_that_was_stopped_goes_on_and_makes_no_shard_twice(tmp_path, vae, images, small_shards):
    encode(images, tmp_path / "through", vae, batch_size=4)
    counts = []

    def stop(count):
        counts.append(count)
        if len(counts) == 4:
            raise Killed

    with pytest.raises(Killed):
        encode(images, tmp_path / "stopped", vae, batch_size=4, on_batch=stop)
    with pytest.raises(ValueError, match=r"lacks 4 of 5 shards \(latents-00001.safetensors\): encode it to its end"):
        latents.latents(tmp_path / "stopped")
    counts.clear()
    encode(images, tmp_path / "stopped", vae, batch_size=4, on_batch=counts.append)
    assert sum(counts) == 24 - 5
    for path in (tmp_path / "through").iterdir():
        assert path.read_bytes() == (tmp_path / "stopped" / path.name).read_bytes()
    assert not list((tmp_path / "stopped").glob("*.lock"))


def worker(out, images, vae, *, dies: bool = False) -> subprocess.Popen:
    code = f"""
import os, signal, sys
from skipdit.data import Crop, image_folder
from skipdit.data import latents
from tests.data.test_latents import autoencoder
latents.SHARD = 2
done = []
def on_batch(count):
    done.append(count)
    if {dies} and len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
latents.encode(image_folder(__import__("pathlib").Path({str(images.source.root)!r}), Crop(16, flip=True)),
               __import__("pathlib").Path({str(out)!r}), autoencoder(), on_batch=on_batch)
print(sum(done))
"""
    places = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_share_the_shards_and_one_may_die(tmp_path, vae, images):
    killed = worker(tmp_path / "shared", images, vae, dies=True)
    assert killed.wait(120) == -signal.SIGKILL
    both = [worker(tmp_path / "shared", images, vae) for _ in range(2)]
    counts = [int(process.communicate(timeout=120)[0]) for process in both]
    assert sum(counts) == 24 - 2
    cache, everything = latents.latents(tmp_path / "shared"), torch.arange(24)
    mean, _ = posterior(vae, images.x_0(everything))
    torch.testing.assert_close(cache.read("mean", everything), mean, rtol=1e-3, atol=1e-3)


def test_latents_of_another_autoencoder_or_of_other_images_are_refused(tmp_path, vae, images):
    encode(images, tmp_path, vae)
    other, fewer = autoencoder(seed=1), replace(images, identity=images.identity[:-1])
    with pytest.raises(ValueError, match="holds latents of another autoencoder: encode into another folder"):
        encode(images, tmp_path, other)
    with pytest.raises(ValueError, match="holds latents of another images"):
        encode(fewer, tmp_path, vae)
    cache = latents.latents(tmp_path)
    check_autoencoder(cache, vae, name="own")
    with pytest.raises(ValueError, match="vae other is not the autoencoder that made these latents"):
        check_autoencoder(cache, other, name="other")


def test_an_autoencoder_is_the_same_in_half_precision(vae):
    assert fingerprint(autoencoder().bfloat16()) == fingerprint(vae)


def test_sides_and_autoencoders_that_do_not_fit_are_refused(tmp_path, images):
    odd = replace(images, crop=Crop(15))
    with pytest.raises(ValueError, match="image_size is 15: this autoencoder takes multiples of 2"):
        encode(odd, tmp_path / "out", autoencoder())
    with pytest.raises(ValueError, match="shifts latents by 0.1: take one that does not"):
        encode(images, tmp_path / "out", autoencoder(shift_factor=0.1))
    assert not (tmp_path / "out").exists()


def test_clips_are_encoded_frame_by_frame(tmp_path, vae):
    for name in ("run/a.mkv", "jump/b.mkv"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        clip = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
        write_video(clip, tmp_path / "videos" / name, fps=8)
    videos = video_folder(tmp_path / "videos", Clips(16, frames=4, interval=2, flip=True))
    encode(videos, tmp_path / "latents", vae)
    cache, everything = latents.latents(tmp_path / "latents"), torch.arange(4)
    frames = videos.x_0(everything)
    mean, _ = posterior(vae, frames[:, 2])
    torch.testing.assert_close(cache.read("mean", everything)[:, 2], mean, rtol=1e-3, atol=1e-3)
    assert cache.gives == {"num_frames": 4, "in_channels": 4, "height": 8, "width": 8, "num_classes": 2}
