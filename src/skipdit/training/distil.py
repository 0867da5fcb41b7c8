"""A small T5 of bytes that says what MiniLM says: the second text encoder of the embedded text-to-image model.

    loss(text) = 2 - cos(W mean_tokens(t), m) - cos(W mean_all(t), m),    t = T5(bytes), m = mean_tokens(MiniLM(text))

Once over the text's own bytes, and once over padding too, as HunyuanDiT's pooler takes the states. Texts are the names
of the training drawings, their captions, and names with other words before them; no held-out name is among them.

    python -m skipdit.training.distil [--out FOLDER]        4 min on half a CPU core
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from tqdm import tqdm
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from skipdit.data.emoji import STYLES, Emoji, caption, emoji
from skipdit.data.text import encode, longest, minilm
from skipdit.files import whole_folder
from skipdit.randomness import generator

WORDS = (
    "red", "green", "blue", "yellow", "orange", "purple", "brown", "pink", "black", "white", "grey", "big", "small",
    "happy", "sad", "angry", "old", "young", "round", "wooden", "golden", "cute", "cold", "hot", "sleeping", "smiling",
)  # fmt: skip
MINILM_WIDTH = 384


@dataclass(frozen=True)
class Distillation:
    """Train the byte T5 of the embedded text-to-image model to say what MiniLM says."""

    out: Path = Path("runs/emoji-t5")
    """folder of the T5 and its tokenizer; what is there is replaced at the end"""
    data_folder: Path | None = None
    """where the npm packages lie, when not in the cache"""
    width: int = 128
    layers: int = 2
    heads: int = 4
    steps: int = 1200
    batch_size: int = 128
    length: int = 48
    """bytes that texts are padded to; longer ones are left out"""
    learning_rate: float = 3e-3
    variants: int = 2
    """names with a word before them, for each name"""
    seed: int = 0


def t5(settings: Distillation) -> T5EncoderModel:
    """A fresh T5 encoder of bytes, without dropout."""
    return T5EncoderModel(
        T5Config(
            vocab_size=384, d_model=settings.width, d_kv=settings.width // settings.heads, d_ff=4 * settings.width,
            num_layers=settings.layers, num_heads=settings.heads, dropout_rate=0.0,
            attn_implementation="eager",
        )
    )  # fmt: skip


def texts_of(drawings: Emoji, *, unwanted: set[str], variants: int, seed: int) -> list[str]:
    """Names, captions and names with a word before them; none that is an `unwanted` name."""
    draw, names = random.Random(seed), sorted(set(drawings.names))
    told = [caption(name, style) for name in names for style in (None, *STYLES)]
    made = [f"{word} {name}" for name in names for word in draw.sample(WORDS, variants)]
    return [
        text for text in dict.fromkeys([*names, *told, *made, *map(caption, made)]) if stripped(text) not in unwanted
    ]


def stripped(text: str) -> str:
    """A caption without its article and style."""
    return text.partition(",")[0].removeprefix("a ").removeprefix("an ")


def said_by_minilm(texts: Sequence[str]) -> Tensor:
    """MiniLM's sentence embeddings [N, 384]: the mean over the states of a text."""
    tokenizer, model = minilm()
    means = []
    for first in tqdm(range(0, len(texts), 256), desc="MiniLM"):
        some = texts[first : first + 256]
        means.append(mean(*encode(some, tokenizer, model, length=longest(some, tokenizer))))
    return torch.cat(means)


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """[B, T, D] over the tokens of a mask [B, T]."""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def bytes_of(texts: Sequence[str], *, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask int64 [N, length]."""
    padded = ByT5Tokenizer()(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return padded.input_ids, padded.attention_mask


def distil(settings: Distillation) -> dict[str, float]:
    """Train, save model and tokenizer, and return how well held-out names are read."""
    drawings, test = emoji(settings.data_folder), emoji(settings.data_folder, split="test")
    names = sorted(set(test.names))
    texts = texts_of(drawings, unwanted=set(names), variants=settings.variants, seed=settings.seed)
    texts = [text for text in texts if len(text.encode()) < settings.length]
    targets = said_by_minilm([*texts, *names])
    torch.manual_seed(settings.seed)
    model, head = t5(settings), nn.Linear(settings.width, MINILM_WIDTH)
    shown = [text.capitalize() if index % 2 else text for index, text in enumerate(texts)]  # MiniLM has no capitals
    fit(model, head, bytes_of(shown, length=settings.length), targets[: len(texts)], settings)
    with whole_folder(settings.out) as partial:
        model.eval().save_pretrained(partial)
        ByT5Tokenizer().save_pretrained(partial)
    return measured(model, head, bytes_of(names, length=256), targets[len(texts) :])


def fit(
    model: T5EncoderModel, head: nn.Linear, ids_and_mask: tuple[Tensor, Tensor], targets: Tensor, settings: Distillation
) -> None:
    ids, mask = ids_and_mask
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps, pct_start=0.1)
    for step in (bar := tqdm(range(settings.steps), desc="T5", unit="step", smoothing=0.05)):
        some = torch.randint(len(ids), (settings.batch_size,), generator=generator(settings.seed, 3, step))
        with torch.autocast("cpu", torch.bfloat16):
            states = model(ids[some], attention_mask=mask[some])[0]
        likeness = [cosine_similarity(head(pooled), targets[some]) for pooled in poolings(states.float(), mask[some])]
        loss = 2 - torch.stack(likeness).sum(0).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")


def poolings(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return mean(states, mask), states.mean(1)


@torch.no_grad()
def measured(
    model: T5EncoderModel, head: nn.Linear, ids_and_mask: tuple[Tensor, Tensor], targets: Tensor
) -> dict[str, float]:
    """Cosine with MiniLM's embedding, that of other pairs, and how often the text's own is the nearest."""
    ids, mask = ids_and_mask
    said, of_all = (head(pooled) for pooled in poolings(model(ids, attention_mask=mask)[0], mask))
    pairs = cosine_similarity(said[:, None], targets[None], dim=-1)
    return {
        "texts": len(targets),
        "cosine": pairs.diag().mean().item(),
        "cosine_with_padding": cosine_similarity(of_all, targets).mean().item(),
        "cosine_of_other_pairs": pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean().item(),
        "nearest_is_its_own": (pairs.argmax(1) == torch.arange(len(pairs))).float().mean().item(),
    }


if __name__ == "__main__":
    print(json.dumps(distil(tyro.cli(Distillation)), indent=2))
