"""How near one set of images is to another that was made from the same noise, image by image.

    MSE  = mean (a - b)^2                                                over channels and pixels of one image
    PSNR = -10 log10 MSE                                                 dB; the peak is 1
    SSIM = mean (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

m, s^2 and s_ab are means, variances and covariance under an 11 x 11 Gaussian window (sigma 1.5); c1 = 0.01^2,
c2 = 0.03^2; the mean is over channels and over the windows that lie wholly inside the image.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

# torchmetrics is imported where it is called: it opens scipy and matplotlib wherever they are installed (seconds).

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004, section III-C
AT_ONCE = 64  # images per call of torchmetrics' SSIM, which keeps five float64 copies


@dataclass(frozen=True)
class Fidelity:
    """How faithful a set of images is to its reference: means over images of per-image values, and the worst image.

    `psnr` [dB] is the mean of the per-image PSNRs, not the PSNR of the mean squared error over the set (which is never
    higher); it is inf as soon as one image is identical to its reference, so read it beside `identical`.
    """

    psnr: float
    ssim: float
    psnr_min: float
    ssim_min: float
    images: int
    identical: int

    def as_dict(self) -> dict[str, float | int | str]:
        """The fields as JSON values: infinity, which JSON has no number for, is the string "inf" (`float` reads it)."""
        return {name: "inf" if value == math.inf else value for name, value in asdict(self).items()}


def fidelity(images: Tensor, reference: Tensor) -> Fidelity:
    """Compare a set of images with its reference, each image with the one at the same index.

    Shapes: images and reference [B, C, H, W] in [0, 1].
    Raises: ValueError as `psnr` and `ssim`, and for an empty set.
    """
    if len(images) == 0:
        raise ValueError("there are 0 images; a mean needs at least 1.")
    decibels, similarity = psnr(images, reference), ssim(images, reference)
    return Fidelity(
        psnr=decibels.mean().item(),
        ssim=similarity.mean().item(),
        psnr_min=decibels.min().item(),
        ssim_min=similarity.min().item(),
        images=len(images),
        identical=int(decibels.isinf().sum()),
    )


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, with peak 1; inf where an image equals its reference.

    Values are compared as they are: for a number on stored 8-bit pictures, quantise both sides first.
    Shapes: images and reference [B, C, H, W] in [0, 1]; the result is [B], float64.
    Raises: ValueError for different shapes, naming both, or values outside [0, 1].
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    images, reference = _pair(images, reference)
    return peak_signal_noise_ratio(images, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1 and 1 for identical ones.

    Shapes: images and reference [B, C, H, W] in [0, 1], H and W at least 11; the result is [B], float64.
    Raises: ValueError as `psnr`, and for images smaller than the window.
    Source: Wang et al. 2004 (doi 10.1109/TIP.2003.819861), without downsampling. Equal to scikit-image with its
    `gaussian_weights`; torchmetrics' own mean also takes in windows over a reflected border.
    """
    images, reference = _pair(images, reference)
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; height and width must be at least {WINDOW}, the SSIM window;"
            " enlarge them, or use `psnr` alone."
        )
    parts = zip(images.split(AT_ONCE), reference.split(AT_ONCE), strict=True)
    return torch.cat([_inner_ssim_map(*part).mean(dim=(1, 2, 3)) for part in parts])


def _inner_ssim_map(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM at every window wholly inside the image, [B, C, H - 10, W - 10]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, everywhere = structural_similarity_index_measure(
        images, reference, sigma=SIGMA, data_range=1.0, reduction="none", return_full_image=True
    )
    border = WINDOW // 2
    return everywhere[..., border:-border, border:-border]


def _pair(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides checked and in float64, so that small variances and errors survive their subtraction."""
    if images.shape != reference.shape or images.ndim != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, the reference {tuple(reference.shape)}; both must have the same"
            " shape [B, C, H, W] (frames of videos belong in the batch)."
        )
    return _in_unit_range(images, name="images"), _in_unit_range(reference, name="the reference")


def _in_unit_range(images: Tensor, *, name: str) -> Tensor:
    if not ((images >= 0) & (images <= 1)).all():  # false for NaN too
        raise ValueError(
            f"values of {name} reach from {images.min().item()} to {images.max().item()}; they must be in [0, 1]: clamp"
            " them, or map [-1, 1] there by (x + 1) / 2."
        )
    return images.double()
