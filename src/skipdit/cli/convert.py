"""`skipdit convert IN OUT --as LAYOUT`: a checkpoint in another layout, of whatever size, whole or not at all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skipdit.cli.download import announce
from skipdit.cli.flags import left_out, parse

if TYPE_CHECKING:
    from skipdit.hub.convert import Converted


@dataclass(frozen=True)
class Convert:
    """Rewrite a checkpoint tensor by tensor, so that memory is needed for little more than the largest one."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """a published .pt, .pth or .safetensors file; a folder of ours or of diffusers' class; a pipeline folder, for its
    transformer; an embedded or a published model (`skipdit models`; downloaded where missing)"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """a new folder, or with --as original a new .pt, .pth or .safetensors file"""
    layout: Annotated[Literal["diffusers", "stock", "original"], tyro.conf.arg(name="as")] = "diffusers"
    """diffusers: config.json and safetensors for our classes. stock: the same for diffusers' own, which have no long
    skips but those of HunyuanDiT. original: the published names"""
    weights: Annotated[str | None, left_out("NAME", "(default: the averaged, where there are any)")] = None
    """which weights of a file that has several: ema, model, module, state_dict and the like"""
    dtype: Annotated[Literal["float32", "float16", "bfloat16"] | None, left_out("{float32,float16,bfloat16}")] = None
    """of every tensor; as they are where it is left out"""
    arch: Annotated[str | None, left_out("{dit,latte,latte-t2v,hunyuan,hunyuan-diffusers}")] = None
    """of a file; read off its tensors where it is left out"""
    set: Annotated[tuple[str, ...], left_out("NAME=VALUE ...")] = ()
    """arguments of the model that no tensor tells, as num_heads=8 sample_size=32,64 prediction_type=v_prediction"""
    upcycle: Annotated[int | None, left_out("M")] = None
    """add M long skips to a vanilla DiT, Latte or LatteT2V, which computes exactly the same at first: 1 to half the
    depth, 14 for DiT-XL and LatteT2V, 7 for Latte-XL"""
    wrap: Annotated[Literal["ema", "model", "module", "state_dict"] | None, left_out("NAME")] = None
    """of an original .pt file: hold the tensors under this name, as training checkpoints do; flat where left out"""


def command(arguments: Sequence[str]) -> None:
    convert(parse(Convert, "convert", arguments))


def convert(config: Convert) -> None:
    from tqdm import tqdm

    from skipdit.hub import convert as converter

    told = {name: getattr(config, name) for name in ("weights", "arch", "upcycle")}
    told["overrides"] = settings(config.set)
    if missing := converter.absent(config.source):
        converter.check_target(config.out, config.layout, config.wrap)  # before a word of downloads
        converter.check_asked(config.source, **told)
        announce(missing)
    # The delay keeps an empty bar from standing before the line that says why nothing was written.
    with tqdm(desc="writing", unit="B", unit_scale=True, leave=False, delay=0.1) as bar:

        def show(nbytes: int, total: int) -> None:
            bar.total = total
            bar.update(nbytes)

        done = converter.convert(
            config.source, config.out, layout=config.layout, dtype=config.dtype, wrap=config.wrap, progress=show, **told
        )
    print(summary(config, done))
    for note in done.notes:
        print(f"note: {note}")


def summary(config: Convert, done: "Converted") -> str:
    read = f"{done.model}, {done.parameters:,} parameters"
    weights = "" if done.weights is None else f" ({done.weights})"
    return f"{config.out}: {read}, from {config.source}{weights} as {config.layout}, {done.size:,} bytes"


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """ "num_heads=8", "sample_size=32,64" as arguments; ValueError for what is no pair, or a name given twice."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.isidentifier() and equals and text) or name in found:
            raise ValueError(f"set is {pair!r}: give NAME=VALUE, each name once, as num_heads=8 or sample_size=32,64")
        found[name] = value(text)
    return found


def value(text: str) -> Any:
    """A number, true or false, a pair of numbers with a comma between, or else the text itself."""
    try:
        numbers = [json.loads(part) for part in text.split(",")]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else tuple(numbers)
