"""What training minimises, for each sample.

    mse   = mean (target - prediction)^2
    vlb   = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) / log 2     for t > 0, bits per dimension
          = -log2 p(x_0 | x_1), in 256 bins on [-1, 1]                for t = 0
    total = mse + vlb

The variational bound teaches only the variance: the model's prediction is detached inside it. It is added unscaled,
as DiT was trained. With a `v_weight_cap`, the mse is the one of v, whatever the model predicts:

    mse   = min(1 / (1 - alpha_bar_t), cap) * mean (x_0 - predicted x_0)^2

With `min_snr` the clean sample's error counts min(SNR, min_snr) times, SNR = alpha_bar / (1 - alpha_bar).
"""

import math
from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from skipdit.diffusion.prediction import Prediction, to_x_0, training_target
from skipdit.diffusion.schedule import NoiseSchedule
from skipdit.diffusion.variance import Gaussian, posterior, reverse, split_output

NUM_BINS = 256  # 8-bit images
SMALLEST_MASS = 1e-12  # keeps the logarithm of an empty bin finite in float32


class Losses(NamedTuple):
    """The loss of each sample and its two terms, each [B]."""

    total: Tensor
    mse: Tensor
    vlb: Tensor


def learned_range_loss(
    model_output: Tensor,
    *,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    prediction: Prediction = "epsilon",
    v_weight_cap: float | None = None,
    min_snr: float | None = None,
    x_t: Tensor | None = None,
) -> Losses:
    """The hybrid loss of a model that predicts both the noise and its variance.

    Shapes: model_output [B, 2C, ...] (prediction, then variance), x_0 and noise [B, C, ...], t [B] integers; x_t
    [B, C, ...] is made of them where it is left out.
    Units: vlb in bits per dimension. Half precision is raised to float32 first.
    Raises: ValueError if model_output has no variance channels, or for an unknown `prediction`.
    Source: improved DDPM (arXiv 2102.09672), eq. 16 with lambda = 1; DDPM (arXiv 2006.11239), eq. 13 for t = 0.
    """
    model_output, x_0, noise = _at_least_float32(model_output, x_0, noise)
    said, _ = split_output(model_output, x_0)
    x_t = schedule.add_noise(x_0, noise, t) if x_t is None else x_t
    q = posterior(x_0, x_t, t, schedule=schedule)
    p = reverse(_detach_prediction(model_output, x_0), x_t, t, schedule=schedule, prediction=prediction)
    mse = mean_square_error(
        said, x_0=x_0, noise=noise, x_t=x_t, t=t, schedule=schedule, prediction=prediction,
        v_weight_cap=v_weight_cap, min_snr=min_snr,
    )  # fmt: skip
    vlb = variational_bound(q, p, x_0, t)
    return Losses(mse + vlb, mse, vlb)


def mse_loss(
    model_output: Tensor,
    *,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    prediction: Prediction = "epsilon",
    v_weight_cap: float | None = None,
    min_snr: float | None = None,
    x_t: Tensor | None = None,
) -> Losses:
    """The plain loss of a model without variance channels; its `vlb` is zero.

    Shapes: model_output, x_0, noise and x_t [B, C, ...], t [B] integers; x_t is made of them where it is left out.
    Half precision is raised to float32 first.
    Raises: ValueError if model_output is not shaped like x_0, or for an unknown `prediction`.
    Source: DDPM (arXiv 2006.11239), eq. 14.
    """
    if model_output.shape != x_0.shape:
        raise ValueError(
            f"the model output has shape {tuple(model_output.shape)} for x_0 {tuple(x_0.shape)}; use"
            " `learned_range_loss` for a model with variance channels."
        )
    model_output, x_0, noise = _at_least_float32(model_output, x_0, noise)
    mse = mean_square_error(
        model_output, x_0=x_0, noise=noise, x_t=x_t, t=t, schedule=schedule, prediction=prediction,
        v_weight_cap=v_weight_cap, min_snr=min_snr,
    )  # fmt: skip
    return Losses(mse, mse, torch.zeros_like(mse))


def mean_square_error(
    said: Tensor,
    *,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    prediction: Prediction,
    v_weight_cap: float | None,
    min_snr: float | None,
    x_t: Tensor | None,
) -> Tensor:
    """How far `said` lies from its target, [B]; with a cap the error of v that it stands for, its weight capped.

    Shapes: said, x_0, noise and x_t [B, C, ...], t [B] integers.
    Raises: ValueError for both weights at once.
    Source: v as progressive distillation's SNR + 1 weighting of the clean sample (arXiv 2202.00512), section 4; cap in
    the manner of Min-SNR (arXiv 2303.09556), section 3.4, which is `min_snr`.
    """
    if v_weight_cap is not None and min_snr is not None:
        raise ValueError(f"v_weight_cap is {v_weight_cap} and min_snr {min_snr}: take one of them")
    if v_weight_cap is None:
        error = _mean_square(said - training_target(x_0, noise, t, schedule=schedule, prediction=prediction))
        weight = 1 if min_snr is None else min_snr_weight(t, schedule=schedule, prediction=prediction, cap=min_snr)
        return error * weight
    x_t = schedule.add_noise(x_0, noise, t) if x_t is None else x_t
    _, s = schedule.levels(t, like=x_0)
    error = x_0 - to_x_0(said, x_t, t, schedule=schedule, prediction=prediction)
    return _mean_square(error * s.square().reciprocal().clamp(max=v_weight_cap).sqrt())


def min_snr_weight(t: Tensor, *, schedule: NoiseSchedule, prediction: Prediction, cap: float) -> Tensor:
    """The weight [B] of the error of a prediction: min(SNR, cap) over the SNR's power in that error.

    Source: Min-SNR (arXiv 2303.09556), section 3.4; for v: equation 13 over SNR + 1.
    """
    snr = (schedule.alpha_bar / (1 - schedule.alpha_bar))[t.to(schedule.alpha_bar.device)].float().to(t.device)
    return snr.clamp(max=cap) / {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}[prediction]


def variational_bound(q: Gaussian, p: Gaussian, x_0: Tensor, t: Tensor) -> Tensor:
    """Bits per dimension that the model needs for this step of the chain, [B]: a KL, or the data itself at t = 0.

    Source: DDPM (arXiv 2006.11239), eq. 5, the terms L_{t-1} and L_0.
    """
    of_step = reduce(kl(q, p), "b ... -> b", "mean")
    of_data = reduce(-bin_log_likelihood(x_0, p), "b ... -> b", "mean")
    return torch.where(t.to(x_0.device) == 0, of_data, of_step) / math.log(2)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) of each dimension, in nats, shaped like the broadcast of both."""
    log_ratio = q.log_variance - p.log_variance
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (q.mean - p.mean).square() * (-p.log_variance).exp())


def bin_log_likelihood(x: Tensor, p: Gaussian) -> Tensor:
    """log of the mass that p gives to the bin around x, of 256 bins on [-1, 1]; the outer two reach to infinity.

    Shapes: x like p.mean; the result as well, in nats.
    Source: DDPM (arXiv 2006.11239), eq. 13.
    """
    half_bin, std = 1 / (NUM_BINS - 1), (0.5 * p.log_variance).exp()
    upper, lower = (x - p.mean + half_bin) / std, (x - p.mean - half_bin) / std
    mass = torch.where(x > 1 - half_bin, _cdf(-lower), _interval_mass(lower, upper))
    mass = torch.where(x < -1 + half_bin, _cdf(upper), mass)
    return mass.clamp(min=SMALLEST_MASS).log()


def _mean_square(error: Tensor) -> Tensor:
    return reduce(error.square(), "b ... -> b", "mean")


def _detach_prediction(output: Tensor, x_0: Tensor) -> Tensor:
    channels = x_0.shape[1]
    return torch.cat([output[:, :channels].detach(), output[:, channels:]], dim=1)


def _interval_mass(lower: Tensor, upper: Tensor) -> Tensor:
    # In the upper tail both cdfs round to 1; mirrored into the lower tail, their difference survives.
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    return _cdf(upper) - _cdf(lower)


def _cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]
