"""Vanilla DiT is diffusers' DiTTransformer2DModel, but for two of its constants.

diffusers divides the timestep's frequencies by 127 instead of 128, and its second norm has 1e-5 by default.
"""

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from skipdit import DiT
from tests.models.subject import Inputs, randomised, sample

LINEARS = {  # ours: theirs, within a block
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def ours() -> DiT:
    return randomised(DiT(sample_size=8, hidden_size=32, depth=4, num_heads=4, num_classes=10))


def theirs(model: DiT) -> DiTTransformer2DModel:
    """Their model with our weights and the two corrections."""
    depth, heads = model.config.depth, model.config.num_heads
    made = DiTTransformer2DModel(
        num_layers=depth,
        num_attention_heads=heads,
        attention_head_dim=model.config.hidden_size // heads,
        in_channels=4,
        out_channels=8,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    )
    made.load_state_dict(renamed(model.state_dict(), depth))
    for block in made.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return made.eval()


def renamed(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    names = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1"}
    names |= {"final_layer.linear": "proj_out_2"}
    converted = {"table": state["y_embedder.embedding_table.weight"]}
    for kind in ("weight", "bias"):
        converted |= {f"{new}.{kind}": state[f"{old}.{kind}"] for old, new in names.items()}
    table = converted.pop("table")
    for index in range(depth):
        old, new = f"blocks.{index}", f"transformer_blocks.{index}"
        converted[f"{new}.norm1.emb.class_embedder.embedding_table.weight"] = table  # every block has its own copy
        for kind in ("weight", "bias"):
            for a, b in ((0, 1), (2, 2)):
                timestep = state[f"t_embedder.mlp.{a}.{kind}"]
                converted[f"{new}.norm1.emb.timestep_embedder.linear_{b}.{kind}"] = timestep
            converted |= {f"{new}.{b}.{kind}": state[f"{old}.{a}.{kind}"] for a, b in LINEARS.items()}
            for name, part in zip("qkv", state[f"{old}.attn.qkv.{kind}"].chunk(3), strict=True):
                converted[f"{new}.attn1.to_{name}.{kind}"] = part
    return converted


def inputs(timestep: int) -> Inputs:
    return {
        "hidden_states": torch.randn(3, 4, 8, 8),
        "timestep": torch.full((3,), timestep),
        "class_labels": torch.tensor([0, 7, 10]),
    }


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_vanilla_dit_equals_diffusers(timestep):
    model, step = ours(), inputs(timestep)
    torch.testing.assert_close(sample(model, step), sample(theirs(model), step), rtol=1e-5, atol=1e-5)


def test_without_the_corrections_they_differ():
    """So that whoever converts weights knows why."""
    model, step = ours(), inputs(999)
    stock = theirs(model)
    for block in stock.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 1
    assert (sample(model, step) - sample(stock, step)).abs().max() > 0.01
