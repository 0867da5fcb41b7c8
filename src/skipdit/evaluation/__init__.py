"""What a result is worth: fidelity to the uncached output, cost in FLOPs and seconds, and pictures of it."""

from skipdit.evaluation.cost import (
    Latency,
    count_flops,
    measure,
    measure_side_by_side,
    predicted_speedup,
    steps_at_equal_flops,
)
from skipdit.evaluation.fidelity import Fidelity, fidelity, psnr, ssim
from skipdit.evaluation.pictures import (
    contact_sheet,
    difference,
    difference_label,
    grid,
    labelled_clips,
    labelled_rows,
    save_png,
    to_uint8,
)

__all__ = [
    "Fidelity",
    "Latency",
    "contact_sheet",
    "count_flops",
    "difference",
    "difference_label",
    "fidelity",
    "grid",
    "labelled_clips",
    "labelled_rows",
    "measure",
    "measure_side_by_side",
    "predicted_speedup",
    "psnr",
    "save_png",
    "ssim",
    "steps_at_equal_flops",
    "to_uint8",
]
