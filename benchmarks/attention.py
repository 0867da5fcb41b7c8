"""SDPA or the written-out product: which trains faster in bf16 on a CPU, and which samples faster?

One layer's attention, forward and backward, at the sizes of the embedded models and of DiT-S/2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skipdit.evaluation import measure_side_by_side

SIZES = {"embedded (49 tokens, 4 x 32)": (128, 4, 49, 32), "DiT-S/2 (256 tokens, 6 x 64)": (16, 6, 256, 64)}


def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1) @ value


def main() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for name, shape in SIZES.items():
            inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]

            def train(attend, inputs=inputs) -> None:
                attend(*inputs).sum().backward()

            @torch.no_grad()
            def sample(attend, inputs=inputs) -> None:
                attend(*inputs)

            for task in (train, sample):
                ways = {"sdpa": F.scaled_dot_product_attention, "explicit": explicit}
                calls = {way: (lambda task=task, attend=attend: task(attend)) for way, attend in ways.items()}
                seconds = measure_side_by_side(calls, repeats=20, warmup=3, device="cpu")
                ratio = seconds["sdpa"].median / seconds["explicit"].median
                milliseconds = ", ".join(f"{way} {latency.median * 1e3:.2f} ms" for way, latency in seconds.items())
                print(f"{name:30} {str(dtype):15} {task.__name__:7} {milliseconds}, sdpa / explicit {ratio:.2f}")


if __name__ == "__main__":
    main()
