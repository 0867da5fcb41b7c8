"""Noise: how it is added, what a model says of it, what training minimises, and how sampling takes it away."""

from skipdit.diffusion.guidance import guided
from skipdit.diffusion.loss import Losses, learned_range_loss, mse_loss
from skipdit.diffusion.prediction import Prediction, to_eps, to_v, to_x_0, training_target
from skipdit.diffusion.process import FLOW, Denoising, FlowMatching, Process, process_of
from skipdit.diffusion.sample import Denoise, ddim, ddpm
from skipdit.diffusion.schedule import NoiseSchedule, respace
from skipdit.diffusion.variance import Gaussian, Variance, learned_log_variance, posterior, reverse, split_output

__all__ = [
    "FLOW",
    "Denoise",
    "Denoising",
    "FlowMatching",
    "Gaussian",
    "Losses",
    "NoiseSchedule",
    "Prediction",
    "Process",
    "Variance",
    "ddim",
    "ddpm",
    "guided",
    "learned_log_variance",
    "learned_range_loss",
    "mse_loss",
    "process_of",
    "posterior",
    "respace",
    "reverse",
    "split_output",
    "to_eps",
    "to_v",
    "to_x_0",
    "training_target",
]
