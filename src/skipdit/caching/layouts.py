"""Where the layers of other people's models lie, and which arguments of their `forward` are what.

A row names the lists of layers in running order; a layer is a module, or several that run in turn. Timesteps become
noise levels, which fall from 1000 to 0, so that a window means the same for each model.
"""

from dataclasses import dataclass

from torch import nn

from skipdit.caching.hook import Interface

CONTROLS = (  # what a ControlNet adds; new at each step
    "controlnet_block_samples", "controlnet_single_block_samples", "block_controlnet_hidden_states",
    "controlnet_skips", "control_hidden_states",
)  # fmt: skip
TWO_STREAMS = ("transformer_blocks", "single_transformer_blocks")


@dataclass(frozen=True)
class Layout:
    """The layers of a model, and its interface.

    `lists` are paths of module lists in running order; with `zipped` they run in turn, and a layer is one of each.
    `has_skips`: skips lead around the trunk, so that a cached step runs the head too. `free_head` is the last list,
    if its layers close the embedding: as many of the head's last layers leave no skip to the tail, and do not run.
    `loose`: layers without a `forward` of their own; the model calls their parts, each of which adds to the stream. A
    skip is what enters a layer, so that nobody reads the head's last one; closing parts take [stream, skip].
    `uncached_with` names an argument with which a call computes outside of the run.
    """

    lists: tuple[str, ...]
    interface: Interface = Interface(changing=CONTROLS)
    zipped: bool = False
    has_skips: bool = False
    free_head: str = ""
    loose: bool = False
    uncached_with: str = ""

    def layers(self, model: nn.Module) -> list[tuple[nn.Module, ...]]:
        """The modules of each layer, in running order."""
        found = [as_layers(model.get_submodule(path)) for path in self.lists]
        if self.zipped:
            return [tuple(part for layer in pair for part in layer) for pair in zip(*found, strict=True)]
        return [layer for layers in found for layer in layers]

    def count_head(self, model: nn.Module, branch: int) -> int:
        """How many layers of the head a cached step runs: those that the tail's skips lead back to."""
        unread = len(model.get_submodule(self.free_head)) if self.free_head else int(self.loose)
        return max(0, branch - unread) if self.has_skips else 0


def as_layers(found: nn.Module) -> list[tuple[nn.Module, ...]]:
    """A list of layers; a module that is no list is one layer, and a layer that holds parts is these."""
    if isinstance(found, nn.ModuleDict):
        found = found.values()
    is_list = not isinstance(found, nn.Module) or isinstance(found, nn.ModuleList | nn.Sequential)
    return [as_parts(item) for item in found] if is_list else [as_parts(found)]


def as_parts(layer: nn.Module) -> tuple[nn.Module, ...]:
    is_holder = isinstance(layer, nn.ModuleList | nn.ModuleDict)
    parts = layer.values() if isinstance(layer, nn.ModuleDict) else layer if is_holder else (layer,)
    return tuple(part for part in parts if part is not None)


def interface(**changes) -> Interface:
    return Interface(**{"changing": CONTROLS} | changes)


FLOW = interface(scale=1000.0)  # timesteps from 1 to 0
TWO_STREAMS_OF_FLOW = Layout(TWO_STREAMS, FLOW)
RISING = {"sample": "x", "scale": 1000.0, "ascends": True}  # timesteps from 0 to 1
BLOCKS = Layout(("transformer_blocks",))
NESTED = ("in_blocks", "mid_block", "out_blocks")  # of U-ViTs
LAYOUTS = {  # by the name of the class
    "DiTTransformer2DModel": BLOCKS,
    "PixArtTransformer2DModel": BLOCKS,
    "SanaTransformer2DModel": BLOCKS,
    "CogVideoXTransformer3DModel": BLOCKS,
    "LTXVideoTransformer3DModel": BLOCKS,
    "SD3Transformer2DModel": Layout(("transformer_blocks",), uncached_with="skip_layers"),
    "StableAudioDiTModel": Layout(("transformer_blocks",), FLOW),
    "QwenImageTransformer2DModel": Layout(("transformer_blocks",), FLOW),
    "MochiTransformer3DModel": Layout(("transformer_blocks",), interface(ascends=True)),
    "LatteTransformer3DModel": Layout(("transformer_blocks", "temporal_transformer_blocks"), zipped=True),
    "WanTransformer3DModel": Layout(("blocks",)),
    "HunyuanVideoTransformer3DModel": Layout(TWO_STREAMS),
    "FluxTransformer2DModel": TWO_STREAMS_OF_FLOW,
    "Flux2Transformer2DModel": Layout(TWO_STREAMS, FLOW, uncached_with="kv_cache_mode"),
    "ChromaTransformer2DModel": TWO_STREAMS_OF_FLOW,
    "AuraFlowTransformer2DModel": Layout(("joint_transformer_blocks", "single_transformer_blocks"), FLOW),
    "Lumina2Transformer2DModel": Layout(("layers",), interface(scale=1000.0, ascends=True)),
    "ZImageTransformer2DModel": Layout(("layers",), interface(**RISING, timestep="t"), uncached_with="siglip_feats"),
    "HunyuanDiT2DModel": Layout(("blocks",), has_skips=True),
    "UniDiffuserModel": Layout(
        tuple(f"transformer.transformer_{name}" for name in NESTED),
        interface(
            sample="latent_image_embeds", timestep="timestep_img", changing=("image_embeds", "timestep_text"),
            own_timesteps=(("prompt_embeds", "timestep_text"),),  # without a prompt its pipeline draws new text
        ),
        has_skips=True,
    ),
    "UViT": Layout(NESTED, interface(sample="x", timestep="timesteps"), has_skips=True),
    "UDiT": Layout(NESTED, interface(sample="x", timestep="timesteps"), has_skips=True),
    # It passes over whatever else it is given.
    "HunYuanDiTPlain": Layout(("blocks",), interface(**RISING, timestep="t", constant=("contexts",)), has_skips=True),
    "TripoSGDiTModel": Layout(("blocks",), has_skips=True),
    "UNetT": Layout(("layers",), interface(**RISING, timestep="time"), has_skips=True, loose=True),
    "MDTv2": Layout(
        ("en_inblocks", "en_outblocks", "de_blocks"), interface(sample="x", timestep="t"), has_skips=True,
        free_head="de_blocks",
    ),
}  # fmt: skip
