"""`skipdit train RECIPE`: a whole run, which goes on where it stopped when called again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from skipdit.training import Report, TrainConfig


def command(arguments: Sequence[str]) -> None:
    from skipdit.recipes import RECIPES

    recipes = tyro.extras.subcommand_type_from_defaults(
        {name: recipe() for name, recipe in RECIPES.items()},
        descriptions={name: recipe.__doc__ for name, recipe in RECIPES.items()},
    )
    train(tyro.cli(recipes, prog="skipdit train", description=__doc__, args=arguments))


def train(config: "TrainConfig") -> None:
    """Train with a progress bar, preview grids and a last line that says where the model is."""
    from tqdm import tqdm

    from skipdit import training
    from skipdit.evaluation import grid, save_png
    from skipdit.models import DiT
    from skipdit.training.preview import preview

    started = training.checkpointed_step(config.out)
    with tqdm(total=config.steps, initial=started, desc="training", unit="step", smoothing=0.05) as bar:

        def show(report: "Report") -> None:
            bar.update()
            if report.step % config.log_every == 0:
                bar.set_postfix(loss=f"{report.loss.item():.4f}", lr=f"{report.learning_rate:.1e}")

        def draw(model: DiT, path: Path) -> None:
            images = preview(model, num_steps=config.preview_steps)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(grid(images, columns=model.config.num_classes, scale=max(1, 64 // images.shape[-1])), path)

        try:
            training.train(config, on_step=show, preview=draw)
        except KeyboardInterrupt as stop:
            saved = training.checkpointed_step(config.out)
            goes_on = f"the same command goes on at step {saved} of {config.steps}"
            raise KeyboardInterrupt(f"interrupted; {goes_on}") from stop
    print(f"{config.out / 'model'}: {config.steps} steps on {config.dataset}")
