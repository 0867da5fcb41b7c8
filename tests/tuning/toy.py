"""A model of a few numbers whose samples depend on their noise and class, and a way to draw by any scheduler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skipdit.pipelines.schedulers import DDIM
from skipdit.tuning import Sample, Task, samples_of
from skipdit.tuning.samples import Draw

SHAPE = (1, 6, 6)
STEPS = 12


def noise_of(samples: Sequence[Sample]) -> Tensor:
    return torch.stack([torch.randn(SHAPE, generator=sample.generator) for sample in samples])


def ideal(x: Tensor, t: Tensor, subjects: Tensor) -> Tensor:
    """The noise in x_t for data at +-0.7 about a shift of the class: what a perfect model would say, but not linear."""
    alpha_bar = DDIM().alphas_cumprod[int(t)]
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    shift = 0.1 * subjects.reshape(-1, 1, 1, 1)
    x_0 = shift + 0.7 * (0.7 * a * (x - a * shift) / (s**2 + 0.05 * a**2)).tanh()
    return (x - a * x_0) / s


def toy_draw(model=ideal) -> Draw:
    def draw(scheduler, steps: int, samples: Sequence[Sample]) -> Tensor:
        x, subjects = noise_of(samples), torch.tensor([float(sample.subject) for sample in samples])
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t, subjects), t, x, return_dict=False)[0]
        return (x / 2 + 0.5).clamp(0, 1)

    return draw


def toy_task(draw: Draw | None = None, *, samples: int = 6, held_out: int = 16, steps: int = STEPS, **settings) -> Task:
    return Task(
        DDIM(clip_sample=False), steps, draw or toy_draw(), samples_of([0, 2], samples, seed=1),
        samples_of([1, 3], held_out, seed=0), **settings,
    )  # fmt: skip
