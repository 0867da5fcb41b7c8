"""One training run as data: written beside its output, so that the run can be repeated."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from skipdit.data import Clips, Crop, Dataset
from skipdit.diffusion import FLOW, Process, process_of
from skipdit.diffusion.schedule import NUM_TRAIN_STEPS
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from skipdit.models.written_out import write_out_attention
from skipdit.nn.blocks import standardise_inputs, statistics

COUNTS = ("steps", "batch_size", "accumulate")
Predicted = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]


@dataclass(frozen=True)
class Architecture:
    """A `DiT` by its arguments."""

    sample_size: int = 28
    """height and width of the image in pixels (or latent pixels)"""
    patch_size: int = 4
    in_channels: int = 1
    hidden_size: int = 128
    depth: int = 8
    num_heads: int = 4
    num_classes: int = 10
    class_dropout_prob: float = 0.1
    """with which probability training shows the null class instead of the label"""
    num_skips: int = 0
    """long skips, 0 to depth // 2"""
    fuse: Literal["replace", "residual"] = "replace"
    prediction_type: Predicted = "epsilon"
    """what the model says: the noise (published), the clean sample, their mixture v, or the velocity of a flow"""
    mlp_ratio: float = 4.0
    id2label: dict[str, str] | None = None
    """what the classes are called, by their ids"""

    def build(self) -> DiT:
        return DiT(**asdict(self), **self.outputs)

    @property
    def outputs(self) -> dict[str, int]:
        """A flow has no variance to learn, and so no channels for it."""
        return {"out_channels": self.in_channels} if self.prediction_type == FLOW else {}

    def fit(self, model: DiT, dataset: Dataset) -> None:
        """Images in [-1, 1] and classes need no statistics of the data."""

    def write_out(self, model: DiT, dataset: Dataset) -> None:
        """Our own attention is written out by itself where that is faster."""

    @property
    def dropout(self) -> float:
        return self.class_dropout_prob

    @property
    def takes(self) -> dict[str, int]:
        """What the data must have, by the names of the arguments that set it."""
        return {
            "in_channels": self.in_channels, "height": self.sample_size, "width": self.sample_size,
            "num_classes": self.num_classes,
        }  # fmt: skip


@dataclass(frozen=True)
class LatteArchitecture(Architecture):
    """A `Latte` by its arguments; `depth` counts layers of a spatial and a temporal block."""

    num_frames: int = 16

    def build(self) -> Latte:
        return Latte(**asdict(self), **self.outputs)

    @property
    def takes(self) -> dict[str, int]:
        return {"num_frames": self.num_frames, **super().takes}


@dataclass(frozen=True)
class LatteT2VArchitecture:
    """A `LatteT2V` by the arguments that runs differ in; a layer is a spatial and a temporal block."""

    sample_size: int = 32
    patch_size: int = 4
    in_channels: int = 1
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    num_layers: int = 6
    video_length: int = 16
    caption_channels: int = 384
    caption_dropout_prob: float = 0.1
    """with which probability training shows the empty caption instead of the caption"""
    num_skips: int = 0
    """long skips, 0 to num_layers // 2"""
    fuse: Literal["replace", "residual"] = "replace"
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"

    def build(self) -> LatteT2V:
        settings = {name: value for name, value in asdict(self).items() if name != "caption_dropout_prob"}
        width = self.num_attention_heads * self.attention_head_dim
        return LatteT2V(cross_attention_dim=width, out_channels=2 * self.in_channels, **settings)

    def fit(self, model: LatteT2V, dataset: Dataset) -> None:
        """Have the fresh model see the data's token states as if they were standardised."""
        standardise_inputs(model.caption_projection.linear_1, *statistics(dataset.states[dataset.mask.bool()]))

    def write_out(self, model: LatteT2V, dataset: Dataset) -> None:
        write_out_attention(model)

    @property
    def dropout(self) -> float:
        return self.caption_dropout_prob

    @property
    def takes(self) -> dict[str, int]:
        return {
            "in_channels": self.in_channels, "video_length": self.video_length, "height": self.sample_size,
            "width": self.sample_size, "caption_channels": self.caption_channels,
        }  # fmt: skip


@dataclass(frozen=True)
class HunyuanDiTArchitecture:
    """A `HunyuanDiT` of version 1.2 by the arguments that runs differ in."""

    sample_size: int = 64
    patch_size: int = 8
    in_channels: int = 3
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    num_layers: int = 8
    mlp_ratio: float = 4.0
    cross_attention_dim: int = 384
    cross_attention_dim_t5: int = 128
    pooled_projection_dim: int = 256
    caption_dropout_prob: float = 0.1
    """with which probability training shows the empty caption instead of the caption"""
    num_skips: int = 3
    """long skips, 0 to num_layers // 2; the published are num_layers // 2 - 1"""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"

    def build(self) -> HunyuanDiT:
        settings = {name: value for name, value in asdict(self).items() if name != "caption_dropout_prob"}
        width = self.num_attention_heads * self.attention_head_dim
        return HunyuanDiT(hidden_size=width, use_style_cond_and_image_meta_size=False, **settings)

    @torch.no_grad()
    def fit(self, model: HunyuanDiT, dataset: Dataset) -> None:
        """Have the fresh model see the states of both texts as if they were standardised.

        Every layer projects the BERT's states themselves, so what stands beside them is moved to where they lie.
        """
        bert, t5 = dataset.states.of_tokens()
        mean, std = statistics(bert)
        standardise_inputs(model.text_embedder.linear_1, *statistics(t5))
        model.text_embedder.linear_2.weight *= std[:, None]
        for beside in (model.text_embedder.linear_2.bias, model.text_embedding_padding):
            beside.copy_(beside * std + mean)
        for block in model.blocks:
            for linear in (block.attn2.to_k, block.attn2.to_v):
                standardise_inputs(linear, mean, std)

    def write_out(self, model: HunyuanDiT, dataset: Dataset) -> None:
        write_out_attention(model, own_text=dataset.states.own_text)

    @property
    def dropout(self) -> float:
        return self.caption_dropout_prob

    @property
    def takes(self) -> dict[str, int]:
        return {
            "in_channels": self.in_channels, "height": self.sample_size, "width": self.sample_size,
            "cross_attention_dim": self.cross_attention_dim, "cross_attention_dim_t5": self.cross_attention_dim_t5,
        }  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run; two runs of one config on one machine end in the same bits."""

    out: Path
    """folder of checkpoints, previews, loss.csv and the trained model"""
    dataset: str = "fashion-mnist"
    """fashion-mnist, digits, moving-digits, captioned-digits or emoji; of yours images, captions, table, videos,
    latents or module:function"""
    data_folder: Path | None = None
    """where the data lies, when not where its package puts it"""
    crop: Crop | Clips | None = None
    """how the files of a folder of yours become images"""
    model: Architecture | LatteArchitecture | LatteT2VArchitecture | HunyuanDiTArchitecture = field(
        default_factory=Architecture
    )
    vae: str | None = None
    """of latents: the autoencoder that made them, by name or folder, which decodes previews"""
    init: str | None = None
    """a model to begin with the weights of: an embedded or published one, a folder or a file; skips that it lacks are
    drawn anew, as is the table of its classes where their number differs"""
    skips_only: int = 0
    """steps at the beginning in which nothing but the long skips learns"""
    skips_only_rate: float | None = None
    """learning rate of these steps; that of the others where it is left out"""
    steps: int = 20_000
    batch_size: int = 128
    """samples a step, of all processes together"""
    accumulate: int = 1
    """parts in which a process takes its share of a batch, one after another: less memory, the same step"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices inside the layers, AdamW for the rest; it needs torch 2.9"""
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    """steps over which the learning rate rises linearly"""
    decay: Literal["constant", "linear", "cosine", "trapezoid"] = "constant"
    """how the learning rate goes to zero after the warm-up (constant: it stays; trapezoid: it stays and falls linearly
    in the end, see cooldown)"""
    cooldown: float | None = None
    """of a trapezoid: in which share of the steps after the warm-up the rate falls, above 0 and at most 1"""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_grad_norm: float | None = 1.0
    v_weight_cap: float | None = None
    """None: the loss is the error of what the model predicts. A number: the error of v that this stands for, where the
    weight 1 / (1 - alpha_bar_t) of the clean sample's error is at most this"""
    min_snr: float | None = None
    """weigh the loss by the clean sample's error, times the signal-to-noise ratio or this number if it is less"""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """of a flow: which times are drawn"""
    stale_prob: float = 0.0
    """share of the steps in which head and tail learn with the deep feature of an earlier sampling step, as the cache
    has it"""
    stale_age: int = 3
    """sampling steps by which that feature is too old at most: N - 1 for a cache of interval N"""
    stale_stride: int = 20
    """timesteps from one sampling step to the next"""
    stale_branch: int = 1
    """layers on each side that see it: the branch of the cache"""
    spectral_cap: float | None = None
    """a, above 0 and below 1: after each step the weights of a fuse have norms of at most 1 - a for the stream and a
    for the skip; skips that init lacks begin as that mean"""
    ema_decay: float = 0.9999
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 is autocast: weights, optimizer and EMA stay float32"""
    compile: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "cpu"
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    preview_every: int = 1000
    """steps between preview grids; 0 draws none"""
    preview_steps: int = 25
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """of the weights in the trained model's folder"""

    def __post_init__(self) -> None:
        for name in (*COUNTS, "log_every", "checkpoint_every", "keep_checkpoints", "preview_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}: it must be below steps ({self.steps})")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every}: it must be a multiple of log_every ({self.log_every}),"
                " so that a resumed run writes the same loss.csv"
            )
        if not 0 <= self.skips_only < self.steps or self.skips_only and not self.model.num_skips:
            room = f"0 to steps - 1 ({self.steps - 1})" if self.model.num_skips else "a model with skips"
            raise ValueError(f"skips_only is {self.skips_only}: it takes {room}")
        if self.skips_only_rate is not None and not (self.skips_only and self.skips_only_rate > 0):
            raise ValueError(f"skips_only_rate is {self.skips_only_rate}: it takes a rate above 0 and skips_only steps")
        if (self.decay == "trapezoid") != (self.cooldown is not None):
            raise ValueError(
                f"decay is {self.decay} and cooldown {self.cooldown}: a trapezoid needs one, no other decay has one"
            )
        if self.cooldown is not None and not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown is {self.cooldown}: it must be above 0 and at most 1")
        if self.seed < 0 or self.preview_every < 0:
            raise ValueError(f"seed is {self.seed} and preview_every {self.preview_every}: neither may be negative")
        if self.preview_steps > NUM_TRAIN_STEPS:
            raise ValueError(f"preview_steps is {self.preview_steps}: the chain has {NUM_TRAIN_STEPS}")
        if not 0 <= self.model.dropout < 1:
            name = next(name for name in asdict(self.model) if name.endswith("_dropout_prob"))
            raise ValueError(f"{name} is {self.model.dropout}: it must be in [0, 1)")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm is {self.clip_grad_norm}: it must be above 0, or None")
        if self.v_weight_cap is not None and not self.v_weight_cap > 0:
            raise ValueError(f"v_weight_cap is {self.v_weight_cap}: it must be above 0, or None")
        if not 0 <= self.stale_prob < 1:
            raise ValueError(f"stale_prob is {self.stale_prob}: it must be in [0, 1)")
        for name in ("stale_age", "stale_stride", "stale_branch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.spectral_cap is not None and not 0 < self.spectral_cap < 1:
            raise ValueError(f"spectral_cap is {self.spectral_cap}: it must be above 0 and below 1")
        if self.spectral_cap is not None and not self.replaces:
            raise ValueError(f"spectral_cap is {self.spectral_cap}: it takes a model with skips of fuse 'replace'")
        if self.vae is not None and self.dataset != "latents":
            raise ValueError(f"vae is {self.vae}, but dataset {self.dataset} is not of latents: leave it out")
        if self.dataset == "latents" and self.preview_every and self.vae is None:
            raise ValueError(f"preview_every is {self.preview_every} on latents without vae: name it, or take 0")
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr is {self.min_snr}: it must be above 0, or None")
        self.process  # noqa: B018  (raises for settings that exclude each other)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must be in [0, 1)")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be above 0")

    @property
    def process(self) -> Process:
        """What the model is trained on; ValueError for weights or times that cannot take effect."""
        return process_of(
            self.model.prediction_type, time=self.time, v_weight_cap=self.v_weight_cap, min_snr=self.min_snr
        )

    @property
    def replaces(self) -> bool:
        """Whether the model has skips that take the place of the stream, as every HunyuanDiT has."""
        return self.model.num_skips > 0 and asdict(self.model).get("fuse", "replace") == "replace"
