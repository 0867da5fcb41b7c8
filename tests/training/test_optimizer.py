"""Muon takes the matrices inside the layers and nothing else; both optimizers step, decay and resume as one."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from skipdit.training import Architecture, HunyuanDiTArchitecture, LatteArchitecture, LatteT2VArchitecture, train
from skipdit.training.loop import start, steps
from skipdit.training.optimizer import MuonAndAdamW, make_optimizer
from tests.training.tiny import tiny_run

ARCHITECTURES = {
    "dit": Architecture(hidden_size=16, depth=2, num_heads=2, num_skips=1),
    "latte": LatteArchitecture(hidden_size=16, depth=2, num_heads=2, num_skips=1),
    "latte-t2v": LatteT2VArchitecture(num_layers=2, num_attention_heads=2, attention_head_dim=8, num_skips=1),
    "hunyuan": HunyuanDiTArchitecture(num_layers=4, num_attention_heads=2, attention_head_dim=8, num_skips=1),
}
MATRICES = {  # of the layers and the skip: qkv, proj, fc1, fc2 and the modulation; LatteT2V has q, k, v and out apart
    "dit": 2 * 5 + 1,
    "latte": 2 * 2 * 5 + 1,
    "latte-t2v": 2 * ((2 * 4 + 2) + (4 + 2)) + 1,
    "hunyuan": 4 * (2 * 4 + 2 + 1) + 1,
}


def names_of(model, optimizer) -> set[str]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in held}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_muon_takes_the_matrices_inside_the_layers_and_adamw_the_rest(tmp_path, kind):
    model = ARCHITECTURES[kind].build()
    optimizer = make_optimizer(model, tiny_run(tmp_path, optimizer="muon"))
    muon, adamw = (names_of(model, part) for part in optimizer.parts.values())
    assert len(muon) == MATRICES[kind]
    assert all("blocks." in name or name.startswith("skip_linears.") for name in muon)
    assert not [name for name in muon if "table" in name or name.endswith("bias")]
    assert muon | adamw == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not muon & adamw


def test_adamw_alone_is_the_default(tmp_path):
    model = ARCHITECTURES["dit"].build()
    assert type(make_optimizer(model, tiny_run(tmp_path))) is torch.optim.AdamW


def test_one_learning_rate_moves_both(tmp_path):
    run = start(tiny_run(tmp_path, optimizer="muon", warmup_steps=0, decay="constant"))
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    report = next(steps(run))
    assert {group["lr"] for group in run.optimizer.param_groups} == {report.learning_rate}
    moved = {name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, before[name])}
    # At the first step the gates are shut: only what lies behind the layers has a gradient.
    assert {"final_layer.linear.weight", "final_layer.linear.bias"} <= moved
    for _ in range(3):
        next(steps(run))
    assert not torch.equal(run.model.blocks[0].attn.qkv.weight, before["blocks.0.attn.qkv.weight"])


def test_stopping_and_resuming_gives_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 6:
            raise Stop

    settings = {"optimizer": "muon", "weight_decay": 0.01}
    train(tiny_run(tmp_path / "through", **settings))
    with pytest.raises(Stop):
        train(tiny_run(tmp_path / "stopped", **settings), on_step=stop)
    train(tiny_run(tmp_path / "stopped", **settings))
    through, resumed = (
        load_file(tmp_path / run / "model" / "diffusion_pytorch_model.safetensors") for run in ("through", "stopped")
    )
    assert all(torch.equal(value, resumed[name]) for name, value in through.items())


def test_a_torch_without_muon_says_so(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="optimizer is 'muon', which torch .* lacks: take adamw, or torch 2.9"):
        train(replace(tiny_run(tmp_path / "run"), optimizer="muon"))
    assert not (tmp_path / "run").exists()


def test_states_of_both_are_kept(tmp_path):
    run = start(tiny_run(tmp_path, optimizer="muon"))
    next(steps(run))
    assert isinstance(run.optimizer, MuonAndAdamW)
    state = run.optimizer.state_dict()
    assert state.keys() == {"muon", "adamw"}
    assert all(part["state"] for part in state.values())
