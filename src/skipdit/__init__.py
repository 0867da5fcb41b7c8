"""Skip-DiT and Skip-Cache: Diffusion Transformers with long skips, and the cache that they make possible."""

from typing import Any

import skipdit.pipelines
import skipdit.tuning.scheduler  # noqa: F401  (so that diffusers finds the pipelines and parts that a saved folder names)
from skipdit.caching import SkipCacheConfig
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V

__version__ = "0.1.0"
__all__ = ["DiT", "HunyuanDiT", "Latte", "LatteT2V", "SkipCacheConfig", "__version__", "load_pipeline"]


def __getattr__(name: str) -> Any:
    if name != "load_pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from skipdit.hub import load_pipeline  # which brings registry and servers along

    return load_pipeline
