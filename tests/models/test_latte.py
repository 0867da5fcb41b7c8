"""Latte: the contract of every model."""

from tests.models.contract import ModelContract, UnknownToDiffusers
from tests.models.subject import LatteSubject


class TestLatte(LatteSubject, ModelContract, UnknownToDiffusers):
    """Latte and its skip model are under the contract of every model."""
