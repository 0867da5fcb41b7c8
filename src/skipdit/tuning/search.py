"""Which steps to compute: a search on a model of the model that needs no calls, checked by few true rollouts.

    output_i(x) = o_i + j_i (x - T_i)                  o_i, T_i: what the teacher said and where it was at step i
    j_i = sum <x - T_i, output - o_i> / sum <x - T_i, x - T_i>      over all true rollouts, interpolated between steps,
                                                                    one for each sample

    even steps, steps at S (j / n)^0.8, and the last three with even ones before: true rollouts, learn j
    up to 3 times: local search with the correction fitted inside every evaluation; a true rollout of the best; learn j

The surrogate is optimistic by up to 14 dB, so true rollouts decide.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from torch import Tensor

from skipdit.tuning.fit import Fitter, Rollout
from skipdit.tuning.scheduler import even_steps, late_steps

Computed = tuple[int, ...]
ROUNDS, EVALUATIONS, PARENTS = 3, 150, 3
BENT = 0.8  # exponent of the second start, which has more steps at the clean end
PEAK = 2.0  # of x in [-1, 1]
NEIGHBOUR = 0.7  # share of moves by one step; the others go anywhere


@dataclass(frozen=True)
class Surrogate:
    """The teacher's run and a slope for each step and sample, [B, 1, ...]: samples near a fork are steeper."""

    teacher: Rollout
    slopes: Sequence[Tensor]

    def output(self, i: int, x: Tensor) -> Tensor:
        return self.teacher.outputs[i] + self.slopes[i].to(x) * (x - self.teacher.states[i])


def learn_slopes(teacher: Rollout, rollouts: Sequence[Rollout]) -> Surrogate:
    """j of every step and sample; 0 while no rollout has left the teacher's path."""
    products, squares = torch.zeros(2, len(teacher.states), len(teacher.end), dtype=torch.float64)
    for rollout in rollouts:
        for i, x, output in zip(rollout.computed, rollout.states, rollout.outputs):
            dx, change = (x - teacher.states[i]).double().flatten(1), (output - teacher.outputs[i]).double().flatten(1)
            products[i] += (dx * change).sum(1).cpu()
            squares[i] += (dx * dx).sum(1).cpu()
    known = squares.amin(1).nonzero().flatten()
    slopes = interpolated(known, products[known] / squares[known], len(squares)) if len(known) else squares
    return Surrogate(teacher, list(slopes.reshape(*slopes.shape, *[1] * (teacher.end.ndim - 1))))


def interpolated(known: Tensor, values: Tensor, steps: int) -> Tensor:
    """values [K, B] at the steps `known` [K] -> [steps, B], linear between them and constant outside."""
    columns = [np.interp(np.arange(steps), known.numpy(), column) for column in values.T.numpy()]
    return torch.from_numpy(np.stack(columns, axis=1))


def decibels(x: Tensor, reference: Tensor, *, pixels: bool = False) -> float:
    """How near x_S comes to the teacher's, the mean over samples of their PSNR; pixels are shown in [-1, 1] alone."""
    if pixels:
        x, reference = x.clamp(-1, 1), reference.clamp(-1, 1)
    errors = (x.float() - reference.float()).flatten(1).pow(2).mean(1).clamp_min(1e-20)
    return (20 * math.log10(PEAK) - 10 * errors.log10()).mean().item()


def aimed(fitter: Fitter, computed: Sequence[int]) -> Fitter:
    """The same fitter for other steps; they share a base, so that one runs at a time."""
    other = copy.copy(fitter)
    other.computed = list(computed)
    other.weights = [list(row) for row in fitter.weights]
    return other


def play(fitter: Fitter, surrogate: Surrogate, computed: Sequence[int], begun: tuple) -> Tensor:
    """Where the surrogate expects some steps to end, corrections fitted: x_S."""
    fitter = aimed(fitter, computed)
    fitter.set_timesteps(*begun)
    x = surrogate.teacher.states[0]
    for i, t in zip(fitter.computed, fitter.timesteps):
        x = fitter.step(surrogate.output(i, x), t, x, return_dict=False)[0]
    return x


def starts(calls: int, steps: int) -> list[Computed]:
    """Even steps, steps that are denser at the clean end, and the last three with even ones before; all of `calls`."""
    bent = {round(steps * (j / calls) ** BENT) for j in range(calls)}
    found = [tuple(even_steps(calls, steps)), filled(bent, calls, steps), tuple(late_steps(calls, steps))]
    return list(dict.fromkeys(found))


def filled(chosen: set[int], calls: int, steps: int) -> Computed:
    """As many steps as there are calls, with late ones where rounding has joined some."""
    spare = [i for i in reversed(range(steps)) if i not in chosen]
    return tuple(sorted(chosen | set(spare[: calls - len(chosen)])))


def neighbour(computed: Computed, steps: int, random: Random) -> Computed:
    """One step moved by one or anywhere; step 0 stays."""
    if len(computed) in (1, steps):
        return computed
    place = random.randrange(1, len(computed))
    near = [i for i in (computed[place] - 1, computed[place] + 1) if 0 < i < steps and i not in computed]
    anywhere = [i for i in range(1, steps) if i not in computed]
    to = random.choice(near if near and random.random() < NEIGHBOUR else anywhere)
    return tuple(sorted({*computed[:place], *computed[place + 1 :], to}))


def climb(
    parents: Sequence[Computed], score: Callable[[Computed], float], steps: int, *, evaluations: int, random: Random
) -> Computed:
    """The best of so many evaluations, each near one of the best few so far."""
    known = {computed: score(computed) for computed in parents}
    for _ in range(evaluations - len(known)):
        best = sorted(known, key=known.__getitem__)[-PARENTS:]
        child = neighbour(random.choice(best), steps, random)
        if child not in known:
            known[child] = score(child)
    return max(known, key=known.__getitem__)


@dataclass
class Search:
    """The search for one number of calls.

    `roll(computed)` is a true rollout of a plan that is fitted along it; `is_over()` is asked before each of them.
    """

    fitter: Fitter
    teacher: Rollout
    begun: tuple
    roll: Callable[[Computed], Rollout]
    pixels: bool = False
    seed: int = 0
    is_over: Callable[[], bool] = lambda: False
    on_score: Callable[[float], None] = lambda best: None
    scores: dict[Computed, float] = field(default_factory=dict)
    rollouts: dict[Computed, Rollout] = field(default_factory=dict)

    def run(self, calls: int, *, warm: Sequence[Computed] = ()) -> Computed:
        """The best steps by true rollouts."""
        steps, random = len(self.teacher.states), Random(self.seed)
        for computed in dict.fromkeys([*warm, *starts(calls, steps)]):
            self.try_truly(computed)
        for _ in range(ROUNDS):
            found = climb(self.best(PARENTS), self.surrogate_score(), steps, evaluations=EVALUATIONS, random=random)
            if found in self.scores or not self.try_truly(found):
                break
        return self.best(1)[0]

    def best(self, number: int) -> list[Computed]:
        """The best few by true rollouts, best first."""
        return sorted(self.scores, key=self.scores.__getitem__, reverse=True)[:number]

    def surrogate_score(self) -> Callable[[Computed], float]:
        surrogate = learn_slopes(self.teacher, list(self.rollouts.values()))
        return lambda computed: self.score(play(self.fitter, surrogate, computed, self.begun))

    def score(self, end: Tensor) -> float:
        return decibels(end, self.teacher.end, pixels=self.pixels)

    def try_truly(self, computed: Computed) -> bool:
        """Roll out and learn, but where it is over; the first plan is always tried."""
        if self.scores and self.is_over():
            return False
        self.rollouts[computed] = self.roll(computed)
        self.scores[computed] = self.score(self.rollouts[computed].end)
        self.on_score(max(self.scores.values()))
        return True
