"""A cached step is a fresh head, a remembered trunk and a fresh tail; nothing else runs and nothing else is kept."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from skipdit import SkipCacheConfig
from skipdit.caching.forecast import lagrange_weights
from tests.models.subject import (
    TIMESTEPS,
    Subject,
    assert_equal,
    in_dtype,
    memories,
    recorded,
    sample,
    tensors_remembered,
)

FORECASTS = {"hold": {}, "residual": {}, "taylor": {"order": 1}, "taylor-2": {"order": 2}}


def config(forecast: str, **settings) -> SkipCacheConfig:
    return SkipCacheConfig(forecast=forecast.split("-")[0], **FORECASTS[forecast], **settings)


class Reuses(Subject):
    @pytest.mark.parametrize("forecast", FORECASTS)
    @pytest.mark.parametrize("when", [{"interval": 1}, {"steps": range(len(TIMESTEPS))}, {"window": (950, 1000)}])
    def test_computing_every_step_equals_no_cache(self, forecast, when):
        assert_equal(self.run(self.cached(config(forecast, **when))), self.run(self.build()))

    @pytest.mark.parametrize("branch", [0, 1, 2])
    def test_a_cached_step_runs_exactly_the_outer_layers(self, branch):
        model = self.cached(SkipCacheConfig(interval=2, branch=branch))
        with recorded(self.layers(model)) as ran:
            sample(model, self.inputs(900))
            assert ran == [0, 1, 2, 3, 4, 5]
            ran.clear()
            sample(model, self.inputs(800))
        assert ran == [*range(branch), *range(6 - branch, 6)]

    @pytest.mark.parametrize("branch", [0, 1, 2])
    @pytest.mark.parametrize(("depth", "num_skips"), [(6, 3), (6, 1), (7, 3), (6, 0)])
    @torch.no_grad()
    def test_a_cached_step_joins_fresh_skips_to_the_last_computed_trunk(self, branch, depth, num_skips):
        twin = self.build(depth=depth, num_skips=num_skips)
        cached = self.cached(SkipCacheConfig(interval=3, branch=branch), depth=depth, num_skips=num_skips)
        uncached, outputs = self.run(twin), self.run(cached)
        by_hand = [
            self.compose_by_hand(twin, branch, now, remembered=[last], forecast="hold")
            for now, last in ((800, 900), (700, 900), (500, 600))
        ]
        assert_equal(outputs, [uncached[0], *by_hand[:2], uncached[3], by_hand[2]])
        assert not any(torch.equal(outputs[i], uncached[i]) for i in (1, 2, 4))

    @pytest.mark.parametrize("forecast", ["residual", "taylor", "taylor-2"])
    @torch.no_grad()
    def test_a_forecast_is_made_of_the_last_computed_steps(self, forecast):
        model = self.cached(config(forecast, steps=(0, 1, 3)))  # ##.#.
        outputs = self.run(model)
        remember = tensors_per_forecast(forecast)["steps"]
        by_hand = [
            self.compose_by_hand(self.build(), 1, now, remembered=past[-remember:], forecast=forecast)
            for now, past in ((700, [900, 800]), (500, [900, 800, 600]))
        ]
        torch.testing.assert_close([outputs[2], outputs[4]], by_hand, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("forecast", FORECASTS)
    def test_memory_holds_what_the_forecast_needs_and_no_more(self, forecast, model):
        deep = model.head(1, **self.inputs(900)).stream
        model.enable_cache(config(forecast, interval=2))
        self.run(model)
        expected = tensors_per_forecast(forecast)["tensors"] * deep.nbytes
        assert sum(tensor.untyped_storage().nbytes() for tensor in tensors_remembered(model)) == expected
        (memory,) = memories(model)
        once = sum(tensor.nbytes for tensor in tree_leaves(memory.constants) if tensor is not None)
        assert model.cache_stats()["default"].bytes_remembered == expected + once

    def test_memory_is_dropped_after_the_first_timestep_at_the_stop(self):
        model = self.cached(SkipCacheConfig(interval=3, window=(700, 1000)))
        held = []
        for timestep in TIMESTEPS:
            sample(model, self.inputs(timestep))
            held.append(len(tensors_remembered(model)))
        assert held == [1, 1, 0, 0, 0]
        assert model.cache_stats()["default"].plan == "#..##"

    def test_a_model_remembers_nothing_itself(self, model):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.enable_cache(SkipCacheConfig(interval=2))
        self.run(model)
        assert state.keys() == model.state_dict().keys()
        assert_equal(list(state.values()), list(model.state_dict().values()))

    def test_a_repeated_timestep_replaces_what_was_remembered_of_it(self):
        """Second-order samplers ask twice at each timestep; two values at one point have no polynomial."""
        model = self.cached(config("taylor", steps=(0, 1, 2)))
        outputs = [sample(model, self.inputs(t, seed=seed)) for t, seed in ((900, 0), (800, 0), (800, 1), (700, 0))]
        other = self.cached(config("taylor", steps=(0, 1)))
        expected = [sample(other, self.inputs(t, seed=seed)) for t, seed in ((900, 0), (800, 1), (700, 0))]
        assert_equal([outputs[0], *outputs[2:]], expected)
        assert outputs[-1].isfinite().all()

    def test_half_precision_stays_half(self, model):
        model = model.to(torch.bfloat16)
        model.enable_cache(config("taylor", interval=2))
        inputs = [in_dtype(self.inputs(t), torch.bfloat16) for t in TIMESTEPS]
        assert {sample(model, step).dtype for step in inputs} == {torch.bfloat16}
        assert {tensor.dtype for tensor in tensors_remembered(model)} == {torch.bfloat16}

    def test_no_value_is_read_on_the_device_unless_the_schedule_needs_it(self, model):
        """A meta tensor has no value, so that whoever reads one fails. Its place in the table tells the runs apart."""
        model = model.to("meta")
        with torch.device("meta"):
            constant = {n: v.to("meta") for n, v in self.inputs(900).items() if n in model.constant_inputs}
            table = torch.tensor(TIMESTEPS)
            places = [{"timestep": entry.expand(2)} for entry in table]
            nowhere = [
                {n: v.to("meta") for n, v in self.inputs(t).items()} | constant | place
                for t, place in zip(TIMESTEPS, places)
            ]
            model.enable_cache(SkipCacheConfig(interval=2))
            for _ in range(2):
                assert [sample(model, step).device.type for step in nowhere] == ["meta"] * 5
                assert model.cache_stats()["default"].plan == "#.#.#"
            model.disable_cache()
            model.enable_cache(SkipCacheConfig(interval=2, window=(0, 1000)))
            with pytest.raises(NotImplementedError, match="meta"):
                sample(model, nowhere[0])

    def compose_by_hand(self, model, cut: int, now: float, *, remembered: list[float], forecast: str) -> Tensor:
        """head(now), the forecast of deep from the remembered timesteps, tail(now), room by room."""
        fresh = model.head(cut, **self.inputs(now))
        shallow, deep = [], []
        for timestep in remembered:
            then = model.head(cut, **self.inputs(timestep))
            shallow.append(then.stream)
            deep.append(model.trunk(cut, then.stream, then.context))
        if forecast == "hold":
            guess = deep[-1]
        elif forecast == "residual":
            guess = fresh.stream + (deep[-1] - shallow[-1])
        else:
            guess = sum(weight * value for weight, value in zip(lagrange_weights(remembered, now), deep, strict=True))
        return model.tail(cut, guess, fresh.skips, fresh.context)


def tensors_per_forecast(forecast: str) -> dict[str, int]:
    """How many computed steps a forecast looks back on, and how many tensors it keeps of them."""
    return {
        "hold": {"steps": 1, "tensors": 1},
        "residual": {"steps": 1, "tensors": 2},
        "taylor": {"steps": 2, "tensors": 2},
        "taylor-2": {"steps": 3, "tensors": 3},
    }[forecast]
