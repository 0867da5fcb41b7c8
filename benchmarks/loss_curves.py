"""The loss curves of the embedded models: weights/*/loss.csv -> weights/loss.png, both terms against the step.

Curves of one task may be compared with each other alone: images predict the noise, videos v. Those of the two captioned
models may not: the weight of the error is capped in one of them.
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WEIGHTS = Path(__file__).parents[1] / "weights"
COLORS = {
    "fashion-dit": "#868e96", "fashion-skip": "#0b7285", "moving-digits-skip": "#e8590c",
    "moving-digits-latte": "#ffc078", "captioned-digits-skip": "#9c36b5", "captioned-digits-latte": "#eebefa",
    "emoji-hunyuan": "#2f9e44",
}  # fmt: skip


def columns(path: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(path.open(newline="")))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for name, color in COLORS.items():
        curve = columns(WEIGHTS / name / "loss.csv")
        for axis, term in zip(axes, ("mse", "vlb"), strict=True):
            axis.plot(curve["step"], curve[term], color=color, label=name, linewidth=1.4)
    titles = ("squared error of the prediction", "variational bound, bits per dimension")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="step", yscale="log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(WEIGHTS / "loss.png", dpi=110)


if __name__ == "__main__":
    main()
