"""The identity in the place of a VAE: what goes in comes out, in the manner of AutoencoderKL."""

import inspect

import pytest
import torch
from diffusers import AutoencoderKL

from skipdit.pipelines import PixelAutoencoder

each_channels = pytest.mark.parametrize("channels", [1, 3])


@each_channels
def test_pixels_are_their_own_latents(channels):
    vae, x = PixelAutoencoder(latent_channels=channels), torch.randn(2, channels, 4, 6)
    rng = torch.Generator().manual_seed(0)
    posterior, before = vae.encode(x).latent_dist, rng.get_state()
    assert torch.equal(posterior.mode(), x)
    assert torch.equal(posterior.sample(generator=rng), x)
    assert torch.equal(vae.encode(x, return_dict=False)[0].mode(), x)
    assert torch.equal(rng.get_state(), before), "nothing is drawn"


@each_channels
def test_a_decoded_picture_has_three_channels(channels):
    vae, z = PixelAutoencoder(latent_channels=channels), torch.randn(2, channels, 4, 6)
    decoded = vae.decode(z).sample
    assert decoded.shape == (2, 3, 4, 6)
    assert torch.equal(decoded, z.expand(-1, 3, -1, -1))
    assert torch.equal(vae.decode(z, return_dict=False)[0], decoded)


@each_channels
def test_what_a_caller_does_to_a_picture_is_not_done_to_its_latents(channels):
    vae, z = PixelAutoencoder(latent_channels=channels), torch.ones(1, channels, 2, 2)
    vae.decode(z).sample[:, 0].zero_()
    assert torch.equal(z, torch.ones_like(z))


@pytest.mark.parametrize("sample_posterior", [False, True])
def test_forward_encodes_and_decodes(sample_posterior):
    vae, x = PixelAutoencoder(), torch.randn(2, 3, 4, 6)
    assert torch.equal(vae(x, sample_posterior=sample_posterior).sample, x)
    assert torch.equal(vae(x, return_dict=False)[0], x)


@pytest.mark.parametrize("method", ["encode", "decode", "forward"])
def test_methods_take_what_those_of_autoencoder_kl_take(method):
    ours, theirs = (inspect.signature(getattr(kind, method)).parameters for kind in (PixelAutoencoder, AutoencoderKL))
    assert set(theirs) - {"args", "kwargs"} <= set(ours)
    assert "num_frames" not in ours, "by which LattePipeline knows a temporal decoder"


def test_place_and_precision_are_known_and_change():
    vae = PixelAutoencoder()
    assert (vae.device, vae.dtype) == (torch.device("cpu"), torch.float32)
    assert vae.to(torch.bfloat16).dtype == torch.bfloat16
    assert vae.to("meta").device.type == "meta"


@each_channels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_loaded_as_it_was_saved(tmp_path, channels, dtype):
    PixelAutoencoder(latent_channels=channels, scaling_factor=0.5).save_pretrained(tmp_path)
    loaded = PixelAutoencoder.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.config.latent_channels == channels
    assert loaded.config.scaling_factor == 0.5
    assert 2 ** (len(loaded.config.block_out_channels) - 1) == 1
    assert loaded.dtype == dtype
    z = torch.randn(1, channels, 2, 2)
    assert torch.equal(loaded.decode(z).sample, z.expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_channels": 0}, "latent_channels is 0: pixels have 1 or 3"),
        ({"latent_channels": 4}, "latent_channels is 4: pixels have 1 or 3"),
        ({"block_out_channels": (1, 1)}, r"block_out_channels are \(1, 1\): pixels are not made smaller, so give one"),
        ({"scaling_factor": 0}, "scaling_factor is 0: it must be above 0"),
    ],
)
def test_what_is_no_picture_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PixelAutoencoder(**settings)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 4, 4), (1, 2, 3, 4, 4)])
def test_other_channels_than_its_own_are_refused(shape):
    vae = PixelAutoencoder()
    for method in (vae.encode, vae.decode):
        with pytest.raises(ValueError, match=r"pixels have shape .*: they must be \[B, 3, H, W\]"):
            method(torch.zeros(shape))
