"""LatteT2V: the contract of every model."""

from tests.models.contract import ModelContract
from tests.models.subject import LatteT2VSubject


class TestLatteT2V(LatteT2VSubject, ModelContract):
    """LatteT2V and its skip model are under the contract of every model."""
