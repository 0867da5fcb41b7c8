"""Whole runs as functions, named after what they make; each docstring says what to expect and what it costs."""

from skipdit.recipes.class_to_image import RECIPES, digits, fashion_dit, fashion_skip

__all__ = ["RECIPES", "digits", "fashion_dit", "fashion_skip"]
