"""Laws of Skip-Cache on models that somebody else wrote: every stock transformer of diffusers that has a layout."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import accelerate.hooks
import diffusers
import diffusers.hooks
import pytest
import torch
from diffusers import MotifVideoTransformer3DModel
from diffusers.models.transformers.transformer_rfd4_proteina import RFD4ProteinaTransformer
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

from skipdit import DiT, HunyuanDiT, SkipCacheConfig
from skipdit.caching import attach, detach
from skipdit.caching.attachment import bypassing
from skipdit.caching.layouts import LAYOUTS
from tests.caching.attached.stock import STOCK, Stock, tensors
from tests.models.subject import recorded

LEVELS = (900.0, 800.0, 700.0, 600.0, 500.0)
FEW = [stock for stock in STOCK if stock.name in ("PixArtTransformer2DModel", "FluxTransformer2DModel")]
FEW += [stock for stock in STOCK if stock.name == "HunyuanDiT2DModel"]
PIXART, FLUX, HUNYUAN = FEW


def by_name(stocks: list[Stock]):
    return pytest.mark.parametrize("stock", stocks, ids=lambda stock: stock.name)


def find(name: str) -> Stock:
    return next(stock for stock in STOCK if stock.name == name)


@torch.no_grad()
def run(model, stock: Stock, *, levels=LEVELS, seed: int = 0, conditions=None) -> list[list[torch.Tensor]]:
    conditions = stock.draw_conditions(seed) if conditions is None else conditions
    return [tensors(model(**stock.call(level, conditions, seed=seed))) for level in levels]


def equal(ours, theirs) -> list[bool]:
    return [all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(ours, theirs, strict=True)]


def cached(stock: Stock, **settings):
    model = stock.build()
    attachment = attach(model)
    attachment.enable_cache(SkipCacheConfig(**settings))
    return model, attachment


def first_parts(attachment) -> list[nn.Module]:
    return [layer[0] for layer in attachment.layers]


def test_every_stock_layout_is_tried():
    stock = {name for name in LAYOUTS if hasattr(diffusers, name)}
    assert stock == {stock.name for stock in STOCK}


@by_name(STOCK)
def test_a_model_that_computes_every_step_gives_the_same_bits_and_is_given_back_as_it_was(stock):
    model, uncached = stock.build(), run(stock.build(), stock)
    state, classes, names = dict(model.state_dict()), [type(each) for each in model.modules()], set(vars(model))
    attachment = attach(model)
    assert attachment.depth == stock.depth
    attachment.enable_cache(SkipCacheConfig(interval=1))
    assert model.state_dict().keys() == state.keys()
    assert all(equal(run(model, stock), uncached))
    detach(model)
    assert all(equal(run(model, stock), uncached))
    assert [type(each) for each in model.modules()] == classes
    assert set(vars(model)) - names <= {"_diffusers_hook", "_cache_config"}


@by_name(STOCK)
@pytest.mark.parametrize("branch", [1, 2])
def test_a_cached_step_runs_the_layers_that_somebody_reads(stock, branch):
    """2k of them in a model with long skips, else the tail alone; a computed one is the uncached pass, bit for bit."""
    model, attachment = cached(stock, interval=3, branch=branch)
    conditions, outputs, ran = stock.draw_conditions(), [], []
    for level in LEVELS:
        with recorded(first_parts(attachment)) as layers:
            outputs += run(model, stock, levels=(level,), conditions=conditions)
        ran.append(layers)
    head = [*range(branch)] if stock.skips else []
    outer = head + [*range(stock.depth - branch, stock.depth)]
    assert ran == [[*range(stock.depth)], outer, outer, [*range(stock.depth)], outer]
    assert equal(outputs, run(stock.build(), stock)) == [True, False, False, True, False]
    assert attachment.cache_stats()["default"].plan == "#..#."


@by_name([find(name) for name in ("SD3Transformer2DModel", "ZImageTransformer2DModel", "WanTransformer3DModel")] + FEW)
def test_nobody_reads_a_head_that_is_not_run(stock):
    """Rubbish in the place of its outputs on cached steps changes no bit, but where long skips carry it to the tail."""
    model, attachment = cached(stock, interval=2)
    clean = run(model, stock)
    attachment.detach()
    attachment = attach(model)
    attachment.enable_cache(SkipCacheConfig(interval=2))
    attachment.hook.bypassed = attachment.hook.trunk  # run the head, so that there is something to poison
    seen = []

    def poison(module, args, output):
        seen.append(attachment.hook.call.seam.deep is not None)
        return torch.utils._pytree.tree_map(lambda each: each * float("nan"), output) if seen[-1] else output

    attachment.layers[0][0].register_forward_hook(poison)
    assert all(equal(run(model, stock), clean)) != stock.skips
    assert seen == [False, True, False, True, False]


def test_stock_hunyuan_attached_is_our_own_cached_hunyuan():
    theirs, attachment = cached(HUNYUAN, interval=3, branch=2)
    ours = HunyuanDiT.from_diffusers(HUNYUAN.build(), rotary="given").eval()
    ours.enable_cache(SkipCacheConfig(interval=3, branch=2))
    assert all(equal(run(ours, HUNYUAN), run(theirs, HUNYUAN)))
    assert attachment.cache_stats()["default"][:3] == ours.cache_stats()["default"][:3]


@by_name(FEW)
@pytest.mark.parametrize("forecast", ["hold", "taylor"])
def test_a_cached_step_joins_the_tail_to_the_last_trunks(stock, forecast):
    """By hand: the layers' outputs are recorded, and what leaves the trunk replaced by a hook."""
    model, attachment = cached(stock, steps=(0, 1), branch=1, forecast=forecast)
    ours = run(model, stock, levels=LEVELS[:3])[2]
    attachment.detach()
    end, kept = attach(model).layers[-2][-1], []
    keeping = end.register_forward_hook(lambda module, args, output: kept.append(output))
    run(model, stock, levels=LEVELS[:2])
    keeping.remove()
    first, second = (tree_leaves(each) for each in kept)
    guess = second if forecast == "hold" else [2 * b - a for a, b in zip(first, second)]
    spec = torch.utils._pytree.tree_structure(kept[0])
    end.register_forward_hook(lambda *_: torch.utils._pytree.tree_unflatten(guess, spec))
    by_hand = run(model, stock, levels=LEVELS[2:3])[0]
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)


@by_name(STOCK)
def test_nothing_writes_into_what_is_remembered(stock):
    """Neither the tail nor the model's loop; else the next cached step would begin with it."""
    model, attachment = cached(stock, interval=9)
    conditions = stock.draw_conditions()
    run(model, stock, levels=LEVELS[:1], conditions=conditions)
    (memory,) = attachment.hook.runs.memories
    remembered = tensors(memory.past[0].deep)
    copies = [each.clone() for each in remembered]
    run(model, stock, levels=LEVELS[1:3], conditions=conditions)
    assert all(equal([remembered], [copies]))


def test_the_residual_forecast_takes_one_stream_and_no_pair():
    stock = find("WanTransformer3DModel")
    model, _ = cached(stock, interval=2, forecast="residual")
    assert equal(run(model, stock), run(stock.build(), stock)) == [True, False, True, False, True]
    model, _ = cached(FLUX, interval=2, forecast="residual")
    with pytest.raises(ValueError, match="forecast residual needs layers that return one tensor: take taylor"):
        run(model, FLUX)


def test_a_threshold_sees_the_stream_that_enters_the_trunk():
    model, attachment = cached(PIXART, threshold=1e9, branch=2)
    run(model, PIXART)
    assert attachment.cache_stats()["default"].plan == "#...."
    model, attachment = cached(PIXART, threshold=1e-9, branch=0)
    run(model, PIXART)
    assert attachment.cache_stats()["default"].plan == "#####"


@by_name(STOCK)
def test_a_run_that_was_broken_off_runs_in_turns_and_other_sizes_leave_nothing_behind(stock):
    model, attachment = cached(stock, interval=3)
    expected = [run(cached(stock, interval=3)[0], stock, seed=seed) for seed in (0, 1)]
    run(model, stock, levels=LEVELS[:2], seed=2)
    together = ([], [])
    conditions = [stock.draw_conditions(seed) for seed in (0, 1)]
    for level in LEVELS:
        for seed in (0, 1):
            together[seed].extend(run(model, stock, levels=(level,), seed=seed, conditions=conditions[seed]))
    assert [all(equal(together[seed], expected[seed])) for seed in (0, 1)] == [True, True]
    assert [stats.plan for stats in list(attachment.cache_stats().values())[:2]] == ["#..#."] * 2


@by_name(FEW)
def test_threads_are_told_apart_call_by_call(stock):
    """Calls cross: each thread waits behind its first layer until the other is there too."""
    model, attachment = cached(stock, interval=3)
    expected = [run(cached(stock, interval=3)[0], stock, seed=seed) for seed in (1, 2)]
    barrier = threading.Barrier(2, timeout=60)

    def meet(*_) -> None:
        barrier.wait()

    @torch.no_grad()
    def draw(calls):
        return [tensors(model(**call)) for call in calls]

    attachment.layers[-1][0].register_forward_hook(meet)
    conditions = {seed: stock.draw_conditions(seed) for seed in (1, 2)}
    calls = [[stock.call(level, conditions[seed], seed=seed) for level in LEVELS] for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(draw, each) for each in calls]
        outputs = [each.result() for each in runs]
    assert [all(equal(mine, alone)) for mine, alone in zip(outputs, expected)] == [True, True]


@by_name(FEW)
def test_an_error_inside_a_layer_leaves_nothing_behind(stock):
    model, attachment = cached(stock, interval=3)

    def fail(*_):
        raise KeyboardInterrupt

    conditions = stock.draw_conditions()
    failing = attachment.layers[-1][0].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(model, stock, conditions=conditions)
    failing.remove()
    assert all(equal(run(model, stock, conditions=conditions), run(cached(stock, interval=3)[0], stock)))


def test_a_context_with_a_step_index_names_the_run():
    """As the pipelines of Wan have it: new objects may come at each step."""
    stock = find("WanTransformer3DModel")
    model, attachment = cached(stock, interval=3)
    outputs = []
    for index, level in enumerate(LEVELS):
        for name in ("cond", "uncond"):
            with model.cache_context(name, step_index=index):
                outputs += run(model, stock, levels=(level,), conditions=stock.draw_conditions(name == "cond"))
    plans = {name: stats.plan for name, stats in attachment.cache_stats().items()}
    assert plans == {"cond": "#..#.", "uncond": "#..#."}
    assert all(equal(outputs[1::2], run(cached(stock, interval=3)[0], stock)))


def test_a_call_with_skipped_layers_computes_outside_of_the_run():
    """The skip-layer guidance of SD3 leaves layers out, the last of the trunk perhaps among them."""
    stock = find("SD3Transformer2DModel")
    model, attachment = cached(stock, interval=2)
    conditions, outputs = stock.draw_conditions(), []
    for level in LEVELS:
        outputs += run(model, stock, levels=(level,), conditions=conditions)
        fewer = conditions | {"skip_layers": [4]}
        without, alone = (run(each, stock, levels=(level,), conditions=fewer) for each in (model, stock.build()))
        assert all(equal(without, alone))
    assert all(equal(outputs, run(cached(stock, interval=2)[0], stock)))
    assert attachment.cache_stats()["default"].plan == "#.#.#"


def test_windows_are_in_noise_levels_whatever_the_timesteps_are():
    """1000 is noise: Flux counts from 1 to 0, Z-Image from 0 to 1, Mochi from 0 to 1000."""
    for name in ("Wan", "Flux", "ZImage", "Mochi"):
        stock = next(stock for stock in STOCK if stock.name.startswith(name + "Transformer"))
        model, attachment = cached(stock, interval=9, window=(650, 850))
        run(model, stock)
        assert attachment.cache_stats()["default"].plan == "#...#", name


def test_of_a_timestep_for_each_token_the_most_noise_counts():
    """Image-to-video of Wan 5B: conditioned tokens have 0."""
    stock = find("WanTransformer3DModel")
    model, attachment = cached(stock, interval=9, window=(650, 850))
    conditions = stock.draw_conditions()
    tokens = 2 * 4 * 4
    for level in LEVELS:
        call = stock.call(level, conditions)
        call["timestep"] = torch.full((2, tokens), level)
        call["timestep"][:, :4] = 0
        with torch.no_grad():
            model(**call)
    assert attachment.cache_stats()["default"].plan == "#...#"


COMPILED = [stock for stock in STOCK if stock.name != "Lumina2Transformer2DModel"]


@pytest.mark.parametrize(
    "stock",
    [pytest.param(stock, marks=[] if stock in FEW else pytest.mark.slow, id=stock.name) for stock in COMPILED],
)
def test_the_model_compiles_into_two_graphs(stock):
    """But Lumina2's, whose forward reads values (`len(set(seq_lengths))`) with and without a cache."""
    torch._dynamo.reset()
    model, _ = cached(stock, interval=3)
    levels = tuple(map(float, range(950, 650, -30)))
    expected = run(model, stock, levels=levels)  # Z-Image makes its rotary tables in its first call
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    conditions, outputs, graphs = stock.draw_conditions(), [], []
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for level in levels:
            outputs += run(compiled, stock, levels=(level,), conditions=conditions)
            graphs.append(backend.frame_count)
    assert graphs == [1] + [2] * 9
    assert all(equal(outputs, expected))


class Counting(diffusers.hooks.ModelHook):
    """Stands for what wraps a forward, as offloading does."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


@by_name(FEW)
@pytest.mark.parametrize("inner", [False, True], ids=["root", "layers"])
@pytest.mark.parametrize("library", ["diffusers", "accelerate"])
@pytest.mark.parametrize("order", ["cache first", "hook first"])
def test_other_hooks_come_and_go_in_any_order(stock, inner, library, order):
    model, uncached = stock.build(), run(stock.build(), stock)
    attachment, expected = attach(model), run(cached(stock, interval=2)[0], stock)
    targets = [layer[0] for layer in attachment.layers] if inner else [model]
    hook = Counting() if library == "diffusers" else type("Hook", (accelerate.hooks.ModelHook,), {})()

    def put_on():
        for target in targets:
            if library == "diffusers":
                diffusers.hooks.HookRegistry.check_if_exists_or_initialize(target).register_hook(hook, "counting")
            else:
                accelerate.hooks.add_hook_to_module(target, hook)

    def take_off():
        for target in targets:
            if library == "diffusers":
                target._diffusers_hook.remove_hook("counting")
            else:
                accelerate.hooks.remove_hook_from_module(target)

    steps = [lambda: attachment.enable_cache(SkipCacheConfig(interval=2)), put_on]
    for step in steps if order == "cache first" else steps[::-1]:
        step()
    assert all(equal(run(model, stock), expected))
    if order == "cache first":
        attachment.disable_cache()
        assert all(equal(run(model, stock), uncached))
        take_off()
    else:
        take_off()
        assert all(equal(run(model, stock), expected))
        attachment.disable_cache()
    assert all(equal(run(model, stock), uncached))


OFFLOADS = [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]


@by_name([PIXART, FLUX])  # HunyuanDiT2DModel does not offload groups
@pytest.mark.parametrize("offload", OFFLOADS)
def test_group_offloading_changes_no_bit(stock, offload, tmp_path):
    model, attachment = cached(stock, interval=3)
    expected = run(cached(stock, interval=3)[0], stock)
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_to_disk_path=str(tmp_path), **offload)
    assert all(equal(run(model, stock), expected))


def test_groups_of_several_layers_are_refused(tmp_path):
    model, _ = cached(PIXART, interval=3)
    model.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=2)
    with pytest.raises(RuntimeError, match="num_blocks_per_group=1"):
        run(model, PIXART)


@by_name(FEW)
def test_layerwise_casting_changes_no_bit(stock):
    def cast(model):
        model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
        return model

    expected = run(cast(stock.build()), stock)
    model = cast(stock.build())
    attach(model).enable_cache(SkipCacheConfig(interval=3))
    assert equal(run(model, stock), expected) == [True, False, False, True, False]


CONTROLS = {  # what a ControlNet hands over, new at each step, and the layers that it is added to
    "SD3Transformer2DModel": lambda: {"block_controlnet_hidden_states": [torch.randn(2, 16, 16) for _ in range(6)]},
    "FluxTransformer2DModel": lambda: {
        "controlnet_block_samples": [torch.randn(2, 16, 32) for _ in range(3)],
        "controlnet_single_block_samples": [torch.randn(2, 16, 32) for _ in range(3)],
    },
    "HunyuanDiT2DModel": lambda: {"controlnet_block_samples": [torch.randn(2, 16, 16) for _ in range(2)]},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_new_at_each_step_and_no_run_is_known_by_them(name):
    """The model's own loop adds them; those of the trunk's layers go into values that nobody reads in a cached step."""
    stock = find(name)
    model, attachment = cached(stock, interval=2)
    conditions = stock.draw_conditions()
    controls = [CONTROLS[name]() for _ in LEVELS]

    def draw(model):
        given = [{key: list(value) for key, value in each.items()} for each in controls]  # HunyuanDiT empties them
        calls = zip(LEVELS, given)
        return [run(model, stock, levels=(level,), conditions=conditions | each)[0] for level, each in calls]

    outputs, uncached = draw(model), draw(stock.build())
    assert attachment.cache_stats()["default"].plan == "#.#.#"
    assert equal(outputs, uncached) == [True, False, True, False, True]


@by_name([FLUX, find("WanTransformer3DModel")])
@pytest.mark.parametrize("adapter_first", [True, False])
def test_an_adapter_comes_before_or_after_the_cache(stock, adapter_first):
    peft = pytest.importorskip("peft")

    def adapt(model):
        torch.manual_seed(1)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        return model

    model, expected = stock.build(), run(adapt(stock.build()), stock)
    attachment = attach(adapt(model) if adapter_first else model)
    attachment.enable_cache(SkipCacheConfig(interval=2))
    if not adapter_first:
        adapt(model)
    assert equal(run(model, stock), expected) == [True, False, True, False, True]
    attachment.detach()
    assert all(equal(run(model, stock), expected))


def test_an_unknown_class_is_cached_by_its_layers_and_checked_at_its_first_call():
    model, uncached = Plain(), Plain()
    with pytest.raises(ValueError, match=r"Plain is unknown: name its layers .*, as layers=\('blocks',\)"):
        attach(model)
    with pytest.raises(ValueError, match="has no argument 'hidden_states': it takes x, time, y"):
        attach(model, layers=("blocks",), timestep="time")
    attachment = attach(model, layers="blocks", sample="x", timestep="time")
    attachment.enable_cache(SkipCacheConfig(interval=2))
    y = torch.ones(1, 3)
    with torch.no_grad():
        outputs = [model(torch.full((1, 3), 0.1 * i), torch.tensor([100 - i]), y) for i in range(3)]
        expected = [uncached(torch.full((1, 3), 0.1 * i), torch.tensor([100 - i]), y) for i in range(3)]
    assert [torch.equal(a, b) for a, b in zip(outputs, expected)] == [True, False, True]
    assert attachment.cache_stats()["default"].plan == "#.#"


class Described:
    """Conditioning that is no tensor, and says nothing of what is in it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __repr__(self) -> str:
        return "Described"


@pytest.mark.filterwarnings("ignore:.*this run has no conditioning")
def test_conditioning_of_any_kind_tells_runs_apart():
    """Objects by their identity, values by what they are, behind *args too."""

    class Conditioned(Plain):
        def forward(self, x, time, *given):
            return super().forward(x, time, sum(each.tensor if isinstance(each, Described) else each for each in given))

    pairs = [(torch.ones(1, 3), torch.full((1, 3), 2.0)), (Described(torch.ones(1, 3)), Described(torch.zeros(1, 3)))]
    for one, other in [*pairs, (1.0, 2.0)]:
        model = Conditioned()
        attachment = attach(model, layers="blocks", sample="x", timestep="time")
        attachment.enable_cache(SkipCacheConfig(interval=9))
        calls = [(900, one), (800, one), (600, other), (500, other)]
        with torch.no_grad():
            for level, given in calls:
                model(torch.ones(1, 3), torch.tensor([float(level)]), 0.0, given)
        assert sorted(stats.plan for stats in attachment.cache_stats().values())[-1] == "#."
        assert all(len(stats.plan) <= 2 for stats in attachment.cache_stats().values())


def test_ctrl_c_inside_a_layer_leaves_no_seam_behind():
    """A layer that is called by itself afterwards runs, and a later call of `forward` computes."""
    model, attachment = cached(PIXART, interval=2)
    conditions = PIXART.draw_conditions()
    run(model, PIXART, levels=LEVELS[:1], conditions=conditions)

    def stop(*_):
        raise KeyboardInterrupt

    failing = attachment.layers[-1][0].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, PIXART, levels=LEVELS[1:2], conditions=conditions)
    failing.remove()
    assert attachment.hook.call.seam is None
    other = PIXART.draw_conditions(5)
    with torch.no_grad(), pytest.warns(UserWarning, match="layers run in a method of the model"):
        outputs = tensors(model.forward(**PIXART.call(700.0, other)))
    assert all(equal([outputs], run(PIXART.build(), PIXART, levels=(700.0,), conditions=other)))


def test_each_branch_is_checked():
    """The first layer writes into what it is given, so that no branch but 0 remembers what the trunk returned."""
    model = Plain(leak="late")
    attachment = attach(model, layers="blocks", sample="x", timestep="time")
    call = {"x": torch.ones(1, 3), "time": torch.tensor([100]), "y": torch.ones(1, 3)}
    attachment.enable_cache(SkipCacheConfig(interval=2, branch=0))
    with torch.no_grad():
        model(**call)
    attachment.disable_cache()
    attachment.enable_cache(SkipCacheConfig(interval=2, branch=1))
    with torch.no_grad(), pytest.raises(ValueError, match="something that the layers change passes by"):
        model(**call)


@pytest.mark.parametrize("leak", ["beside", "order"])
def test_a_model_whose_layers_do_not_return_all_is_refused(leak):
    model = Plain(leak=leak)
    attach(model, layers=("blocks",), sample="x", timestep="time").enable_cache(SkipCacheConfig(interval=2))
    message = "something that the layers change passes by" if leak == "beside" else "in running order"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model(torch.ones(1, 3), torch.tensor([100]), torch.ones(1, 3))


class Plain(nn.Module):
    """A model that no table knows; with a leak, a second stream is made of what the layers return, or one runs late."""

    def __init__(self, *, leak: str = ""):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        self.leak = leak
        self.eval()

    def forward(self, x, time, y):
        beside = y
        for index, block in enumerate(reversed(self.blocks) if self.leak == "order" else self.blocks):
            x = block(x + beside)
            changes = self.leak == "beside" or (self.leak == "late" and index == 1)
            beside = beside + x if changes else beside
        return x * time


def test_misuse_is_one_line():
    model = PIXART.build()
    for call, message in [
        (lambda: attach(model, layers=("no_such",)), "layers name no_such: .*no_such"),
        (lambda: attach(model, layers=("transformer_blocks", "transformer_blocks")), "some twice; name each list once"),
        (lambda: attach(diffusers.DDIMScheduler()), "model is a DDIMScheduler: give a pipeline's transformer"),
        (lambda: attach(torch.compile(model)), "model is a OptimizedModule: .* compile it afterwards"),
        (lambda: attach(model, timestep="t"), "timestep given without layers"),
        (lambda: attach(model, layers="transformer_blocks", layout=LAYOUTS["UViT"]), "a layout names the layers"),
        (lambda: attach(model, layers=("transformer_blocks",), changing=("txt",)), "has no argument 'txt': it takes"),
        (lambda: attach(model, layers=("transformer_blocks",), constant=("txt",)), "has no argument 'txt': it takes"),
        (lambda: attach(DiT(sample_size=8, hidden_size=16, depth=4, num_heads=2)), "has Skip-Cache itself"),
        (lambda: detach(model), "is not attached: nothing to detach"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    attachment = attach(model)
    for call, message in [
        (lambda: attach(model), "attached already"),
        (lambda: attachment.enable_cache(SkipCacheConfig(branch=3)), "branch is 3: a model of 6 layers takes 0 to 2"),
        (attachment.disable_cache, "is not on: call enable_cache"),
        (attachment.cache_stats, "is not on: call enable_cache"),
        (lambda: attachment.enable_cache({"interval": 2}), "config is a dict: give a SkipCacheConfig"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    attachment.enable_cache(SkipCacheConfig())
    with pytest.raises(ValueError, match="a cache is on already"):
        attachment.enable_cache(SkipCacheConfig())
    with pytest.raises(RuntimeError, match="cannot be copied: detach it first"):
        copy.deepcopy(model)
    attachment.detach()
    for call in (attachment.detach, lambda: attachment.enable_cache(SkipCacheConfig()), attachment.cache_stats):
        with pytest.raises(ValueError, match=r"was detached: call attach\(model\) again"):
            call()
    assert all(equal(run(copy.deepcopy(model), PIXART), run(PIXART.build(), PIXART)))


def test_a_cache_of_diffusers_and_ours_refuse_one_another():
    model = FLUX.build()
    attachment = attach(model)
    attachment.enable_cache(SkipCacheConfig())
    with pytest.raises(ValueError, match="already"):
        model.enable_cache(diffusers.hooks.FirstBlockCacheConfig(threshold=0.1))
    attachment.disable_cache()
    model.enable_cache(diffusers.hooks.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="a cache is on already"):
        attachment.enable_cache(SkipCacheConfig())
    model.disable_cache()
    diffusers.hooks.apply_first_block_cache(model, diffusers.hooks.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match=r"a cache is on already \(FBC"):
        attachment.enable_cache(SkipCacheConfig())


@pytest.mark.parametrize("kind", [RFD4ProteinaTransformer, MotifVideoTransformer3DModel])
def test_a_class_of_diffusers_where_something_passes_by_is_refused_by_name(kind):
    with torch.device("meta"), pytest.raises(ValueError, match="cannot be cached: .* passes by its layers"):
        attach(kind.__new__(kind))


def test_a_batch_that_changes_within_a_run_begins_another():
    """Z-Image's cfg_truncation ends guidance, which halves the batch."""
    model, attachment = cached(PIXART, interval=3)
    conditions = PIXART.draw_conditions()
    halved = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in conditions.items()}
    run(model, PIXART, levels=LEVELS[:2], conditions=conditions)
    uncached = PIXART.build()
    with torch.no_grad():
        for level in LEVELS[2:4]:
            call = PIXART.call(level, halved) | {"hidden_states": torch.ones(1, 4, 8, 8)}
            call["timestep"] = call["timestep"][:1].clone()
            outputs = [tensors(each(**call)) for each in (model, uncached)]
            assert equal(outputs[:1], outputs[1:]) == [level == LEVELS[2]]


def test_a_layer_keeps_its_class_by_name_and_kind():
    kind = bypassing(nn.Linear)
    assert issubclass(kind, nn.Linear)
    assert (kind.__name__, kind.__module__) == (nn.Linear.__name__, nn.Linear.__module__)


def test_training_is_refused():
    model, _ = cached(PIXART)
    with pytest.raises(RuntimeError, match=r"no_grad"), nullcontext():
        model(**PIXART.call(900, PIXART.draw_conditions()))
