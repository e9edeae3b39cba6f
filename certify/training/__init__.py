"""Training a base classifier into a checkpoint: data, defaults, log and checkpoint around `smoothing.training`."""

from certify.training.data import TrainingData, load_training_data
from certify.training.defaults import DEFAULTS, Defaults, defaults_for
from certify.training.job import TrainingResult, follow_training, train_checkpoint
from certify.training.log import EpochRecord
from certify.training.plan import TrainingPlan, TrainOptions, prepare_training

__all__ = [
    "DEFAULTS",
    "Defaults",
    "EpochRecord",
    "TrainOptions",
    "TrainingData",
    "TrainingPlan",
    "TrainingResult",
    "defaults_for",
    "follow_training",
    "load_training_data",
    "prepare_training",
    "train_checkpoint",
]
