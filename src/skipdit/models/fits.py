"""Whether a config.json is that of the weights beside it: judged by headers alone, before anything is built."""

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open

from skipdit.models.checks import show_short
from skipdit.models.kept import STEM, find_kept

TAKES = {
    int: "a whole number", float: "a number", str: "a word", bool: "true or false", tuple: "two whole numbers as 32,64",
    NoneType: "null", Mapping: "names by class id",
}  # fmt: skip
REMEDY = "copy the folder again"


class Size(NamedTuple):
    """A setting, and how long it makes an axis of a tensor, or (axis 0 of its name) a list of layers."""

    setting: str
    tensor: str
    axis: int
    length: int


def check_config_fits(kind: type, config: Mapping[str, Any], folder: Path) -> None:
    """ValueError for a setting of another type than a model class takes, or of other weights than lie in a folder."""
    where = folder / "config.json"
    hints = get_type_hints(kind.__init__)
    for name in hints.keys() & config.keys():
        check_type(kind, name, config[name], hints[name], where=f"{where}: ")
    nbytes = sum(file.stat().st_size for file in folder.glob(f"{STEM}*"))
    check_bounds(config, nbytes, where)
    shapes = read_shapes(folder)
    for size in kind.list_sizes(defaults_of(kind) | dict(config)) if shapes else ():
        if size.tensor in shapes and (fault := fault_of(size, shapes[size.tensor])):
            raise ValueError(f"{where} sets {size.setting} {config.get(size.setting, size.length)}{fault}: {REMEDY}")


def fault_of(size: Size, found: tuple[int, ...]) -> str:
    """Where a tensor is of another size than a setting makes it; "" where it is of that."""
    if found[size.axis : size.axis + 1] == (size.length,):
        return ""
    wanted = (*found[: size.axis], size.length, *found[size.axis + 1 :])
    wanted, held = ("x".join(map(str, shape)) for shape in (wanted, found))
    return f", which makes {size.tensor} {wanted}, but in its weights it is {held}"


def check_type(
    kind: type, name: str, value: Any, hint: Any, *, where: str = "", spell: Callable[[Any], str] = show_short
) -> None:
    """ValueError for a value that is of none of the types of a hint."""
    options = options_of(hint)
    if not any(is_a(value, option) for option in options):
        wanted = " or ".join(TAKES[get_origin(option) or option] for option in options)
        raise ValueError(f"{where}{name} is {spell(value)}: {kind.__name__} takes {wanted}")


def check_bounds(config: Mapping[str, Any], nbytes: int, where: Path) -> None:
    """ValueError for a number above the bytes of the weights, which no axis can have; 0 bytes say nothing."""
    for name, value in config.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if nbytes and type(number) in (int, float) and number > nbytes:
                bound = f"more than its weights of {nbytes:,} bytes hold"
                raise ValueError(f"{where} sets {name} {value}, {bound}: {REMEDY}")


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by the headers of safetensors files, and lengths of lists of layers; none where a file cannot be read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_paths(folder):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):  # which loading tells better
            return {}
    return shapes | list_lengths(shapes)


def weight_paths(folder: Path) -> list[Path]:
    try:
        found = find_kept(folder)
    except ValueError:  # of the variants one was asked for
        return []
    if not found or found[0].kind != "safetensors":
        return []
    return sorted(folder.glob(f"{STEM}*-of-*.safetensors")) if found[0].indexed else [folder / found[0].name]


def list_lengths(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int]]:
    """How many modules each list at the root has."""
    lengths: dict[str, tuple[int]] = {}
    for key in shapes:
        name, _, rest = key.partition(".")
        if (place := rest.partition(".")[0]).isdecimal():
            lengths[name] = (max(lengths.get(name, (0,))[0], int(place) + 1),)
    return lengths


def defaults_of(kind: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in signature(kind.__init__).parameters.items()}


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type that it is."""
    return (hint,) if get_origin(hint) in (None, tuple) else get_args(hint)


def is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple | list) and len(value) == len(kinds) and all(map(is_a, value, kinds))
    if get_origin(kind) is Mapping:
        return isinstance(value, Mapping)  # `read_names` looks into it
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind  # so that True, which Python calls an int, is none
