"""Training of base classifiers that smooth well: one file per objective, one trainer for all of them."""

from smoothing.training.augmentation import NoiseAugmentation
from smoothing.training.config import TrainingConfig
from smoothing.training.crop_flip import CropFlip
from smoothing.training.errors import TrainingError
from smoothing.training.evaluation import accuracy
from smoothing.training.events import EpochDone, EpochStarted, Event, StepDone
from smoothing.training.objective import Batch, Objective
from smoothing.training.table import OBJECTIVES, make_objective
from smoothing.training.trainer import Trainer

__all__ = [
    "OBJECTIVES",
    "Batch",
    "CropFlip",
    "EpochDone",
    "EpochStarted",
    "Event",
    "NoiseAugmentation",
    "Objective",
    "StepDone",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "accuracy",
    "make_objective",
]
