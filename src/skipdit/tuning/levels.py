"""Where a sampler's grid lies, and what a model's output says there.

    x_i = alpha_i x_0 + sigma_i eps,    lambda_i = log(alpha_i / sigma_i)

    epsilon          eps                          x_0 = (x - sigma eps) / alpha
    sample           x_0                          eps = (x - alpha x_0) / sigma
    v_prediction     v = alpha eps - sigma x_0    x_0 = alpha x - sigma v,   eps = sigma x + alpha v
    flow_prediction  u = eps - x_0                x_0 = x - sigma u,         eps = x + alpha u      (alpha = 1 - sigma)

The names are those of diffusers' configs; a flow has none there, and the last one here.
"""

import math
from typing import Any, NamedTuple

from torch import Tensor


class Level(NamedTuple):
    """How much signal and how much noise x has at one step of the grid."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """lambda; -inf where x is noise alone."""
        return math.log(self.alpha / self.sigma) if self.alpha else -math.inf


def levels_of(scheduler: Any) -> list[Level]:
    """The levels of a scheduler's timesteps, once they are set."""
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
        return [Level(1 - sigma, sigma) for sigma in scheduler.sigmas[:-1].tolist()]
    if "DPMSolver" in type(scheduler).__name__:
        alphas = [(1 + sigma**2) ** -0.5 for sigma in scheduler.sigmas[:-1].tolist()]
        return [Level(alpha, (1 - alpha**2) ** 0.5) for alpha in alphas]
    alpha_bars = scheduler.alphas_cumprod[scheduler.timesteps.cpu()].tolist()
    return [Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5) for alpha_bar in alpha_bars]


def to_x_0_and_eps(output: Tensor, x: Tensor, level: Level, *, prediction: str) -> tuple[Tensor, Tensor]:
    """What a model output stands for at x, all [B, ...]."""
    alpha, sigma = level
    match prediction:
        case "epsilon":
            return (x - sigma * output) / alpha, output
        case "sample":
            return output, (x - alpha * output) / sigma
        case "v_prediction":
            return alpha * x - sigma * output, sigma * x + alpha * output
        case "flow_prediction":
            return x - sigma * output, x + alpha * output
    raise unknown_prediction(prediction)


def to_output(eps: Tensor, x: Tensor, level: Level, *, prediction: str) -> Tensor:
    """The model output that stands for `eps` at x, all [B, ...]: the inverse of `to_x_0_and_eps`."""
    if prediction == "epsilon":
        return eps
    alpha, sigma = level
    x_0 = (x - sigma * eps) / alpha
    match prediction:
        case "sample":
            return x_0
        case "v_prediction":
            return alpha * eps - sigma * x_0
        case "flow_prediction":
            return eps - x_0
    raise unknown_prediction(prediction)


def unknown_prediction(prediction: str) -> ValueError:
    return ValueError(
        f"prediction_type is {prediction!r}: take epsilon, sample or v_prediction, or flow_prediction on flow sigmas"
    )
