"""One published architecture a file."""

from skipdit.models.dit import DiT
from skipdit.models.hunyuan import HunyuanDiT
from skipdit.models.latte import Latte
from skipdit.models.latte_t2v import LatteT2V

__all__ = ["DiT", "HunyuanDiT", "Latte", "LatteT2V"]
