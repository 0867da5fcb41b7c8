"""`skipdit sample MODEL`: images of classes, as a grid, single files or the .npz of the ADM evaluator."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from skipdit.cli.flags import Cache, check_positive, check_seed, guided_channels, parse, place
from skipdit.files import write_text

if TYPE_CHECKING:
    from skipdit.caching import Plan, SkipCacheConfig
    from skipdit.pipelines import ClassToImagePipeline

GRID_COLUMNS = 10


@dataclass(frozen=True)
class Sample:
    """Draw images. An interrupted run goes on with the same command; no image is drawn twice or left out."""

    model: tyro.conf.Positional[str]
    """fashion-skip, fashion-dit, a model or pipeline folder, or a checkpoint file"""
    out: Path = Path("out/samples.png")
    """a .png (one grid), an .npz (uint8 NHWC under arr_0, for the ADM evaluator) or a folder (single PNGs)"""
    classes: tuple[int, ...] = ()
    """class ids, repeated until there are enough images; all classes where none is named"""
    num_images: int | None = None
    """how many; one for each class where it is left out"""
    seed: int = 0
    """image i starts from noise of (seed, i), whatever the batch"""
    steps: int = 50
    scheduler: str = "ddpm"
    """ddpm, ddim, dpm++, dpm++-sde, unipc, euler, euler-a, heun"""
    guidance_scale: float = 1.5
    """classifier-free guidance, off at 1"""
    guidance_channels: str = "all"
    """how many noise channels are guided (the published DiT: 3), or all"""
    vae: str | None = None
    """folder of an AutoencoderKL, for models of latents"""
    batch_size: int = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    """compile head, trunk and tail with torch.compile"""
    cache: Cache = field(default_factory=Cache)


def command(arguments: Sequence[str]) -> None:
    sample(parse(Sample, "sample", arguments))


def sample(config: Sample) -> None:
    """Draw what `config` says; prints where it went, the plan and the seconds."""
    from skipdit.evaluation.compare import Way, plan_of
    from skipdit.hub import load_pipeline

    check(config)
    cache = config.cache.config()
    pipeline = load_pipeline(config.model, scheduler=config.scheduler, vae=config.vae)
    place(pipeline, device=config.device, dtype=config.dtype)
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.check_labels(wanted_labels(config, pipeline.transformer.config.num_classes))
    pipeline.check_guidance(config.guidance_scale, guided_channels(config.guidance_channels))
    pipeline.check_output("pil")
    planned = plan_of(pipeline, Way(config.steps, cache))
    folder = open_run(config, cache, planned)
    if config.compile:
        pipeline.transformer.compile()
    if cache is not None:
        pipeline.transformer.enable_cache(cache)
    seconds = draw_missing(pipeline, labels, folder, config, calls=len(planned))
    size = finish(folder, config.out, len(labels))
    print(f"{config.out}: {size}, {config.steps} {config.scheduler} steps in {seconds:.1f} s")
    if cache is not None:
        print(f"plan {planned}: {planned.full} full, {planned.cached} cached")


def check(config: Sample) -> None:
    check_positive(config, "steps", "batch_size", *(["num_images"] if config.num_images is not None else []))
    check_seed(config.seed)
    if config.out.suffix not in ("", ".png", ".npz"):
        raise ValueError(f"out is {str(config.out)!r}: it must end in .png or .npz, or be a folder")


def wanted_labels(config: Sample, num_classes: int) -> list[int]:
    classes = config.classes or tuple(range(num_classes))
    number = len(classes) if config.num_images is None else config.num_images
    return [classes[index % len(classes)] for index in range(number)]


def open_run(config: Sample, cache: "SkipCacheConfig | None", planned: "Plan") -> Path:
    """The folder that single images go to, with the run's settings in it; a folder of other images is an error."""
    folder = config.out if config.out.suffix == "" else config.out.with_suffix(config.out.suffix + ".parts")
    settings = asdict(config) | {"cache": cache.to_dict() if cache else None, "plan": str(planned)}
    text = json.dumps(settings, indent=2, default=str) + "\n"
    record = folder / "run.json"
    if any(folder.glob("[0-9]*.png")):
        held = json.loads(record.read_text()) if record.exists() else {}
        if changed := [name for name, value in json.loads(text).items() if decides(name) and held.get(name) != value]:
            raise ValueError(
                f"{folder} holds images of other settings ({', '.join(changed)}): take another --out, or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if not record.exists() or record.read_text() != text:
        write_text(record, text)
    return folder


def decides(setting: str) -> bool:
    """Whether a setting decides what image i looks like; the others may change between a run and its continuation."""
    return setting not in ("out", "num_images", "batch_size", "device", "compile")


def draw_missing(
    pipeline: "ClassToImagePipeline", labels: list[int], folder: Path, config: Sample, *, calls: int
) -> float:
    """Draw the images that the folder does not hold yet; returns the seconds."""
    import torch
    from tqdm import tqdm

    missing = [index for index in range(len(labels)) if not image_path(folder, index).exists()]
    batches = [missing[first : first + config.batch_size] for first in range(0, len(missing), config.batch_size)]
    begin = time.perf_counter()
    try:
        with tqdm(total=len(batches) * calls, desc=f"drawing {len(missing)} images", unit="step") as bar:
            for batch in batches:
                draw_batch(pipeline, labels, batch, folder, config, on_step=lambda state: bar.update())
    except (KeyboardInterrupt, OSError, torch.OutOfMemoryError) as stop:
        done = sum(image_path(folder, index).exists() for index in range(len(labels)))
        drawn = f"{done} of {len(labels)} images are in {folder}, and the same command draws the rest"
        raise type(stop)(f"{str(stop) or 'interrupted'}; {drawn}") from stop
    return time.perf_counter() - begin


def draw_batch(
    pipeline: "ClassToImagePipeline", labels: list[int], batch: list[int], folder: Path, config: Sample, *, on_step: Any
) -> None:
    from skipdit.evaluation import save_png
    from skipdit.randomness import generator

    images = pipeline(
        [labels[index] for index in batch],
        guidance_scale=config.guidance_scale,
        guidance_channels=guided_channels(config.guidance_channels),
        num_inference_steps=config.steps,
        generator=[generator(config.seed, index) for index in batch],
        on_step=on_step,
    ).images
    for index, image in zip(batch, images, strict=True):
        save_png(image, image_path(folder, index))


def image_path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"


def finish(folder: Path, out: Path, number: int) -> str:
    """Turn the folder of single images into what was asked for; returns what it is, in words."""
    paths = [image_path(folder, index) for index in range(number)]
    if out == folder:
        return f"{number} PNGs"
    write = write_grid if out.suffix == ".png" else write_npz
    write(paths, out)
    write_text(out.with_suffix(".json"), (folder / "run.json").read_text())
    shutil.rmtree(folder)
    return f"a grid of {number}" if out.suffix == ".png" else f"arr_0 of {number} images"


def write_grid(paths: list[Path], out: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from skipdit.evaluation import grid, save_png

    images = torch.stack([torch.from_numpy(np.atleast_3d(np.array(Image.open(path)))) for path in paths])
    scale = max(1, 64 // images.shape[1])
    save_png(grid(images.permute(0, 3, 1, 2) / 255, columns=min(GRID_COLUMNS, len(paths)), scale=scale), out)


def write_npz(paths: list[Path], out: Path) -> None:
    """Stream PNGs into an .npz whose arr_0 is uint8 [N, H, W, 3], grey ones repeated, so that 50,000 need no memory."""
    import zipfile

    import numpy as np
    from PIL import Image

    width, height = Image.open(paths[0]).size
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), height, width, 3)}
    partial = out.with_name(f".{out.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path in paths:
                file.write(np.asarray(Image.open(path).convert("RGB")).tobytes())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
