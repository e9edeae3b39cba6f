"""Base classifiers: the architectures that can be trained here, and loading models of every form of MODEL."""

from certify.models.architectures import ARCHITECTURES, build_architecture
from certify.models.base import LoadedModel, NoiseSpec, transform_text
from certify.models.checkpoint import load_checkpoint, save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from certify.models.load import MODEL_FORMS, load_model
from certify.models.normalize import NORMALISATIONS, Normalize
from certify.models.transforms import rebuild_transform

__all__ = [
    "ARCHITECTURES",
    "MODEL_FORMS",
    "NORMALISATIONS",
    "CheckpointConfig",
    "LoadedModel",
    "NoiseSpec",
    "Normalize",
    "build_architecture",
    "load_checkpoint",
    "load_model",
    "rebuild_transform",
    "save_checkpoint",
    "transform_text",
]
