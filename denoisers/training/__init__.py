"""Training of denoisers in front of frozen classifiers; runs in the trainer of `smoothing.training`."""

from denoisers.training.classification import Classification
from denoisers.training.mse import MeanSquaredError
from denoisers.training.objective import DenoisingObjective
from denoisers.training.stability import Stability
from denoisers.training.table import DENOISING_OBJECTIVES, make_denoising_objective
from denoisers.training.task import DenoisingTask

__all__ = [
    "DENOISING_OBJECTIVES",
    "Classification",
    "DenoisingObjective",
    "DenoisingTask",
    "MeanSquaredError",
    "Stability",
    "make_denoising_objective",
]
