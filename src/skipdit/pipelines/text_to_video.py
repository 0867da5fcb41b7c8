"""diffusers' LattePipeline for a model of any size, as `load_pipeline` gives it."""

from functools import wraps
from typing import Any

from diffusers import LattePipeline as Published

from skipdit.pipelines.calls import read_call
from skipdit.pipelines.draw import Settings, check_text_size


class LattePipeline(Published):
    """diffusers' own, by its name, but sizes that are left out are the model's."""

    @wraps(Published.__call__)
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        config = self.transformer.config
        side = config.sample_size * self.vae_scale_factor
        own = {"height": side, "width": side, "video_length": config.video_length}
        given = read_call(super().__call__, arguments, settings, own=own)
        check_text_size(self, Settings(height=given["height"], width=given["width"]), multiple_of=8)
        return super().__call__(**given)
