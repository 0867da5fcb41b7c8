"""Runs that disturb one another on one cached model, each against the same run alone.

    python -m tests.run_matrix                  every model, every disturbance, every step; prints the differences
    tests/pipelines/test_run_matrix.py          a few of them, as a test

Pipelines are diffusers' own (DiT, LatteT2V, HunyuanDiT) and ours (DiT, Latte), with tiny real models; loops written by
hand stand for what no pipeline does: guidance in two calls, halves of a batch, requests in turns, rising timesteps.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, LattePipeline
from torch import Tensor

from skipdit import DiT, HunyuanDiT, SkipCacheConfig
from skipdit.pipelines import PixelAutoencoder
from tests.models import subject as subjects
from tests.pipelines import tiny

OnStep = Callable[[int], None]
CONFIGS = (SkipCacheConfig(interval=2), SkipCacheConfig(interval=3, forecast="taylor"))


class Drawer:
    """A pipeline, and how it is asked for latents of a seed; several may share a transformer."""

    def __init__(self, name: str, make: Callable, ask: Callable[..., Tensor]):
        self.name, self.make, self.ask = name, make, ask

    def build(self, config: SkipCacheConfig):
        pipe = self.make()
        pipe.transformer.enable_cache(config)
        return pipe

    def beside(self, pipe):
        """Another pipeline around the same transformer."""
        other = self.make()
        other.transformer = pipe.transformer
        return other

    def draw(self, pipe, *, seed: int, steps: int, on_step: OnStep | None = None) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        plain, done = pipe.scheduler.step, iter(range(steps))

        @wraps(plain)
        def step(*args, **kwargs):
            result = plain(*args, **kwargs)
            if on_step is not None:
                on_step(next(done))
            return result

        pipe.scheduler.step = step
        return self.ask(pipe, torch.Generator().manual_seed(seed), seed, steps)


def make_dit() -> DiTPipeline:
    sizes = {"sample_size": 4, "hidden_size": 16, "depth": 6, "num_heads": 2, "num_skips": 3}
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, layers_per_block=1).eval()
    return DiTPipeline(transformer=subjects.randomised(DiT(**sizes)), vae=vae, scheduler=DDIMScheduler())


def make_latte_t2v() -> LattePipeline:
    model = tiny.tiny_latte_t2v(in_channels=1, out_channels=2)
    parts = {"tokenizer": None, "text_encoder": None, "vae": PixelAutoencoder(latent_channels=1)}
    return LattePipeline(**parts, transformer=model, scheduler=DDIMScheduler())


def make_hunyuan():
    with tempfile.TemporaryDirectory() as folder:
        pipe = tiny.hunyuan_pipeline(Path(folder), tiny.tiny_stock_hunyuan())
    pipe.transformer = HunyuanDiT.from_diffusers(pipe.transformer)
    return pipe


def ask_dit(pipe, rng, seed, steps) -> Tensor:
    labels = [seed % 10, (seed + 3) % 10]
    return torch.tensor(pipe(labels, generator=rng, num_inference_steps=steps, output_type="np").images)


def ask_latte_t2v(pipe, rng, seed, steps) -> Tensor:
    text, no_text = torch.randn(2, 1, 5, 12, generator=torch.Generator().manual_seed(seed))
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=text, negative_prompt_embeds=no_text, generator=rng,
        num_inference_steps=steps, video_length=3, height=8, width=8, output_type="latent",
    ).frames  # fmt: skip


def ask_hunyuan(pipe, rng, seed, steps) -> Tensor:
    prompt = ("a red apple", "a blue cat")[seed % 2]
    size = {"height": 32, "width": 32, "use_resolution_binning": False}
    return pipe(prompt, generator=rng, num_inference_steps=steps, output_type="latent", **size).images


def ask_ours(pipe, rng, seed, steps) -> Tensor:
    labels = [seed % 10, (seed + 3) % 10]
    settings = {"generator": rng, "num_inference_steps": steps, "guidance_scale": 2.0, "output_type": "latent"}
    return next(iter(vars(pipe(labels, **settings)).values()))


def make_free_latte():
    return tiny.video_pipeline(tiny.tiny_latte(num_classes=0))


def ask_free(pipe, rng, seed, steps) -> Tensor:
    return pipe(num_videos=2, generator=rng, num_inference_steps=steps, output_type="latent").frames


DRAWERS = {
    drawer.name: drawer
    for drawer in (
        Drawer("DiT, DiTPipeline", make_dit, ask_dit),
        Drawer("DiT, ours", tiny.pipeline, ask_ours),
        Drawer("Latte, ours", tiny.video_pipeline, ask_ours),
        Drawer("Latte without classes, ours", make_free_latte, ask_free),
        Drawer("LatteT2V, LattePipeline", make_latte_t2v, ask_latte_t2v),
        Drawer("HunyuanDiT, HunyuanDiTPipeline", make_hunyuan, ask_hunyuan),
    )
}
Pairs = Iterator[tuple[Tensor, Tensor]]


def cancel(drawer: Drawer, config: SkipCacheConfig, *, at: int, then: int, steps: int = 6) -> Pairs:
    """A call is broken off after a step; the next one has other conditions, noise and number of steps."""
    pipe = drawer.build(config)

    def stop(step: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    try:
        drawer.draw(pipe, seed=1, steps=steps, on_step=stop)
    except KeyboardInterrupt:
        yield drawer.draw(pipe, seed=2, steps=then), alone(drawer, config, seed=2, steps=then)
    else:
        raise AssertionError(f"step {at} of {steps} was never reached")


def nest(drawer: Drawer, config: SkipCacheConfig, *, at: int, steps: int = 6) -> Pairs:
    """A pipeline is called in the callback of another that shares its transformer."""
    outer, inner = drawer.build(config), []
    other = drawer.beside(outer)

    def call(step: int) -> None:
        if step == at:
            inner.append(drawer.draw(other, seed=2, steps=steps))

    yield drawer.draw(outer, seed=1, steps=steps, on_step=call), alone(drawer, config, seed=1, steps=steps)
    yield inner[0], alone(drawer, config, seed=2, steps=steps)


def thread(drawer: Drawer, config: SkipCacheConfig, *, number: int, in_turns: bool, steps: int = 6) -> Pairs:
    """Requests in threads, each with a pipeline of its own: step by step in turns, or as they come."""
    first = drawer.build(config)
    pipes = [first, *(drawer.beside(first) for _ in range(number - 1))]
    barrier = threading.Barrier(number, timeout=120)
    wait = (lambda _: barrier.wait()) if in_turns else None
    with ThreadPoolExecutor(number) as pool:
        runs = [pool.submit(drawer.draw, pipe, seed=seed, steps=steps, on_step=wait) for seed, pipe in enumerate(pipes)]
        drawn = [run.result() for run in runs]
    for seed, latents in enumerate(drawn):
        yield latents, alone(drawer, config, seed=seed, steps=steps)


def alone(drawer: Drawer, config: SkipCacheConfig, *, seed: int, steps: int) -> Tensor:
    return drawer.draw(drawer.build(config), seed=seed, steps=steps)


SUBJECTS = {
    "DiT, a loop": subjects.DiTSubject(),
    "Latte, a loop": subjects.LatteSubject(),
    "LatteT2V, a loop": subjects.LatteT2VSubject(),
    "HunyuanDiT, a loop": subjects.HunyuanDiTSubject(),
}


def take_turns(subject: subjects.Subject, config: SkipCacheConfig, *, seeds: tuple[int, ...], timesteps) -> Pairs:
    """Runs whose calls come in turns: guidance in two calls, halves of a batch, requests; or one run, rising."""
    model, together = subject.cached(config), {seed: [] for seed in seeds}
    for timestep in timesteps:
        for seed in seeds:
            together[seed].append(subjects.sample(model, subject.inputs(timestep, seed=seed)))
    for seed in seeds:
        yield torch.stack(together[seed]), torch.stack(subject.run(subject.cached(config), timesteps, seed=seed))
    stats = subject.cached(config)
    subject.run(stats, timesteps)
    planned = [stats.cache_stats()["default"].cached] * len(seeds)
    yield torch.tensor([run.cached for run in model.cache_stats().values()]), torch.tensor(planned)


def begin_lower(subject: subjects.Subject, config: SkipCacheConfig, *, at: int) -> Pairs:
    """A loop over views of one table is broken off; image to image then begins in the middle, with the same objects."""
    table = torch.tensor([900.0, 800.0, 700.0, 600.0, 500.0, 400.0, 300.0, 200.0])

    def run(model, entries: Tensor, seed: int) -> Tensor:
        noisy = [subject.inputs(float(t), seed=seed)["hidden_states"] for t in entries]
        constant = subject.inputs(900, seed=0)
        calls = [constant | {"hidden_states": x, "timestep": t.expand(2)} for x, t in zip(noisy, entries)]
        return torch.stack([subjects.sample(model, call) for call in calls])

    model = subject.cached(config)
    run(model, table[: at + 1], 1)
    yield run(model, table[at + 2 :], 2), run(subject.cached(config), table.clone()[at + 2 :], 2)


def split_in_halves(subject: subjects.Subject, config: SkipCacheConfig, *, timesteps) -> Pairs:
    """Each step draws a batch in two halves, whose conditions last."""
    model, together = subject.cached(config), ([], [])
    conditions = {n: v for n, v in subject.inputs(900, batch=4).items() if n in model.constant_inputs}
    halves = [{name: value[half] for name, value in conditions.items()} for half in (slice(2), slice(2, 4))]

    def call(model, timestep: float, which: int) -> Tensor:
        changing = {n: v[2 * which : 2 * which + 2] for n, v in subject.inputs(timestep, batch=4).items()}
        return subjects.sample(model, changing | halves[which])

    for timestep in timesteps:
        for which in (0, 1):
            together[which].append(call(model, timestep, which))
    for which in (0, 1):
        alone = subject.cached(config)
        yield torch.stack(together[which]), torch.stack([call(alone, timestep, which) for timestep in timesteps])


def cells(*, steps: int = 6) -> Iterator[tuple[str, str, Callable[[], Pairs]]]:
    """Every model, every disturbance."""
    for name, drawer in DRAWERS.items():
        for config in CONFIGS:
            for at in range(steps - 1):
                for then in (3, 4, 9):
                    yield name, "broken off, then another", partial(cancel, drawer, config, at=at, then=then)
                yield name, "one inside another", partial(nest, drawer, config, at=at)
            for number in (2, 3):
                yield name, "threads in turns", partial(thread, drawer, config, number=number, in_turns=True)
                yield name, "threads as they come", partial(thread, drawer, config, number=number, in_turns=False)
    falling = (900, 800, 700, 600, 500, 400)
    for name, subject in SUBJECTS.items():
        for config in CONFIGS:
            for number in (2, 3, 5):
                turns = partial(take_turns, subject, config, seeds=tuple(range(number)), timesteps=falling)
                yield name, "calls in turns", turns
            yield name, "halves of a batch", partial(split_in_halves, subject, config, timesteps=falling)
            for at in range(4):
                yield name, "broken off, then lower", partial(begin_lower, subject, config, at=at)
            for seeds in ((0,), (0, 1)):
                yield name, "rising timesteps", partial(
                    take_turns, subject, config, seeds=seeds, timesteps=falling[::-1]
                )


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counts: dict[tuple[str, str], list[int]] = {}
    for name, disturbance, pairs in cells():
        for disturbed, undisturbed in pairs():
            compared = counts.setdefault((name, disturbance), [0, 0])
            compared[0] += 1
            compared[1] += not torch.equal(disturbed, undisturbed)
    for (name, disturbance), (compared, differing) in counts.items():
        print(f"{name:32}{disturbance:28}{compared:4} compared, {differing} differ")
    total, differing = (sum(column) for column in zip(*counts.values()))
    print(f"{total} runs compared with the same run alone: {differing} differ")
    return int(differing > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
