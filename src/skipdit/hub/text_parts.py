"""Text encoders and tokenizers of a pipeline folder: all of each, or an error where transformers goes on without.

transformers draws weights that a file lacks at random, and reads every text as unknown tokens where a vocabulary is not
there. Encoders compute in float32, as the other parts do, whatever their weights are kept in.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipdit.data.text import quiet_transformers
from skipdit.hub.errors import CheckpointError
from skipdit.hub.folders import kept_weights
from skipdit.hub.original import check_finite, first_line

ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
SENTENCEPIECE = "spiece.model"
VOCABULARIES = ("tokenizer.json", SENTENCEPIECE, "vocab.txt")
READS_BYTES = "ByT5Tokenizer"  # which needs no vocabulary
UNREAD = "pooler."  # of a BERT: pipelines take the states of its tokens


def check_text_parts(base: Path, index: Mapping[str, Any], wanted: set[str]) -> None:
    """Whether those of `wanted` that read text are named in the model_index.json of `base`, and tokenizers are there.

    Raises: CheckpointError for one that is not, OSError where a package that reads it is not installed.
    """
    for name in (*TOKENIZERS, *ENCODERS):
        if name in wanted and not any(index.get(name) or ()):
            raise CheckpointError(f"{base / 'model_index.json'} names no {name}: copy the folder again")
    for name in wanted & set(TOKENIZERS):
        check_vocabulary(base / name, index[name][1])


def text_encoders(base: Path, index: Mapping[str, Any], wanted: set[str]) -> dict[str, nn.Module]:
    """Those of `wanted` that are encoders of text; CheckpointError for one that is not whole."""
    return {name: encoder(base / name, index[name][1]) for name in ENCODERS if name in wanted}


def check_vocabulary(folder: Path, kind: str) -> None:
    if kind == READS_BYTES:
        return
    there = [name for name in VOCABULARIES if (folder / name).exists()]
    if not there:
        raise CheckpointError(f"{folder} has no {', '.join(VOCABULARIES)}: copy the folder again")
    if there == [SENTENCEPIECE] and not (installed("sentencepiece") and installed("google.protobuf")):
        raise OSError(f"{folder / SENTENCEPIECE} needs sentencepiece and protobuf: pip install 'skipdit[text]'")


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def encoder(folder: Path, name: str) -> nn.Module:
    """The model of a class of transformers, in float32 and eval mode, every weight from its file and finite."""
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json: copy the folder again")
    try:
        import transformers
    except ImportError as error:
        raise OSError(f"{folder} cannot be read ({error}): pip install 'skipdit[text]'") from None
    try:
        kind = getattr(transformers, name)
        with quiet_transformers():  # which else prints a table of what is missing
            model, keys = kind.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                variant=kept_weights(folder, "model").variant,
            )
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # whatever transformers makes of a broken folder
        raise CheckpointError(f"{folder} does not hold a whole {name}: {first_line(error)}") from None
    if missing := sorted(key for key in keys["missing_keys"] if not key.startswith(UNREAD)):
        raise CheckpointError(f"{folder} does not fit its config.json: {len(missing)} missing: {', '.join(missing)}")
    for key, tensor in model.state_dict().items():
        check_finite(tensor, name=f"{folder.name}.{key}")
    return model.eval()
