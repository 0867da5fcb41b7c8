"""What a run costs: arithmetic, which is exact, and time, which is measured.

    cost of a plan = full_steps * full_flops + cached_steps * cached_flops
    speed-up       = (full_steps + cached_steps) * full_flops / cost              predicted, if FLOPs were time
    equal steps    = floor(cost / full_flops)                                     the uncached control

One multiply-add is 2 FLOPs here. DiT's published "118.64 Gflops" of DiT-XL/2 are multiply-adds: 237.3 GFLOPs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Latency:
    """Seconds of one call: the median and the fastest of `repeats` calls."""

    median: float
    fastest: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        """Summarise measured calls."""
        return cls(median=median(seconds), fastest=min(seconds), repeats=len(seconds))


def count_flops(fn: Callable[[], Any]) -> int:
    """Floating-point operations of one call of `fn`: 2 per multiply-add of matrix products, convolutions and attention.

    Not counted: additions of a bias, norms, softmax, activations and other elementwise work, embeddings, and compiled
    or hand-written kernels. Attention counts the same written out and fused, on a CPU too, which PyTorch's counter
    leaves out; causal masks save nothing; a fused backward recomputes the scores and counts 5 products, not 4.
    Units: FLOPs (twice the MACs), of the whole batch. Only shapes matter, so `fn` may run on the meta device.
    """
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED_ATTENTION) as counter:
        fn()
    return counter.get_total_flops()


def measure(fn: Callable[[], Any], *, repeats: int, warmup: int, device: torch.device | str) -> Latency:
    """Time `repeats` calls of `fn`, after `warmup` calls that are not timed; work queued on `device` is waited for.

    Units: seconds of wall clock.
    Raises: ValueError for repeats < 1 or warmup < 0.
    """
    return measure_side_by_side({"it": fn}, repeats=repeats, warmup=warmup, device=device)["it"]


def measure_side_by_side(
    candidates: Mapping[str, Callable[[], Any]], *, repeats: int, warmup: int, device: torch.device | str
) -> dict[str, Latency]:
    """Time candidates in turn, round after round, so that a machine that drifts slows them all alike.

    Units: seconds of wall clock per call; ratios between candidates mean more than the seconds.
    Raises: ValueError for repeats < 1 or warmup < 0.
    """
    _check_rounds(repeats=repeats, warmup=warmup)
    rounds = [{name: _seconds(fn, device) for name, fn in candidates.items()} for _ in range(warmup + repeats)]
    return {name: Latency.of([seconds[name] for seconds in rounds[warmup:]]) for name in candidates}


def predicted_speedup(*, full_steps: int, cached_steps: int, full_flops: int, cached_flops: int) -> float:
    """How many times cheaper a plan is than computing every step in full; its speed-up if FLOPs were time.

    Units: `full_flops` and `cached_flops` are per step.
    Raises: ValueError for a plan without steps, a negative number, or full_flops of 0.
    """
    plan = _plan_flops(
        full_steps=full_steps, cached_steps=cached_steps, full_flops=full_flops, cached_flops=cached_flops
    )
    return (full_steps + cached_steps) * full_flops / plan


def steps_at_equal_flops(*, full_steps: int, cached_steps: int, full_flops: int, cached_flops: int) -> int:
    """How many uncached steps cost at most what a plan costs: the control that every cached result is shown against.

    At least 1, which costs more than the plan if the plan is cheaper than one full step.
    Units and errors: as `predicted_speedup`.
    """
    plan = _plan_flops(
        full_steps=full_steps, cached_steps=cached_steps, full_flops=full_flops, cached_flops=cached_flops
    )
    return max(1, plan // full_flops)


def _plan_flops(*, full_steps: int, cached_steps: int, full_flops: int, cached_flops: int) -> int:
    plan = full_steps * full_flops + cached_steps * cached_flops
    if min(full_steps, cached_steps, cached_flops) < 0 or full_flops < 1 or plan == 0:
        raise ValueError(
            f"{full_steps} full steps of {full_flops} FLOPs and {cached_steps} cached ones of {cached_flops} are no"
            " plan; nothing may be negative, and full_flops and the plan must cost something."
        )
    return plan


def _seconds(fn: Callable[[], Any], device: torch.device | str) -> float:
    _wait_for(device)
    start = time.perf_counter()
    fn()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device | str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def _check_rounds(*, repeats: int, warmup: int) -> None:
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is {repeats}, warmup {warmup}; repeats must be at least 1 and warmup at least 0.")


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """q k^T and weights v: 2 products over [B, heads, queries, keys]."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward_flops(
    _grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """The scores again, then one product for each of dq, dk, dv and the weights."""
    return 2 * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


UNCOUNTED_ATTENTION = {  # torch 2.13 counts the CUDA kernels only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
