"""HunyuanDiT is diffusers' HunyuanDiT2DModel, takes its controls, and may live in its weights."""

import accelerate
import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DModel
from diffusers.hooks import apply_group_offloading
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from skipdit import HunyuanDiT, SkipCacheConfig
from tests.models.subject import HUNYUAN_SIZES, Inputs, assert_equal, hunyuan_text, randomised, sample

CONFIG = HUNYUAN_SIZES | {"in_channels": 4, "patch_size": 2, "num_layers": 6}
GRIDS = [(2, 2), (4, 4), (3, 3), (4, 2), (2, 5)]  # in patches
OWN = ("num_skips", "prediction_type", "rotary")


def stock(**config) -> HunyuanDiT2DModel:
    return randomised(HunyuanDiT2DModel(**CONFIG | config))


def both(*, rotary: str = "given", **config) -> tuple[HunyuanDiT, HunyuanDiT2DModel]:
    """Our model and theirs, with the same weights, apart."""
    theirs = stock(**config)
    ours = HunyuanDiT(**CONFIG | config, rotary=rotary)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs


def inputs(timestep: float = 500, *, grid: tuple[int, int] = (2, 2), batch: int = 2, told: bool = False) -> Inputs:
    """A call as HunyuanDiTPipeline makes it, with its own rotary tables; `told` of sizes and style (version 1.1)."""
    rng = torch.Generator().manual_seed(int(timestep))
    crops = get_resize_crop_region_for_grid(grid, 32)
    conditions = {"image_meta_size": torch.rand(batch, 6).mul(1024).round(), "style": torch.zeros(batch).long()}
    return {
        "hidden_states": torch.randn(batch, 4, *(2 * side for side in grid), generator=rng),
        "timestep": torch.full((batch,), float(timestep)),
        **hunyuan_text(batch),
        "image_rotary_emb": get_2d_rotary_pos_embed(8, crops, grid, output_type="pt"),
        **(conditions if told else {}),
    }


def masked(**like) -> Inputs:
    """With texts of other lengths in each row, one of them empty."""
    clip, t5 = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]), torch.tensor([[1, 0, 0, 0, 0, 0, 0], [1] * 7])
    return inputs(**like) | {"text_embedding_mask": clip, "text_embedding_mask_t5": t5}


class TestForward:
    @pytest.mark.parametrize("timestep", [0, 1, 500, 991, 999])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_equals_theirs(self, timestep, batch):
        ours, theirs = both()
        step = inputs(timestep, batch=batch)
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize("grid", GRIDS)
    def test_equals_theirs_at_every_size_with_given_tables(self, grid):
        ours, theirs = both()
        assert torch.equal(sample(ours, inputs(grid=grid)), sample(theirs, inputs(grid=grid)))

    @pytest.mark.parametrize("grid", GRIDS)
    def test_equals_theirs_with_tables_of_our_own_for_squares_alone(self, grid):
        ours, theirs = both(rotary="exact")
        step = inputs(grid=grid)
        assert torch.equal(sample(ours, step), sample(theirs, step)) == (grid[0] == grid[1])

    @pytest.mark.parametrize("grid", [(2, 2), (4, 2)])
    def test_equals_theirs_for_masked_text(self, grid):
        ours, theirs = both()
        assert torch.equal(sample(ours, masked(grid=grid)), sample(theirs, masked(grid=grid)))
        assert not torch.equal(sample(ours, masked()), sample(ours, inputs()))

    @pytest.mark.parametrize("grid", [(2, 2), (4, 2)])
    def test_equals_theirs_with_sizes_and_style(self, grid):
        ours, theirs = both(use_style_cond_and_image_meta_size=True)
        step = inputs(grid=grid, told=True)
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize(
        "config", [{"learn_sigma": False}, {"num_layers": 2}, {"num_layers": 1}, {"patch_size": 1}]
    )
    def test_equals_theirs_in_other_architectures(self, config):
        ours, theirs = both(**config)
        step = inputs(grid=(4, 4) if config == {"patch_size": 1} else (2, 2))
        if config == {"patch_size": 1}:
            step["hidden_states"] = step["hidden_states"][..., :4, :4]
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_equals_theirs_in_half_precision(self, dtype):
        """Theirs computes in the type of the timestep; 500 is exact in both."""
        ours, theirs = (model.to(dtype) for model in both())
        step = {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in inputs().items()
        }
        exact = step | {"timestep": step["timestep"].float()}
        assert torch.equal(sample(ours, exact), sample(theirs, step))

    def test_gradients_equal_theirs(self):
        gradients = []
        for model in both():
            model.train()(**inputs()).sample.square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        ours, theirs = gradients
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # sums of the same terms in another order

    def test_odd_depths_run_here_and_not_there(self):
        """Theirs opens one skip less than it closes; the state dict is the same."""
        ours, theirs = both(num_layers=7)
        with pytest.raises(IndexError, match="pop from empty list"):
            sample(theirs, inputs())
        assert ours.num_skips == 3
        assert torch.equal(sample(ours, inputs()), sample(HunyuanDiT.from_diffusers(theirs, rotary="given"), inputs()))


class TestControls:
    def controlnet(self, **config) -> HunyuanDiT2DControlNetModel:
        theirs = ("norm_type", "learn_sigma", "num_layers")
        shared = {name: value for name, value in (CONFIG | config).items() if name not in theirs}
        return randomised(HunyuanDiT2DControlNetModel(**shared, transformer_num_layers=CONFIG["num_layers"]), seed=1)

    @pytest.mark.parametrize("grid", [(2, 2), (4, 2)])
    @pytest.mark.parametrize("told", [False, True])
    def test_equals_theirs_under_their_controlnet(self, grid, told):
        config = {"use_style_cond_and_image_meta_size": told}
        ours, theirs = both(**config)
        step = inputs(grid=grid, told=told)
        with torch.no_grad():
            (controls,) = self.controlnet(**config)(
                **step, controlnet_cond=torch.randn_like(step["hidden_states"]), return_dict=False
            )
        assert len(controls) == ours.num_skips == 2
        outputs = [sample(model, step | {"controlnet_block_samples": list(controls)}) for model in (ours, theirs)]
        assert torch.equal(*outputs)
        assert not torch.equal(outputs[0], sample(ours, step))

    def test_a_controlnet_is_made_from_ours_as_from_theirs(self):
        ours, theirs = both(use_style_cond_and_image_meta_size=True, pooled_projection_dim=1024)
        made = [
            HunyuanDiT2DControlNetModel.from_transformer(model, transformer_num_layers=6).state_dict()
            for model in (ours, theirs)
        ]
        assert made[0].keys() == made[1].keys()
        copied = [name for name in made[0] if not name.startswith(("controlnet_blocks", "input_block"))]
        assert_equal(*([weights[name] for name in copied] for weights in made))


class TestFolders:
    def test_key_names_and_shapes_are_theirs(self):
        with torch.device("meta"):
            for version in (True, False):
                told = {"use_style_cond_and_image_meta_size": version}
                theirs = HunyuanDiT2DModel(
                    in_channels=4,
                    patch_size=2,
                    sample_size=128,
                    hidden_size=1408,
                    num_layers=40,
                    mlp_ratio=4.3637,
                    **told,
                )
                ours = HunyuanDiT(**told)
                shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
                assert shapes[0] == shapes[1]
                assert {key: ours.config[key] for key in theirs.config if key[0] != "_"} == {
                    key: value for key, value in theirs.config.items() if key[0] != "_"
                }
        assert len(shapes[0]) == 1544

    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_a_folder_of_theirs_is_loaded_whole(self, low_cpu_mem_usage, tmp_path):
        theirs = stock()
        theirs.save_pretrained(tmp_path)
        loaded, told = HunyuanDiT.from_pretrained(
            tmp_path, low_cpu_mem_usage=low_cpu_mem_usage, output_loading_info=True
        )
        assert not any(told.values())
        assert torch.equal(sample(loaded, inputs()), sample(theirs, inputs()))

    def test_a_folder_of_ours_is_loaded_by_theirs(self, tmp_path):
        ours, theirs = both()
        ours.save_pretrained(tmp_path)
        assert torch.equal(sample(HunyuanDiT2DModel.from_pretrained(tmp_path), inputs()), sample(theirs, inputs()))


class TestFromDiffusers:
    """The stock model in three rooms: the same weights, not a copy."""

    @pytest.mark.parametrize("version", [False, True])
    def test_every_parameter_is_the_very_same(self, version):
        theirs = stock(use_style_cond_and_image_meta_size=version)
        ours = HunyuanDiT.from_diffusers(theirs)
        mine, yours = dict(ours.named_parameters()), dict(theirs.named_parameters())
        assert mine.keys() == yours.keys()
        assert all(mine[name] is yours[name] for name in mine)
        assert [p.data_ptr() for p in ours.parameters()] == [mine[name].data_ptr() for name in mine]
        assert not [name for name, buffer in ours.named_buffers() if buffer.is_meta]

    @pytest.mark.parametrize("version", [False, True])
    @pytest.mark.parametrize("grid", [(2, 2), (4, 2)])
    def test_both_work_and_give_the_same(self, version, grid):
        theirs = stock(use_style_cond_and_image_meta_size=version)
        step = inputs(grid=grid, told=version)
        before = sample(theirs, step)
        ours = HunyuanDiT.from_diffusers(theirs, rotary="given")
        assert torch.equal(sample(ours, step), before)
        assert torch.equal(sample(theirs, step), before)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_frozen_weights_give_the_same_too(self, frozen):
        """torch multiplies matrices in another way where they need no gradient."""
        theirs = stock(use_style_cond_and_image_meta_size=True).requires_grad_(not frozen)
        step = inputs(told=True)
        assert torch.equal(sample(HunyuanDiT.from_diffusers(theirs), step), sample(theirs, step))

    def test_a_cache_on_ours_leaves_theirs_alone(self):
        theirs = stock()
        ours = HunyuanDiT.from_diffusers(theirs)
        steps = [inputs(timestep) for timestep in (900, 800, 700)]
        expected = [sample(theirs, step) for step in steps]
        ours.enable_cache(SkipCacheConfig(interval=2))
        cached = [sample(ours, step) for step in steps]
        assert_equal([cached[0], cached[2]], [expected[0], expected[2]])
        assert not torch.equal(cached[1], expected[1])
        assert_equal([sample(theirs, step) for step in steps], expected)

    def test_weights_that_change_later_change_in_both(self):
        theirs = stock()
        ours = HunyuanDiT.from_diffusers(theirs)
        theirs.to(torch.float64)
        assert {p.dtype for p in ours.parameters()} == {torch.float64}
        randomised(ours, seed=1)
        theirs.to(torch.float32)
        assert torch.equal(sample(ours, inputs()), sample(theirs, inputs()))

    def test_it_takes_over_whether_it_trains_and_what_it_is(self):
        theirs = stock()
        assert not HunyuanDiT.from_diffusers(theirs).training
        ours = HunyuanDiT.from_diffusers(theirs.train(), prediction_type="epsilon")
        assert ours.training
        assert (ours.config.prediction_type, ours.config.rotary) == ("epsilon", "exact")
        assert {name: value for name, value in ours.config.items() if name[0] != "_" and name not in OWN} == {
            name: value for name, value in theirs.config.items() if name[0] != "_"
        }

    def test_it_is_saved_and_loaded_like_any_other(self, tmp_path):
        ours = HunyuanDiT.from_diffusers(stock())
        ours.save_pretrained(tmp_path)
        assert torch.equal(sample(HunyuanDiT.from_pretrained(tmp_path), inputs()), sample(ours, inputs()))

    def test_attention_that_was_fused_before_stays_fused(self):
        theirs = stock()
        theirs.fuse_qkv_projections()
        expected = sample(theirs, inputs())
        ours = HunyuanDiT.from_diffusers(theirs)
        assert torch.equal(sample(ours, inputs()), expected)
        ours.unfuse_qkv_projections()
        assert torch.equal(sample(ours, inputs()), sample(stock(), inputs()))
        assert torch.equal(sample(theirs, inputs()), sample(stock(), inputs()))

    def test_settings_that_are_not_this_classes_are_left_out(self):
        theirs = stock()
        theirs.register_to_config(quantization_config={"quant_method": "some"})
        ours = HunyuanDiT.from_diffusers(theirs)
        assert "quantization_config" not in ours.config
        assert torch.equal(sample(ours, inputs()), sample(theirs, inputs()))

    OFFLOADS = {
        "model": lambda model: accelerate.cpu_offload_with_hook(model, execution_device="cpu"),
        "layers": lambda model: accelerate.cpu_offload(model, execution_device=torch.device("cpu")),
        "groups": lambda model: apply_group_offloading(model, torch.device("cpu"), num_blocks_per_group=1),
        "leaves": lambda model: apply_group_offloading(model, torch.device("cpu"), offload_type="leaf_level"),
    }

    @pytest.mark.parametrize("offload", OFFLOADS)
    def test_an_offloaded_model_is_refused(self, offload):
        theirs = stock()
        self.OFFLOADS[offload](theirs)
        with pytest.raises(ValueError, match="hooks of offloading, which would be lost: make it ours before offload"):
            HunyuanDiT.from_diffusers(theirs)

    def test_a_model_that_is_offloaded_no_more_is_taken(self):
        theirs = stock()
        expected = sample(theirs, inputs())
        accelerate.hooks.remove_hook_from_submodules(accelerate.cpu_offload(theirs, torch.device("cpu")))
        assert torch.equal(sample(HunyuanDiT.from_diffusers(theirs), inputs()), expected)


class TestFusing:
    """Queries, keys and values of one product, as the stock model fuses them."""

    @pytest.mark.parametrize("version", [False, True])
    def test_fused_it_is_the_stock_model_fused_and_unfused_again_what_it_was(self, version):
        ours, theirs = both(use_style_cond_and_image_meta_size=version)
        step = inputs(told=version)
        apart, keys, processors = sample(ours, step), ours.state_dict().keys(), kinds(ours)
        for model in (ours, theirs):
            model.fuse_qkv_projections()
        assert kinds(ours) == kinds(theirs) != processors
        assert ours.state_dict().keys() == theirs.state_dict().keys() != keys
        assert torch.equal(sample(ours, step), sample(theirs, step))
        for model in (ours, theirs):
            model.unfuse_qkv_projections()
        assert kinds(ours) == kinds(theirs) == processors
        assert ours.state_dict().keys() == keys
        assert torch.equal(sample(ours, step), apart)

    def test_the_fused_projections_are_those_that_are_used(self):
        ours, _ = both()
        ours.fuse_qkv_projections()
        fused = sample(ours, inputs())
        with torch.no_grad():
            ours.blocks[0].attn1.to_q.weight.zero_()
        assert torch.equal(sample(ours, inputs()), fused)
        ours.unfuse_qkv_projections()
        assert not torch.equal(sample(ours, inputs()), fused)

    def test_fusing_acts_under_the_cache(self):
        ours, theirs = both()
        ours.enable_cache(SkipCacheConfig(interval=1))
        for model in (ours, theirs):
            model.fuse_qkv_projections()
        for timestep in (900, 800):
            assert torch.equal(sample(ours, inputs(timestep)), sample(theirs, inputs(timestep)))

    def test_adapters_of_attention_are_not_dropped(self):
        peft = pytest.importorskip("peft")
        ours, _ = both()
        ours.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"]))
        with pytest.raises(ValueError, match=r"attention has adapters, .*: fuse_lora\(\) and unload_lora\(\) first"):
            ours.fuse_qkv_projections()
        ours.fuse_lora()
        ours.unload_lora()
        ours.fuse_qkv_projections()


def kinds(model: HunyuanDiT | HunyuanDiT2DModel) -> dict[str, type]:
    return {name: type(processor) for name, processor in model.attn_processors.items()}


class TestAdapters:
    """LoRA layers that peft puts into either model."""

    TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "skip_linear", "linear_1", "norm1.linear")

    def lora(self, peft, targets=TARGETS):
        return peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)

    @pytest.fixture
    def peft(self):
        return pytest.importorskip("peft")

    def injected(self, peft, targets=TARGETS) -> HunyuanDiT2DModel:
        theirs = stock()
        peft.inject_adapter_in_model(self.lora(peft, targets), theirs)
        return randomised(theirs, seed=2)

    def test_adapters_of_the_stock_model_come_along(self, peft):
        theirs = self.injected(peft)
        expected = sample(theirs, inputs())
        ours = HunyuanDiT.from_diffusers(theirs)
        assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
        assert torch.equal(sample(ours, inputs()), expected)
        assert not torch.equal(expected, sample(stock(), inputs()))
        assert torch.equal(sample(theirs, inputs()), expected)

    def test_adapters_of_the_stock_model_are_known_by_name(self, peft):
        ours = HunyuanDiT.from_diffusers(self.injected(peft))
        assert ours.active_adapters() == ["default"]
        with pytest.raises(ValueError, match="default already exists"):
            ours.add_adapter(self.lora(peft), "default")

    def test_adapters_of_the_stock_model_are_turned_off_and_on_by_ours(self, peft):
        theirs = self.injected(peft)
        ours = HunyuanDiT.from_diffusers(theirs)
        adapted = sample(ours, inputs())
        ours.disable_lora()
        plain = sample(ours, inputs())
        assert not torch.equal(plain, adapted)
        ours.enable_lora()
        assert torch.equal(sample(ours, inputs()), adapted)

    def test_adapters_of_ours_act_under_the_cache(self, peft):
        ours = both(rotary="exact")[0].requires_grad_(False)  # as adapters leave it
        plain = sample(ours, inputs(900))
        ours.add_adapter(self.lora(peft))
        expected = [sample(ours, inputs(timestep)) for timestep in (900, 800, 700)]
        assert not torch.equal(plain, expected[0])
        ours.enable_cache(SkipCacheConfig(interval=1))
        assert_equal([sample(ours, inputs(timestep)) for timestep in (900, 800, 700)], expected)
        ours.disable_cache()
        ours.enable_cache(SkipCacheConfig(interval=2))
        cached = [sample(ours, inputs(timestep)) for timestep in (900, 800, 700)]
        assert_equal([cached[0], cached[2]], [expected[0], expected[2]])
        ours.disable_adapters()
        assert torch.equal(sample(ours, inputs(900)), plain)

    def test_adapters_of_the_pooler_act_here_and_not_there(self, peft):
        """Theirs reads the weights of the pooler's linears and calls none of them."""
        theirs = self.injected(peft, ("q_proj", "k_proj", "v_proj", "c_proj"))
        ours, with_lora = HunyuanDiT.from_diffusers(theirs), sample(theirs, inputs())
        here = sample(ours, inputs())
        ours.disable_lora()
        assert torch.equal(sample(theirs, inputs()), with_lora)
        assert not torch.equal(sample(ours, inputs()), here)
