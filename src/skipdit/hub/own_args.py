"""What a training checkpoint says of itself, in the words of published training scripts, held against its tensors.

    {"ema": {...}, "args": Namespace(model="DiT-B/4", image_size=256, num_classes=1000, learn_sigma=True, ...)}

Tensors do not tell what they were trained to predict: those of a SiT, trained on a velocity, are those of a DiT.
"""

from argparse import Namespace
from collections.abc import Mapping
from functools import reduce
from numbers import Integral
from operator import or_
from typing import Any

from skipdit.hub.errors import MismatchError
from skipdit.models import DiT, Latte
from skipdit.models.base import LongSkipModel
from skipdit.models.checks import PREDICTION_TYPES

PLACES = ("args", "hyper_parameters", "config")
DEEPEST = 4  # of settings inside settings
SCALE = 8  # of pixels to latents, in every published autoencoder
OBJECTIVES = (  # which scripts call it; a path is of flows alone
    "path_type", "prediction", "prediction_type", "predict_type", "pred_type", "objective", "parameterization",
    "loss_type",
)  # fmt: skip
FLOWS = ("flow", "velocity")  # a loss_type without these words is a norm, such as "l2"
WORDS = {name: name for name in PREDICTION_TYPES} | {
    **dict.fromkeys(("noise", "eps", "pred_noise"), "epsilon"),
    **dict.fromkeys(("x0", "x_0", "pred_x0", "xstart", "x_start"), "sample"),
}


def own_args(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a checkpoint was trained with, where it holds them; the first of `PLACES` goes before."""
    return reduce(or_, (flatten(checkpoint.get(name)) for name in reversed(PLACES)))


def flatten(value: Any, *, levels: int = DEEPEST) -> dict[str, Any]:
    """Settings without those around them; an outer one goes before an inner one of its name."""
    held = vars(value) if isinstance(value, Namespace) else value
    if not levels or not isinstance(held, Mapping):
        return {}
    inner = [flatten(within, levels=levels - 1) for within in held.values()]
    outer = {name: within for name, within in held.items() if not isinstance(within, Namespace | Mapping)}
    return reduce(or_, [*inner, outer])


def read_objective(args: Mapping[str, Any]) -> dict[str, str]:
    """The model's prediction_type where a run's arguments tell it; MismatchError for an objective that is not ours."""
    said = {name: args[name] for name in OBJECTIVES if isinstance(args.get(name), str) and args[name]}
    if not any(word in said.get("loss_type", "").lower() for word in FLOWS):
        said.pop("loss_type", None)
    if str(args.get("model", "")).startswith("SiT"):
        said = {"model": args["model"], **said}
    if not said:
        return {"prediction_type": "sample"} if args.get("predict_xstart") else {}
    meant = {WORDS.get(word.lower()) for word in said.values()}
    if len(meant) == 1 and None not in meant:
        return {"prediction_type": meant.pop()}
    raise MismatchError(
        f"the checkpoint was trained on {', '.join(f'{name} {word}' for name, word in said.items())}: samplers here"
        f" take {', '.join(PREDICTION_TYPES)} alone, so draw with the code that trained it, or give prediction_type (to"
        " load_original, or `skipdit convert --set`) if it is one of these"
    )


def as_int(value: Any) -> int | None:
    """A number or its digits; None for anything else."""
    return int(value) if isinstance(value, Integral) or isinstance(value, str) and value.isdecimal() else None


def check_args(args: Mapping[str, Any], kind: type[LongSkipModel], config: Mapping[str, Any]) -> None:
    """MismatchError where a setting read off the tensors is not what the checkpoint was trained with."""
    if kind not in (DiT, Latte):
        return
    size, channels = config["sample_size"], config["in_channels"]
    numbers = {name: as_int(value) for name, value in args.items()}
    held = {
        "num_classes": [config["num_classes"]] if config["num_classes"] else [numbers.get("num_classes")],
        "image_size": [size, SCALE * size] if isinstance(size, int) else [numbers.get("image_size")],
        "learn_sigma": [config["out_channels"] == 2 * channels],
    }
    for name, right in held.items():
        if numbers.get(name) is not None and numbers[name] not in right:
            raise MismatchError(
                f"the checkpoint's own args say {name} {args[name]}, its tensors {' or '.join(map(str, right))}: they"
                " are of two runs, so take another file"
            )
