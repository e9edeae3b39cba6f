"""A denoiser in one file: `denoiser.safetensors`, whose header says what it is; nothing in it can run code."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from certify.errors import ModelError
from certify.files import make_folder, write_atomically
from certify.models.base import reason
from certify.models.checkpoint_config import read_file
from certify.models.digest import module_digest
from certify.models.weights import fill, on_meta
from denoisers import DENOISERS, build_denoiser
from smoothing.errors import InvalidArgumentError

FILE = "denoiser.safetensors"
FORMAT = "certify-denoiser-1"


@dataclass(frozen=True)
class DenoiserConfig:
    """What is recorded beside the weights.

    Attributes:
        denoiser: A key of `denoisers.DENOISERS`.
        channels: Channels of the images.
        noise: Name of the law that it was trained for.
        parameters: That law's parameters.
        sigma: Noise level that it is told, in pixels in [0, 1].
        data: Data set that it was trained on.
        training: How it was trained, for people; anything that JSON holds.
    """

    denoiser: str
    channels: int
    noise: str
    parameters: dict[str, float]
    sigma: float
    data: str | None = None
    training: dict[str, Any] = field(default_factory=dict)


def save_denoiser(folder: Path, network: nn.Module, config: DenoiserConfig) -> Path:
    """Write the file, whole or not at all; return its path.

    Raises:
        CertifyError: If it cannot be written.
    """
    make_folder(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(config), sort_keys=True),
        "digest": module_digest(network, _identity(config)),
    }
    write_atomically(folder / FILE, safetensors.torch.save(tensors, metadata=header))
    return folder / FILE


def load_denoiser(path: Path) -> tuple[nn.Module, DenoiserConfig, str]:
    """Read a denoiser.

    Args:
        path: The folder or the file.

    Returns:
        The network on the CPU in eval mode, what was recorded with it, and its digest.

    Raises:
        ModelError: If the file is missing, damaged, or not what it says it is.
    """
    file = path / FILE if path.is_dir() else path
    data = read_file(file)
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{file} is not a safetensors file, or is truncated: {reason(error)}") from None
    if header.get("format") != FORMAT:
        raise ModelError(f"{file} is not a denoiser of this program ({FORMAT}): it says {header.get('format')!r}")
    try:
        config = DenoiserConfig(**json.loads(header["config"]))
        with on_meta():
            network = build_denoiser(config.denoiser, config.channels)
    except (KeyError, TypeError, ValueError, InvalidArgumentError) as error:
        raise ModelError(f"{file} describes no denoiser that can be built: {reason(error)}") from None
    network = fill(network, tensors, str(file))
    digest = module_digest(network, _identity(config))
    if digest != header.get("digest"):
        raise ModelError(
            f"{file} was changed after it was written: its digest must be {header.get('digest')}, got {digest}"
        )
    return network, config, digest


def _identity(config: DenoiserConfig) -> str:
    return json.dumps({"denoiser": config.denoiser, "channels": config.channels, "sigma": config.sigma.hex()})


def denoiser_names() -> str:
    """Return the names of the table, for messages and help."""
    return ", ".join(DENOISERS)
