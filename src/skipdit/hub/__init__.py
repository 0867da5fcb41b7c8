"""Models by name, folder or file: the embedded ones, saved ones and published checkpoints."""

from skipdit.hub.failures import (
    AccessError,
    DownloadError,
    GoneError,
    InterruptedDownloadError,
    NoSpaceError,
    OfflineError,
    RecordError,
    UnwritableError,
    WrongHashError,
    WrongSizeError,
)
from skipdit.hub.fetching import download, located
from skipdit.hub.load import EMBEDDED, load_pipeline
from skipdit.hub.lora import load_lora
from skipdit.hub.original import CheckpointError, load_original
from skipdit.hub.publish import PublishError, push_to_hub

__all__ = [
    "EMBEDDED", "AccessError", "CheckpointError", "DownloadError", "GoneError", "InterruptedDownloadError",
    "NoSpaceError", "OfflineError", "PublishError", "RecordError", "UnwritableError", "WrongHashError",
    "WrongSizeError", "download", "load_lora", "load_original", "load_pipeline", "located", "push_to_hub",
]  # fmt: skip
