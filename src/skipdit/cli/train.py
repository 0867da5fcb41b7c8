"""`skipdit train RECIPE`, or `skipdit train --data FOLDER`: a whole run, which goes on where it stopped."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skipdit.cli.flags import left_out
from skipdit.spelling import did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from skipdit.data import Dataset
    from skipdit.models.base import LongSkipModel
    from skipdit.training import Report, TrainConfig
    from skipdit.training.loop import Run

IMAGE_COLUMNS, PREVIEW_SIDE = 10, 64  # pixels that an image takes at least


@dataclass(frozen=True)
class Yours:
    """Train a model on data of yours. Every setting of a run may follow, as --steps 5000, --batch-size 32 or
    --model.hidden-size 96: `skipdit train digits --help` lists them.
    """

    data: str
    """a folder that has a folder of images or videos for each class, or images with captions in metadata.jsonl; a
    .parquet or .arrow file, a folder of them, or hf:NAME on the hub; or module:function, which returns a data set"""
    out: Path = Path("runs/mine")
    """the run's folder; `skipdit sample` takes it when the run has ended"""
    size: Annotated[str | None, left_out("S/2|B/4|...", "(default: S/2)")] = None
    """a published size: width and depth by letter (S, B, L, XL), then the patch"""
    skips: Annotated[int | None, left_out("M", "(default: half the depth)")] = None
    """long skips; 0 is a vanilla model"""
    init: Annotated[str | None, left_out("MODEL")] = None
    """begin with the weights of an embedded or published model, a folder or a file, in the place of --size"""
    upcycle: Annotated[int | None, left_out("M")] = None
    """add M long skips to a vanilla --init"""
    fuse: Annotated[Literal["residual", "replace"] | None, left_out("{residual,replace}")] = None
    """how a skip is merged: added to the stream, with no effect at first (default with --upcycle), or in its place,
    as published (default else)"""
    image_size: Annotated[int | None, left_out("S", "(default: that of the smallest image, at most 64)")] = None
    """height and width to which images and frames are cropped"""
    frames: Annotated[int | None, left_out("N", "(default: 16 of videos)")] = None
    """frames of a clip; it says that folders of images are videos, a frame each"""
    vae: Annotated[str | None, left_out("NAME|FOLDER")] = None
    """of a folder that `skipdit data encode` wrote: the autoencoder, for previews"""
    interval: Annotated[int | None, left_out("K", "(default: 3 of videos)")] = None
    """from one frame of a clip to the next, in frames of the video"""
    unlabelled: bool = False
    """the folders of videos are no classes"""


def command(arguments: Sequence[str]) -> None:
    from skipdit.recipes import RECIPES

    if any(argument.partition("=")[0] == "--data" for argument in arguments):
        own = without_bare_skips(arguments)
        yours, settings = tyro.cli(Yours, prog="skipdit train", args=own, return_unknown_args=True)
        train(parsed(begin_config(yours), settings))
        return
    name, *settings = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(usage(RECIPES))
    elif name in RECIPES:
        train(parsed(RECIPES[name](), settings, description=RECIPES[name].__doc__))
    else:
        near = did_you_mean(name, RECIPES)
        raise ValueError(f"unknown recipe {name!r}: {near}`skipdit train --help` lists them, or give --data FOLDER")


def usage(recipes: Mapping[str, Any]) -> str:
    """The recipes with the first sentence of what each says of itself."""
    lines = "\n".join(f"  {name:30}{recipe.__doc__.splitlines()[0]}" for name, recipe in recipes.items())
    return (
        "usage: skipdit train RECIPE [settings]\n       skipdit train --data FOLDER [settings]\n\n"
        f"{lines}\n\nskipdit train RECIPE --help shows the settings of a run, skipdit train --data FOLDER --help those"
        " of a first one."
    )


def without_bare_skips(arguments: Sequence[str]) -> list[str]:
    """--skips by itself is what it is where it is left out."""
    following = [*arguments[1:], "-"]
    return [name for name, after in zip(arguments, following) if name != "--skips" or not after.startswith("-")]


def parsed(default: "TrainConfig", arguments: Sequence[str], *, description: str | None = None) -> "TrainConfig":
    """A run with the settings of a command line. Raises: ValueError for an unknown one."""
    from skipdit.training import TrainConfig

    as_given = (tyro.conf.AvoidSubcommands,)  # a recipe's kind of model is no choice; its settings are
    config, unknown = tyro.cli(
        TrainConfig, prog="skipdit train", args=arguments, config=as_given, return_unknown_args=True, default=default,
        description=description,
    )  # fmt: skip
    if unknown:
        near = did_you_mean(unknown[0].strip("-"), spelled(config))
        raise ValueError(f"unknown setting {unknown[0]}: {near}`skipdit train digits --help` lists them")
    return config


def spelled(config: "TrainConfig") -> list[str]:
    """The names of all settings, as flags spell them."""
    from dataclasses import asdict

    settings = asdict(config)
    nested = [f"{outer}.{name}" for outer, inner in settings.items() if isinstance(inner, dict) for name in inner]
    return [name.replace("_", "-") for name in (*settings, *nested)]


def begin_config(yours: Yours) -> "TrainConfig":
    """The run that the flags of `Yours` describe, before the settings that follow them."""
    from skipdit.recipes.yours import yours as recipe

    return recipe(
        yours.data, yours.out, size=yours.size, skips=yours.skips, init=yours.init, upcycle=yours.upcycle,
        fuse=yours.fuse, image_size=yours.image_size, frames=yours.frames, interval=yours.interval,
        unlabelled=yours.unlabelled, vae=yours.vae,
    )  # fmt: skip


def train(config: "TrainConfig") -> None:
    """Train with a progress bar, preview grids and a last line that says where the model is."""
    from tqdm import tqdm

    from skipdit import training
    from skipdit.evaluation import save_png
    from skipdit.training.preview import preview
    from skipdit.training.processes import started_rank

    started = training.checkpointed_step(config.out)
    is_first = started_rank() == 0
    bar_of = {"desc": "training", "unit": "step", "smoothing": 0.05, "disable": not is_first}
    with tqdm(total=config.steps, initial=started, **bar_of) as bar:

        decoder = Decoder(config.vae)

        def begin(run: "Run") -> None:
            decoder.check(run.dataset)
            if run.fresh and is_first:
                new = " and ".join(run.fresh)
                bar.write(f"skipdit: {config.init} lends its weights; new are {new}", file=sys.stderr)

        def show(report: "Report") -> None:
            bar.update()
            if report.step % config.log_every == 0:
                samples = config.batch_size * (bar.format_dict["rate"] or 0)
                shown = {"loss": f"{report.loss.item():.4f}", "lr": f"{report.learning_rate:.1e}"}
                bar.set_postfix(shown | {"samples/s": f"{samples:.1f}"})

        def draw(model: "LongSkipModel", dataset: "Dataset", path: Path) -> None:
            samples = preview(model, dataset, num_steps=config.preview_steps, decode=decoder.decode)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(sheet(samples.movedim(model.channel_dim, -3)), path)

        try:
            trained = training.train(config, on_start=begin, on_step=show, preview=draw)
        except KeyboardInterrupt as stop:
            saved = training.checkpointed_step(config.out)
            goes_on = f"the same command goes on at step {saved} of {config.steps}"
            raise KeyboardInterrupt(f"interrupted; {goes_on}") from stop
    if is_first and config.dataset == "captions":
        write_pipeline(trained, config.out / "pipeline")
    if is_first:
        print(f"{config.out / 'model'}: {config.steps} steps on {config.data_folder or config.dataset}")


def write_pipeline(model: "LongSkipModel", folder: Path) -> None:
    """A model of captions with the text encoders that it was trained with, whole or not at all."""
    from skipdit.files import whole_folder
    from skipdit.recipes.emoji_pipeline import emoji_pipeline

    with whole_folder(folder) as partial:
        emoji_pipeline(model).save_pretrained(partial)


class Decoder:
    """The autoencoder of a run on latents, which decodes its previews; without one pixels stay as they are."""

    def __init__(self, name: str | None):
        from skipdit.hub.load import load_vae, locate

        self.name, self.vae = name, None if name is None else load_vae(locate(name))

    def check(self, dataset: "Dataset") -> None:
        """ValueError for latents of another autoencoder."""
        from skipdit.data.latents import check_autoencoder

        if self.vae is not None:
            check_autoencoder(dataset, self.vae, name=self.name)

    def decode(self, x_0: "Tensor") -> "Tensor":
        if self.vae is None:
            return x_0
        scaled = (x_0 / self.vae.config.scaling_factor).to(self.vae.device)
        decoded = self.vae.decode(scaled.flatten(0, -4)).sample.float().cpu()
        return decoded.unflatten(0, x_0.shape[:-3])


def sheet(samples: "Tensor") -> "Image":
    """Images [B, C, H, W] in rows of ten, or clips [B, F, C, H, W] with a row each."""
    from skipdit.evaluation import grid

    columns = IMAGE_COLUMNS if samples.ndim == 4 else samples.shape[1]
    scale = max(1, PREVIEW_SIDE // samples.shape[-1])
    return grid(samples.flatten(0, -4), columns=columns, scale=scale)
