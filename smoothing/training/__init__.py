"""Training of base classifiers that smooth well: one file per objective, one trainer for all of them."""

from smoothing.training.augmentation import NoiseAugmentation
from smoothing.training.catrs import CatRS
from smoothing.training.config import TrainingConfig
from smoothing.training.consistency import Consistency
from smoothing.training.crop_flip import CropFlip
from smoothing.training.direct import Direct
from smoothing.training.errors import TrainingError
from smoothing.training.evaluation import accuracy
from smoothing.training.events import EpochDone, EpochStarted, Event, StepDone
from smoothing.training.macer import Macer
from smoothing.training.objective import Batch, Objective
from smoothing.training.smoothadv import SmoothAdv
from smoothing.training.smoothmix import SmoothMix
from smoothing.training.stability import Stability
from smoothing.training.table import OBJECTIVES, describe_parameters, make_objective, parse_parameters
from smoothing.training.trainer import Trainer

__all__ = [
    "OBJECTIVES",
    "Batch",
    "CatRS",
    "Consistency",
    "CropFlip",
    "Direct",
    "EpochDone",
    "EpochStarted",
    "Event",
    "Macer",
    "NoiseAugmentation",
    "Objective",
    "SmoothAdv",
    "SmoothMix",
    "Stability",
    "StepDone",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "accuracy",
    "describe_parameters",
    "make_objective",
    "parse_parameters",
]
