"""diffusers pipelines for what diffusers has no pipeline for; text pipelines are diffusers' own."""

from skipdit.pipelines.class_to_image import ClassToImagePipeline

__all__ = ["ClassToImagePipeline"]
