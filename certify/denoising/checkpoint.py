"""A denoiser in one file: `denoiser.safetensors`, whose header says what it is; nothing in it can run code."""

import json
from collections.abc import Mapping
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
from denoisers import DENOISERS, build_denoiser, sizes_of
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
        sizes: Depth and width by name, as far as the denoiser takes them; those that are absent are the table's.
    """

    denoiser: str
    channels: int
    noise: str
    parameters: dict[str, float]
    sigma: float
    data: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def architecture(self) -> str:
        """Return the network in a few words, such as "dncnn-small (depth 6, width 32)".

        Raises:
            InvalidArgumentError: If there is no such denoiser, or it has no such size.
        """
        sizes = sizes_of(self.denoiser, self.sizes)
        return f"{self.denoiser} ({', '.join(f'{name} {value}' for name, value in sizes.items())})"


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
            network = build_denoiser(config.denoiser, config.channels, config.sizes)
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
    # Depth and width are told by the weights.
    return json.dumps({"denoiser": config.denoiser, "channels": config.channels, "sigma": config.sigma.hex()})


def other_sizes(denoiser: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes that are not the table's, sorted by name."""
    usual = sizes_of(denoiser)
    return {name: value for name, value in sorted(sizes.items()) if usual.get(name) != value}


def describe_denoiser(spec: str) -> str:
    """Return what a denoiser is in a few words: the network of a trained one, or the text itself.

    Raises:
        ModelError: If the file cannot be used.
    """
    path = Path(spec).expanduser()
    return load_denoiser(path)[1].architecture() if path.exists() else spec


def denoiser_names() -> str:
    """Return the names of the table, for messages and help."""
    return ", ".join(DENOISERS)
