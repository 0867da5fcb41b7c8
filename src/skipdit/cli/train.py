"""`skipdit train RECIPE`: a whole run, which goes on where it stopped when called again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from skipdit.data import Dataset
    from skipdit.models.base import LongSkipModel
    from skipdit.training import Report, TrainConfig

IMAGE_COLUMNS, PREVIEW_SIDE = 10, 64  # pixels that an image takes at least


def command(arguments: Sequence[str]) -> None:
    from skipdit.recipes import RECIPES

    recipes = tyro.extras.subcommand_type_from_defaults(
        {name: recipe() for name, recipe in RECIPES.items()},
        descriptions={name: recipe.__doc__ for name, recipe in RECIPES.items()},
    )
    as_given = (tyro.conf.AvoidSubcommands,)  # a recipe's kind of model is no choice; its settings are
    train(tyro.cli(recipes, prog="skipdit train", description=__doc__, args=arguments, config=as_given))


def train(config: "TrainConfig") -> None:
    """Train with a progress bar, preview grids and a last line that says where the model is."""
    from tqdm import tqdm

    from skipdit import training
    from skipdit.evaluation import save_png
    from skipdit.training.preview import preview

    started = training.checkpointed_step(config.out)
    with tqdm(total=config.steps, initial=started, desc="training", unit="step", smoothing=0.05) as bar:

        def show(report: "Report") -> None:
            bar.update()
            if report.step % config.log_every == 0:
                bar.set_postfix(loss=f"{report.loss.item():.4f}", lr=f"{report.learning_rate:.1e}")

        def draw(model: "LongSkipModel", dataset: "Dataset", path: Path) -> None:
            samples = preview(model, dataset, num_steps=config.preview_steps)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(sheet(samples.movedim(model.channel_dim, -3)), path)

        try:
            training.train(config, on_step=show, preview=draw)
        except KeyboardInterrupt as stop:
            saved = training.checkpointed_step(config.out)
            goes_on = f"the same command goes on at step {saved} of {config.steps}"
            raise KeyboardInterrupt(f"interrupted; {goes_on}") from stop
    print(f"{config.out / 'model'}: {config.steps} steps on {config.dataset}")


def sheet(samples: "Tensor") -> "Image":
    """Images [B, C, H, W] in rows of ten, or clips [B, F, C, H, W] with a row each."""
    from skipdit.evaluation import grid

    columns = IMAGE_COLUMNS if samples.ndim == 4 else samples.shape[1]
    scale = max(1, PREVIEW_SIDE // samples.shape[-1])
    return grid(samples.flatten(0, -4), columns=columns, scale=scale)
