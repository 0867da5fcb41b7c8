"""diffusers pipelines for what diffusers has no pipeline for; text pipelines are diffusers' own."""

from skipdit.pipelines.class_to_image import ClassToImagePipeline
from skipdit.pipelines.class_to_video import ClassToVideoOutput, ClassToVideoPipeline
from skipdit.pipelines.pixels import PixelAutoencoder

__all__ = ["ClassToImagePipeline", "ClassToVideoOutput", "ClassToVideoPipeline", "PixelAutoencoder"]
