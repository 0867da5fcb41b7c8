"""The byte T5 learns to say what MiniLM says, from texts among which no held-out name is."""

import torch
from torch import nn
from transformers import ByT5Tokenizer, T5EncoderModel

from skipdit.data.emoji import STYLES, byte_t5, caption, emoji, encode_t5
from skipdit.training.distil import Distillation, distil, fit, mean, stripped, t5, texts_of
from tests.data.tiny_emoji import write_packages

TINY = {"width": 16, "layers": 1, "heads": 2, "batch_size": 8}


def test_no_held_out_name_is_among_the_texts(tmp_path):
    folder = write_packages(tmp_path)
    drawings, names = emoji(folder), set(emoji(folder, split="test").names)
    texts = texts_of(drawings, unwanted=names | {"red bread"}, variants=26, seed=0)
    assert not {stripped(text) for text in texts} & {"lotus", "red bread"}
    assert {caption("octopus", style) for style in (None, *STYLES)} | {"octopus", "blue octopus"} <= set(texts)
    assert len(set(texts)) == len(texts)


def test_a_run_leaves_a_t5_and_a_tokenizer_that_transformers_loads(tmp_path):
    folder = write_packages(tmp_path / "data")
    said = distil(Distillation(out=tmp_path / "text_encoder_2", data_folder=folder, steps=2, **TINY))
    assert said["texts"] == 1
    tokenizer, model = byte_t5(tmp_path / "text_encoder_2")
    states, mask = encode_t5(["a red apple"], tokenizer, model)
    assert (states.shape, mask.sum().item()) == ((1, 256, 16), len("a red apple") + 1)
    same = T5EncoderModel.from_pretrained(tmp_path / "text_encoder_2").eval()
    assert torch.equal(
        encode_t5(["a red apple"], ByT5Tokenizer.from_pretrained(tmp_path / "text_encoder_2"), same)[0], states
    )


def test_it_learns_what_it_is_told():
    torch.manual_seed(0)
    settings = Distillation(steps=40, learning_rate=1e-2, **TINY)
    model, head = t5(settings), nn.Linear(settings.width, 384)
    ids, mask, targets = torch.tensor([[68] * 6, [99] * 6]), torch.ones(2, 6, dtype=torch.long), torch.randn(2, 384)
    fit(model, head, (ids, mask), targets, settings)
    with torch.no_grad():
        said = head(mean(model(ids, attention_mask=mask)[0], mask))
    assert torch.cosine_similarity(said, targets).min() > 0.9


def test_the_embedded_t5_takes_the_states_of_padding_from_the_text():
    """HunyuanDiT's pooler sees them."""
    tokenizer, model = byte_t5()
    states, mask = encode_t5(["a red apple", "a wall clock"], tokenizer, model)
    padding = states[:, 100:]
    assert (mask[:, 100:] == 0).all()
    assert (padding[0] - padding[1]).abs().mean() > 0.1
