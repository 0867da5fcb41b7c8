"""The exponential moving average of the weights, which is what one samples from."""

import torch
from torch import Tensor, nn


class EMA:
    """ema <- ema + (1 - d) (weights - ema), d = min(decay, (1 + step) / (10 + step)); float32, trainable weights only.

    The ramp of d forgets the random initialisation (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        current = [parameters[name].detach().float() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - keep)

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)
