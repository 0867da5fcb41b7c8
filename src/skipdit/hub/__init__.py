"""Models by name, folder or file: the embedded ones, saved ones and published checkpoints."""

from skipdit.hub.load import EMBEDDED, load_pipeline
from skipdit.hub.lora import load_lora
from skipdit.hub.original import CheckpointError, load_original

__all__ = ["EMBEDDED", "CheckpointError", "load_lora", "load_original", "load_pipeline"]
