"""One published architecture a file."""

from skipdit.models.dit import DiT

__all__ = ["DiT"]
