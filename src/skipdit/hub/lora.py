"""LoRA for HunyuanDiT: what a small file adds to the weights of a model, in PEFT's format.

    W x  ->  W x + scale (alpha / r) B (A x)          A [r, in], B [out, r]          (arXiv 2106.09685)

Names of modules are ours, which are diffusers', or the original ones. Where the original has one module for several of
ours (Wqkv for to_q, to_k, to_v), B is cut as the weight is, and all share A.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from skipdit.hub.architectures import CheckpointError
from skipdit.hub.names import HUNYUAN, State
from skipdit.hub.original import first_line
from skipdit.models import HunyuanDiT

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # of PEFT, of diffusers
PIPELINE = "transformer."  # what a pipeline puts before the names and settings of its transformer's adapter
METADATA = "lora_adapter_metadata"  # where diffusers keeps the settings of an adapter, inside its file
KEY = re.compile(
    r"(base_model\.model\.|transformer\.|module\.)*(?P<module>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight"
)


class Factors(NamedTuple):
    """A [r, in], B [out, r] and what their product is multiplied by."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)


def load_lora(model: HunyuanDiT, source: str | Path, *, scale: float = 1.0, name: str = "lora") -> None:
    """Add an adapter to a model, beside the weights and not into them; `model.fuse_lora()` would merge it.

    Several, of different names, add up: those that were active stay so, at their scales. `model.set_adapters`,
    `disable_lora` and `delete_adapters` are diffusers'. As PEFT has it, the model's own weights no longer ask for
    gradients. Adapters trained with the original code hold one for pooler.q_proj that never learnt anything, since it
    read that weight without calling its module: its B is zero, and it changes nothing here either.

    Args:
        source: a folder with adapter_config.json and adapter_model.safetensors, or a .safetensors file; alpha is the
            rank where neither the file nor an adapter_config.json beside it says otherwise.
        scale: of what the adapter adds, beside its own alpha / r.
        name: of the adapter in the model.

    Raises:
        ValueError: a scale that is no finite number, a name that is taken, or a model in which an adapter would have
            no effect: its adapters are disabled, or its attention fused.
        FileNotFoundError: no such file.
        CheckpointError: what lies there is no LoRA, or does not fit the model.
        OSError: peft is not installed.
    """
    check_peft()
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}: give a finite number, 1 for the adapter as it was trained")
    if name in getattr(model, "peft_config", {}):
        raise ValueError(
            f"name is {name!r}: an adapter of this name is loaded; give another, or delete_adapters({name!r})"
        )
    check_takes_effect(model)
    tensors, config = read_adapter(Path(source))
    adapter = fitted(model, factors(tensors, config, scale=scale))
    state = {f"{key}.lora_A.weight": each.a for key, each in adapter.items()}
    state |= {f"{key}.lora_B.weight": each.b for key, each in adapter.items()}
    with others_kept(model, name):
        model.load_lora_adapter(state, prefix=None, adapter_name=name, metadata=peft_settings(adapter))


def check_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise OSError(f"LoRA cannot be loaded ({error}): pip install 'skipdit[lora]'") from None


def check_takes_effect(model: HunyuanDiT) -> None:
    if any(layer.disable_adapters for layer in adapted_layers(model)):
        raise ValueError("the model's adapters are disabled: enable_lora() first, or delete_adapters()")
    if any(attention.fused_projections for attention in model.attentions()):
        raise ValueError("the model's attention is fused and would not see an adapter: unfuse_qkv_projections() first")


def adapted_layers(model: HunyuanDiT) -> "list[BaseTunerLayer]":
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def others_kept(model: HunyuanDiT, name: str) -> Iterator[None]:
    """PEFT leaves only the newest adapter active: here `name` is added to those that were, and no other changes."""
    active = {layer: layer.active_adapters for layer in adapted_layers(model)}
    trained = {weight: weight.requires_grad for key, weight in model.named_parameters() if ".lora_" in key}
    everywhere = list(dict.fromkeys(adapter for adapters in active.values() for adapter in adapters))
    yield
    for layer in adapted_layers(model):
        layer.set_adapter([*active.get(layer, everywhere), name])
    for weight, is_trained in trained.items():
        weight.requires_grad_(is_trained)


def read_adapter(path: Path) -> tuple[State, Mapping[str, Any]]:
    """The tensors of an adapter and its settings, as far as they are there."""
    files = [path / name for name in WEIGHTS] if path.is_dir() else [path]
    file = next((file for file in files if file.exists()), None)
    if file is None or file.suffix != ".safetensors":
        raise FileNotFoundError(f"no adapter at {path}: name a .safetensors file, or a folder with {WEIGHTS[0]}")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            config = json.loads((opened.metadata() or {}).get(METADATA, "{}"))
        if (beside := file.parent / CONFIG).exists():
            config = json.loads(beside.read_text())
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): download or copy it again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: its settings are a {type(config).__name__}, and must be settings by name")
    return tensors, {key.removeprefix(PIPELINE): value for key, value in config.items()}


def factors(tensors: State, config: Mapping[str, Any], *, scale: float) -> dict[str, Factors]:
    """A and B of each module, under the file's names."""
    found: dict[str, dict[str, Tensor]] = {}
    strays = [key for key in tensors if not (match := KEY.fullmatch(key)) or put(found, match, tensors[key])]
    strays += [module for module, pair in found.items() if len(pair) < 2]
    if strays or not found:
        raise CheckpointError(f"no LoRA of pairs lora_A, lora_B: {', '.join(sorted(strays)) or 'it holds nothing'}")
    return {
        module: Factors(pair["A"], pair["B"], scale * own_scale(module, pair["A"], config))
        for module, pair in found.items()
    }


def put(found: dict[str, dict[str, Tensor]], match: re.Match, tensor: Tensor) -> bool:
    """Put a factor in its place; True where it is no matrix, or the place is taken."""
    pair = found.setdefault(match["module"], {})
    if tensor.ndim != 2 or not tensor.numel() or match["factor"] in pair:
        return True
    pair[match["factor"]] = tensor
    return False


def own_scale(module: str, a: Tensor, config: Mapping[str, Any]) -> float:
    """alpha / r, or alpha / sqrt(r) of a rank-stabilised LoRA (arXiv 2312.03732)."""
    rank = len(a)
    patterns = config.get("alpha_pattern") or {}
    own = next((alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)), None)
    alpha = config.get("lora_alpha", rank) if own is None else own
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def fitted(model: HunyuanDiT, adapter: Mapping[str, Factors]) -> dict[str, Factors]:
    """An adapter under the model's names; CheckpointError lists what fits nothing, or not in shape."""
    linears = linears_of(model)
    places = {module: places_of(module, linears) for module in adapter}
    taken = Counter(name for names in places.values() for name in names)
    strays = [module for module, names in places.items() if not names or any(taken[name] > 1 for name in names)]
    misshapen = [
        f"{module} {tuple(each.a.shape)}, {tuple(each.b.shape)}"
        for module, each in adapter.items()
        if module not in strays and not fits(each, [linears[name] for name in places[module]])
    ]
    faults = {"no linear layers of it, or twice": strays, "of another shape": misshapen}
    if any(faults.values()):
        found = "; ".join(
            f"{len(names)} {fault}: {', '.join(sorted(names))}" for fault, names in faults.items() if names
        )
        raise CheckpointError(f"the adapter does not fit the model: {found}")
    return {name: part for module, each in adapter.items() for name, part in cut(module, each, places[module])}


def linears_of(model: HunyuanDiT) -> dict[str, nn.Linear]:
    """The linear layers of a model by name; one that has an adapter already is called base_layer by PEFT."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def places_of(module: str, linears: Mapping[str, nn.Linear]) -> tuple[str, ...]:
    """Our names of a module by our name or the original one; none where it is no linear layer."""
    if module in linears:
        return (module,)
    try:
        _, ours = HUNYUAN.row(module)
    except KeyError:
        return ()
    return ours if linears.keys() >= set(ours) else ()


def fits(factors: Factors, linears: list[nn.Linear]) -> bool:
    inside, outside = factors.a.shape[1], len(factors.b)
    takes = all(linear.in_features == inside for linear in linears)
    return takes and sum(linear.out_features for linear in linears) == outside and factors.b.shape[1] == factors.rank


def cut(module: str, factors: Factors, places: tuple[str, ...]) -> Iterator[tuple[str, Factors]]:
    """The factors of each of our modules that an adapter's module stands for."""
    parts = (factors.b,) if places == (module,) else HUNYUAN.row(module)[0].parts(factors.b)
    return ((name, factors._replace(b=part)) for name, part in zip(places, parts, strict=True))


def peft_settings(adapter: Mapping[str, Factors]) -> dict[str, Any]:
    """The arguments of PEFT's LoraConfig: what most modules have, and patterns for those that are otherwise."""
    alphas = {name: each.scale * each.rank for name, each in adapter.items()}
    ranks = {name: each.rank for name, each in adapter.items()}
    (rank, _), (alpha, _) = (Counter(values.values()).most_common(1)[0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}": own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {f"^{re.escape(name)}": own for name, own in alphas.items() if own != alpha},
        "target_modules": list(adapter),
        "inference_mode": True,
    }
