"""What a training checkpoint says of itself, in the words of published training scripts, held against its tensors.

    {"ema": {...}, "args": Namespace(model="DiT-B/4", image_size=256, num_classes=1000, learn_sigma=True, ...)}

Tensors do not tell what they were trained to predict: those of a SiT, trained on a velocity, are those of a DiT.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from skipdit.hub.errors import MismatchError
from skipdit.models import DiT, Latte
from skipdit.models.base import LongSkipModel
from skipdit.models.checks import PREDICTION_TYPES

PLACES = ("args", "hyper_parameters", "config")
SCALE = 8  # of pixels to latents, in every published autoencoder
NOISE = ("noise", "eps")  # other words for "epsilon"
ASKING = ("prediction", "prediction_type", "predict_type")  # which scripts call it


def own_args(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a checkpoint was trained with, where it holds them."""
    held = [checkpoint.get(name) for name in PLACES]
    found = next((value for value in held if isinstance(value, Namespace | Mapping)), {})
    return dict(vars(found) if isinstance(found, Namespace) else found)


def told(args: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model that its tensors do not tell; MismatchError for an objective that is none of ours."""
    said = {name: args[name] for name in ASKING if isinstance(args.get(name), str)}
    if "path_type" in args or str(args.get("model", "")).startswith("SiT"):
        said = {"model": args.get("model"), "path_type": args.get("path_type"), **said}
    elif predicted := next(iter(said.values()), None):
        name = "epsilon" if predicted in NOISE else predicted
        if name in PREDICTION_TYPES:
            return {"prediction_type": name}
    else:
        return {"prediction_type": "sample"} if args.get("predict_xstart") else {}
    objective = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
    raise MismatchError(
        f"the checkpoint was trained on {objective}: samplers here take {', '.join(PREDICTION_TYPES)} alone, so draw"
        " with the code that trained it"
    )


def check_args(args: Mapping[str, Any], kind: type[LongSkipModel], config: Mapping[str, Any]) -> None:
    """MismatchError where a setting read off the tensors is not what the checkpoint was trained with."""
    if kind not in (DiT, Latte):
        return
    size, channels = config["sample_size"], config["in_channels"]
    held = {
        "num_classes": [config["num_classes"]] if config["num_classes"] else [args.get("num_classes")],
        "image_size": [size, SCALE * size] if isinstance(size, int) else [args.get("image_size")],
        "learn_sigma": [config["out_channels"] == 2 * channels],
    }
    for name, right in held.items():
        if isinstance(args.get(name), int) and args[name] not in right:
            raise MismatchError(
                f"the checkpoint's own args say {name} {args[name]}, its tensors {' or '.join(map(str, right))}: they"
                " are of two runs, so take another file"
            )
