"""One step: what goes in, what comes out, and how far it goes."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from skipdit import DiT, data, load_pipeline
from skipdit.diffusion import NoiseSchedule, learned_range_loss
from skipdit.training import train
from skipdit.training.batches import batch_indices
from skipdit.training.loop import LOSS_COLUMNS, learning_rate, loss_of, noised_batch, start, steps
from skipdit.training.preview import preview
from tests.training.tiny import tiny_run


def loss_rows(folder):
    with (folder / "loss.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# What goes in.


def test_a_step_sees_the_samples_of_its_batch_noised_to_their_timesteps(tmp_path):
    run = start(tiny_run(tmp_path, batch_size=64, model={"class_dropout_prob": 0}))
    run.step = 7
    inputs, targets = noised_batch(run)
    x_t, t, labels = inputs["hidden_states"], inputs["timestep"], inputs["class_labels"]
    indices = batch_indices(7, dataset_size=len(run.dataset), batch_size=64, seed=0)
    assert torch.equal(targets["x_0"], run.dataset.images[indices] / 127.5 - 1)
    assert torch.equal(labels, run.dataset.labels[indices])
    assert torch.equal(x_t, NoiseSchedule.linear().add_noise(targets["x_0"], targets["noise"], t))
    assert torch.equal(t, targets["t"])


def test_a_step_depends_on_the_seed_and_its_number_alone(tmp_path):
    def inputs(seed, step):
        run = start(tiny_run(tmp_path, seed=seed))
        torch.manual_seed(int(torch.randint(1000, ())))  # whatever else was drawn
        run.step = step
        return torch.cat([tensor.flatten().float() for tensor in noised_batch(run)[0].values()])

    assert torch.equal(inputs(0, 3), inputs(0, 3))
    assert not torch.equal(inputs(0, 3), inputs(0, 4))
    assert not torch.equal(inputs(0, 3), inputs(1, 3))


def test_timesteps_are_uniform_and_noise_is_normal(tmp_path):
    run = start(tiny_run(tmp_path, batch_size=4000))
    _, targets = noised_batch(run)
    t = targets["t"]
    assert (t.min() >= 0) & (t.max() <= 999)
    assert torch.bincount(t // 100, minlength=10).tolist() == pytest.approx([400] * 10, abs=5 * 19)
    assert targets["noise"].mean().item() == pytest.approx(0, abs=5 / 4000**0.5 / 8)
    assert targets["noise"].std().item() == pytest.approx(1, abs=0.02)


def labels_of(tmp_path, probability: float):
    run = start(tiny_run(tmp_path, batch_size=4000, model={"class_dropout_prob": probability}))
    indices = batch_indices(0, dataset_size=len(run.dataset), batch_size=4000, seed=0)
    return noised_batch(run)[0]["class_labels"], run.dataset.labels[indices]


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_labels_are_dropped_at_their_rate_and_else_kept(tmp_path, probability):
    labels, true = labels_of(tmp_path, probability)
    dropped = labels == 10
    spread = (probability * (1 - probability) / 4000) ** 0.5
    assert dropped.float().mean().item() == pytest.approx(probability, abs=4 * spread)
    assert torch.equal(labels[~dropped], true[~dropped])


def test_without_a_null_class_no_label_is_dropped(tmp_path):
    labels, true = labels_of(tmp_path, 0)
    assert torch.equal(labels, true)


# How far a step goes.


@given(
    step=st.integers(0, 99), warmup=st.integers(0, 50),
    decay=st.sampled_from(["constant", "linear", "cosine", "trapezoid"]),
)  # fmt: skip
def test_the_learning_rate_rises_linearly_and_falls_as_named(tmp_path_factory, step, warmup, decay):
    config = tiny_run(
        tmp_path_factory.getbasetemp(), steps=100, warmup_steps=warmup, decay=decay, learning_rate=0.5,
        cooldown=0.3 if decay == "trapezoid" else None,
    )  # fmt: skip
    progress = (step - warmup) / (100 - warmup)
    falls = {
        "constant": 1.0, "linear": 1 - progress, "cosine": math.cos(math.pi * progress / 2) ** 2,
        "trapezoid": 1.0 if progress <= 0.7 else (1 - progress) / 0.3,
    }[decay]  # fmt: skip
    expected = 0.5 * ((step + 1) / warmup if step < warmup else falls)
    assert learning_rate(step, config) == pytest.approx(expected)


@given(step=st.integers(0, 69), more=st.integers(0, 1000))
def test_a_trapezoid_may_be_lengthened_before_it_falls(tmp_path_factory, step, more):
    config = tiny_run(tmp_path_factory.getbasetemp(), steps=100, decay="trapezoid", cooldown=0.3, learning_rate=0.5)
    assert learning_rate(step, replace(config, steps=100 + more)) == learning_rate(step, config)


def test_the_optimizer_takes_the_learning_rate_of_the_step(tmp_path):
    run, used = start(tiny_run(tmp_path)), []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    reported = [report.learning_rate for report in steps(run)]
    assert used == reported == [learning_rate(step, run.config) for step in range(10)]


@pytest.mark.parametrize("bound", [None, 1e-3, 1e9])
def test_gradients_are_clipped_to_the_bound_and_reported_before(tmp_path, bound):
    run, norms = start(tiny_run(tmp_path, clip_grad_norm=bound, steps=4)), []

    def measure(optimizer, *_):
        gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    run.optimizer.register_step_pre_hook(measure)
    reported = [report.grad_norm.item() for report in steps(run)]
    assert all(norm > 1e-3 for norm in reported)
    assert norms == pytest.approx([min(norm, bound or math.inf) for norm in reported], rel=1e-3)


@pytest.mark.parametrize("cap", [None, 5.0])
def test_the_loss_is_weighed_as_configured(tmp_path, cap):
    run = start(tiny_run(tmp_path, v_weight_cap=cap))
    inputs, targets = noised_batch(run)
    with torch.no_grad():
        output = run.model(**inputs).sample
    by_hand = learned_range_loss(output, **targets, schedule=NoiseSchedule.linear(), v_weight_cap=cap)
    assert torch.equal(loss_of(run, run.model).total.detach(), by_hand.total)


def test_adamw_is_set_as_configured(tmp_path):
    run = start(tiny_run(tmp_path, betas=(0.8, 0.7), weight_decay=0.25))
    (group,) = run.optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["decoupled_weight_decay"]) == ((0.8, 0.7), 0.25, True)
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in run.model.parameters() if p.requires_grad)


def test_weights_optimizer_and_average_stay_float32_under_bf16(tmp_path):
    run = start(tiny_run(tmp_path, precision="bf16"))
    seen = []
    run.model.blocks[0].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for _ in steps(run):
        pass
    assert set(seen) == {torch.bfloat16}
    moments = [value for state in run.optimizer.state.values() for value in state.values() if value.ndim]
    tensors = [*run.model.parameters(), *run.ema.weights.values(), *moments]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_a_device_may_have_a_number(tmp_path):
    assert len(list(steps(start(tiny_run(tmp_path, device="cpu:0", precision="bf16", steps=3))))) == 3


# What is equal.


def test_gradient_checkpointing_changes_no_bit(tmp_path):
    plain, checkpointed = (
        train(tiny_run(tmp_path / str(on), gradient_checkpointing=on)).state_dict() for on in (False, True)
    )
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_two_runs_of_one_config_end_in_the_same_bits_and_another_seed_does_not(tmp_path):
    models = [train(tiny_run(tmp_path / str(i), seed=seed)).state_dict() for i, seed in enumerate((3, 3, 4))]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not all(torch.equal(models[0][name], models[2][name]) for name in models[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_takes_the_same_steps(tmp_path, precision):
    plain, compiled = (
        [report.loss.item() for report in steps(start(tiny_run(tmp_path, compile=on, precision=precision, steps=5)))]
        for on in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-3 if precision == "fp32" else 5e-2)


def test_the_loss_falls(tmp_path):
    run = start(tiny_run(tmp_path, steps=80, batch_size=64, learning_rate=1e-2, decay="constant"))
    losses = [report.mse.item() for report in steps(run)]
    assert losses[0] == pytest.approx(1, abs=0.1), "the zero-initialised head says 0 to unit noise"
    assert sum(losses[-20:]) / 20 < 0.7


# What comes out.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_exported_model_is_the_average_rounded(tmp_path, dtype):
    returned = train(tiny_run(tmp_path, export_dtype=dtype))
    average = load_file(tmp_path / "checkpoint-00000010" / "ema.safetensors")
    assert all(torch.equal(returned.get_parameter(name), weight) for name, weight in average.items())
    assert not returned.training
    kept = load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {getattr(torch, dtype)}
    loaded = DiT.from_pretrained(tmp_path / "model", low_cpu_mem_usage=False).state_dict()
    for name, weight in returned.state_dict().items():
        assert torch.equal(loaded[name].float(), weight.to(getattr(torch, dtype)).float())


def test_the_log_holds_the_means_since_its_last_row(tmp_path):
    reports = []
    train(tiny_run(tmp_path, log_every=4), on_step=reports.append)
    rows = loss_rows(tmp_path)
    assert tuple(rows[0]) == LOSS_COLUMNS
    assert [int(row["step"]) for row in rows] == [4, 8, 10]
    for row, first in zip(rows, (0, 4, 8), strict=True):
        since = reports[first : int(row["step"])]
        for name in ("loss", "mse", "vlb", "grad_norm"):
            mean = sum(getattr(report, name).item() for report in since) / len(since)
            assert float(row[name]) == pytest.approx(mean, rel=1e-4)
        assert float(row["learning_rate"]) == pytest.approx(since[-1].learning_rate, rel=1e-5)
        assert float(row["loss"]) == pytest.approx(float(row["mse"]) + float(row["vlb"]), rel=1e-4)


def test_previews_show_the_average_at_their_steps_and_at_the_end(tmp_path):
    shown = {}

    def keep(model, dataset, path):
        shown[path.relative_to(tmp_path).as_posix()] = model

    final = train(tiny_run(tmp_path, preview_every=3), preview=keep)
    assert list(shown) == [f"previews/{step:08d}.png" for step in (3, 6, 9, 10)]
    last = shown["previews/00000010.png"].state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in final.state_dict().items())
    assert not any(model.training for model in shown.values())


def test_previews_change_no_bit_of_the_run(tmp_path):
    def draw(model, dataset, path):
        preview(model, dataset, num_steps=2)
        torch.manual_seed(0)

    plain = train(tiny_run(tmp_path / "plain"))
    previewed = train(tiny_run(tmp_path / "previewed", preview_every=1), preview=draw)
    pairs = zip(plain.parameters(), previewed.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_preview_is_a_column_for_each_class(tmp_path):
    model, dataset = tiny_run(tmp_path).model.build().eval(), data.load("digits")
    images = preview(model, dataset, num_steps=2)
    assert images.shape == (40, 1, 8, 8)
    assert (images.min() >= 0) & (images.max() <= 1)
    assert torch.equal(images, preview(model, dataset, num_steps=2))


# What is refused.


@pytest.mark.parametrize("wrong", [{"in_channels": 3}, {"sample_size": 16}, {"num_classes": 9}])
def test_data_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, wrong):
    name = "height, width" if "sample_size" in wrong else next(iter(wrong))
    with pytest.raises(ValueError, match=f"has in_channels 1, height 8, width 8, num_classes 10: set {name} to"):
        train(tiny_run(tmp_path / "run", model=wrong))
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="num_skips is 2: depth 2 has room for 0 to 1 skips"):
        train(tiny_run(tmp_path / "run", model={"num_skips": 2}))
    assert not (tmp_path / "run").exists()


def test_data_that_is_missing_is_said_so_and_nothing_is_written(tmp_path):
    config = tiny_run(tmp_path / "run", dataset="fashion-mnist", data_folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("explodes", [{"learning_rate": 1e30}, {"learning_rate": 1e30, "clip_grad_norm": None}])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_checkpoints_sound(tmp_path, explodes):
    config = replace(tiny_run(tmp_path, log_every=1, checkpoint_every=1, warmup_steps=0), **explodes)
    with pytest.raises(FloatingPointError, match=r"the loss is \S+ at step \d+: lower learning_rate, or take fp32"):
        train(config)
    assert all(math.isfinite(float(value)) for row in loss_rows(tmp_path) for value in row.values())
    assert len(list(tmp_path.glob("checkpoint-*"))) == len(loss_rows(tmp_path))
    assert not (tmp_path / "model").exists()


def test_the_digits_fit_their_recipe(tmp_path):
    from skipdit.recipes import digits

    start(digits(tmp_path))
    assert len(data.load("digits")) == 1797


# Other processes.


@pytest.mark.parametrize("time", ["uniform", "logit-normal"])
def test_a_flow_is_trained_by_the_same_loop_and_learns(tmp_path, time):
    run = start(
        tiny_run(
            tmp_path, model={"prediction_type": "flow_prediction"}, time=time, steps=80, batch_size=64,
            learning_rate=1e-2, decay="constant",
        )
    )  # fmt: skip
    assert run.model.config.out_channels == 1
    losses = [report.mse.item() for report in steps(run)]
    assert sum(losses[-20:]) / 20 < 0.8 * losses[0]


def test_a_run_on_a_flow_ends_in_a_model_that_draws(tmp_path):
    train(tiny_run(tmp_path, model={"prediction_type": "flow_prediction"}, preview_every=10), preview=draw_to(tmp_path))
    pipe = load_pipeline(str(tmp_path))
    assert pipe([3], num_inference_steps=2, guidance_scale=1, output_type="pt").images.shape == (1, 1, 8, 8)


def draw_to(folder):
    def draw(model, dataset, path):
        assert preview(model, dataset, num_steps=2).shape == (40, 1, 8, 8)

    return draw


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_snr": 0.0}, "min_snr is 0.0: it must be above 0"),
        ({"min_snr": 5.0, "model": {"prediction_type": "flow_prediction"}}, "a flow takes neither"),
        ({"time": "logit-normal"}, "time is logit-normal, but the model says epsilon"),
    ],
)
def test_weights_and_times_without_effect_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_run(tmp_path, **changes)
