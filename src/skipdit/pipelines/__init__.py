"""diffusers pipelines for what diffusers has no pipeline for; text pipelines are diffusers' own.

Once this is imported, as it is by `import skipdit`, `DiffusionPipeline.from_pretrained` loads saved folders of ours:

    model_index.json   "_class_name": "ClassToImagePipeline"                          looked up in `diffusers`
                       "vae": ["skipdit.pipelines.pixels", "PixelAutoencoder"]        looked up in `sys.modules`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import diffusers

import skipdit.pipelines.schedulers  # noqa: F401  (of which DDIM may be a part of a saved folder)
from skipdit.pipelines.pixels import PixelAutoencoder

if TYPE_CHECKING:
    from skipdit.pipelines.class_to_image import ClassToImagePipeline
    from skipdit.pipelines.class_to_video import ClassToVideoOutput, ClassToVideoPipeline

__all__ = ["ClassToImagePipeline", "ClassToVideoOutput", "ClassToVideoPipeline", "PixelAutoencoder"]

PLACES = {  # imported when first asked for, since diffusers' pipelines bring every autoencoder and scipy along
    "ClassToImagePipeline": "skipdit.pipelines.class_to_image",
    "ClassToVideoOutput": "skipdit.pipelines.class_to_video",
    "ClassToVideoPipeline": "skipdit.pipelines.class_to_video",
}


def placed(name: str) -> type:
    return getattr(import_module(PLACES[name]), name)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return placed(name)


class WithOurPipelines(type(diffusers)):
    """diffusers with these pipelines among its own."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # of `super` too, where diffusers was told to import all of itself at once
            if name in PLACES:
                return placed(name)
            raise AttributeError(f"module 'diffusers' has no attribute {name!r}") from None


diffusers.__class__ = WithOurPipelines
