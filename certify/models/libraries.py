"""What the loaders of optional libraries share: importing them, and telling why weights did not come."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor, nn

from certify.errors import ModelError
from certify.models.base import reason
from certify.models.normalize import Normalize

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class PixelClassifier(nn.Module):
    """A network of some library behind its own normalisation: pixels in [0, 1] in, scores out.

    Args:
        normalize: The first layer.
        network: Takes normalised inputs and returns scores, or an object whose `output` attribute holds them.
        output: Name of that attribute ("logits"); None where the network returns the scores themselves.
        flip_channels: Whether the network takes BGR where inputs are RGB.
    """

    def __init__(
        self, normalize: Normalize, network: nn.Module, *, output: str | None = None, flip_channels: bool = False
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.output = output
        self.flip_channels = flip_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores [batch, classes] of images [batch, channels, height, width]."""
        result = self.network(self.normalize(x.flip(1) if self.flip_channels else x))
        scores: Tensor = result if self.output is None else getattr(result, self.output)
        return scores


def import_extra(name: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ModelError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"{name} cannot be imported ({reason(error)}); install it: pip install 'wulff[{extra}]'"
        ) from error


@contextmanager
def fetching(spec: str) -> Iterator[None]:
    """Turn every failure to fetch or read weights into a `ModelError`, and forbid `torch.load` to run code meanwhile.

    Libraries fetch through several clients, each with its own errors, so all are caught. The environment variable is
    PyTorch's own switch for callers that ask for unrestricted unpickling (torchvision's do).
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the weights of {spec} could not be fetched or read: {reason(error)}; without a network, "
            "fetch them beforehand on a machine that has one, or name a local file or folder"
        ) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
