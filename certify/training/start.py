"""Weights that a training starts from: pre-training and then fine-tuning."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from certify.errors import ModelError, UsageError
from certify.models.checkpoint import architecture_digest, load_checkpoint
from certify.models.checkpoint_config import CONFIG
from certify.training.resume import STATE_FILE, load_training


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from.

    Attributes:
        path: Where it was.
        architecture: A key of `ARCHITECTURES`.
        mean: Its normalisation, or None.
        std: Its normalisation, or None.
        num_classes: Its classes; another number gives the training a new last layer.
        tensors: Its weights by name.
        digest: Of weights and architecture.
    """

    path: str
    architecture: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    num_classes: int
    tensors: dict[str, Tensor]
    digest: str

    def fill(self, model: nn.Module, num_classes: int) -> None:
        """Give a network these weights; tensors of a last layer over other classes keep their initial values.

        Raises:
            UsageError: If anything else does not fit.
        """
        own = model.state_dict()
        kept: list[str] = []
        wrong: list[str] = []
        for name, value in own.items():
            there = self.tensors.get(name)
            if there is not None and there.shape == value.shape:
                continue
            last = there is not None and num_classes != self.num_classes and value.shape[:1] == (num_classes,)
            (kept if last else wrong).append(name)
        if wrong or set(self.tensors) - set(own):
            names = [*wrong, *sorted(set(self.tensors) - set(own))]
            raise UsageError(f"the weights of {self.path} must fit the network, but {', '.join(names[:3])} do not")
        model.load_state_dict({name: own[name] if name in kept else self.tensors[name] for name in own})


def load_start(path: str) -> Start:
    """Read the checkpoint in a folder, or, where there is none, the state of an unfinished training.

    Raises:
        ModelError: If there is neither, or it is damaged.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / CONFIG).exists() and (folder / STATE_FILE).exists():
        saved = load_training(folder)
        assert saved is not None
        there = saved.identity
        mean, std = (None if there[key] is None else tuple(there[key]) for key in ("mean", "std"))
        return Start(
            path,
            there["architecture"],
            mean,
            std,
            there["num_classes"],
            saved.trainer["model"],
            f"epoch {saved.trainer['epochs']}",
        )
    if not folder.exists():
        raise ModelError(f"start must be a checkpoint folder of `certify train`, but {path} does not exist")
    model, config = load_checkpoint(folder)
    return Start(
        path,
        config.architecture,
        config.mean,
        config.std,
        config.num_classes,
        dict(model.state_dict()),
        architecture_digest(model, config.architecture, config.num_classes, config.input_shape),
    )


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
