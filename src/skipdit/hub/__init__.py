"""Models by name, folder or file: the embedded ones, saved ones and published checkpoints."""

from skipdit.hub.load import EMBEDDED, load_pipeline
from skipdit.hub.lora import load_lora
from skipdit.hub.original import CheckpointError, load_original
from skipdit.hub.publish import PublishError, push_to_hub

__all__ = [
    "EMBEDDED", "CheckpointError", "PublishError", "load_lora", "load_original", "load_pipeline", "push_to_hub",
]  # fmt: skip
