"""Whole runs as functions, named after what they make; each docstring says what to expect and what it costs."""

from skipdit.recipes import class_to_image, published, text_to_image, video
from skipdit.recipes.class_to_image import digits, fashion_dit, fashion_skip
from skipdit.recipes.text_to_image import emoji_hunyuan
from skipdit.recipes.video import (
    captioned_digits_latte,
    captioned_digits_skip,
    moving_digits_latte,
    moving_digits_skip,
)

RECIPES = class_to_image.RECIPES | text_to_image.RECIPES | video.RECIPES | published.RECIPES

__all__ = [
    "RECIPES",
    "captioned_digits_latte",
    "captioned_digits_skip",
    "digits",
    "emoji_hunyuan",
    "fashion_dit",
    "fashion_skip",
    "moving_digits_latte",
    "moving_digits_skip",
]
