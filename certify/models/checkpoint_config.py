"""What a native checkpoint records beside the weights, and its text: `model.json`, checked member by member."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify import __version__
from certify.errors import ModelError, UsageError
from certify.models.architectures import find_architecture
from certify.models.base import NoiseSpec, reason

WEIGHTS = "model.safetensors"
CONFIG = "model.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint records beside the weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        num_classes: Number of classes.
        input_shape: Shape of one input.
        mean: One mean a channel, input units; None without normalisation.
        std: One standard deviation a channel, input units; None without normalisation.
        data: Name of the data set that it was trained on.
        noise: Noise that it was trained with; None where it was trained without.
        training: How it was trained (recipe, epochs, final figures), for people; anything that JSON holds.
        class_names: One name a class.
        version: Version of this software that wrote it.
    """

    architecture: str
    num_classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    data: str | None = None
    noise: NoiseSpec | None = None
    training: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    version: str = __version__


def config_text(config: CheckpointConfig, digest: str) -> str:
    """Return the text of `model.json`: `config`, and the sha256 (hex) of the weights that it belongs to."""
    noise, mean, std = config.noise, config.mean, config.std
    content = {
        "schema_version": SCHEMA_VERSION,
        "version": config.version,
        "architecture": config.architecture,
        "num_classes": config.num_classes,
        "input_shape": list(config.input_shape),
        "normalisation": None if mean is None or std is None else {"mean": list(mean), "std": list(std)},
        "data": config.data,
        "class_names": None if config.class_names is None else list(config.class_names),
        "noise": None if noise is None else {"name": noise.name, "parameters": noise.parameters},
        "sigma": None if noise is None else noise.sigma,
        "training": _finite(config.training),
        "sha256": digest,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> Any:
    """Return `value` with NaN and infinities as text, which JSON has no numbers for (a loss may have diverged)."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_config(folder: Path) -> tuple[CheckpointConfig, str]:
    """Read and check the `model.json` of a checkpoint folder.

    Returns:
        The configuration, and the sha256 (hex) that the weights must have.

    Raises:
        ModelError: If it is missing, truncated, of another schema, or lacks a member or holds a wrong one.
    """
    path = folder / CONFIG
    if not path.exists():
        hint = ""
        if (folder / "config.json").exists():
            hint = f"; for a folder of the transformers library say hf:{folder}"
        raise ModelError(f"a checkpoint folder holds {WEIGHTS} and {CONFIG}, but {folder} has no {CONFIG}{hint}")
    try:
        content = json.loads(read_file(path))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON, or is truncated: {reason(error)}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{path} must have schema_version {SCHEMA_VERSION}, got {version!r}; is it from another version?"
        )
    fields = _Fields(path, content)
    normalisation = fields.take(
        "normalisation", lambda v: v is None or (isinstance(v, dict) and {"mean", "std"} <= set(v))
    )
    mean, std = (None, None) if normalisation is None else (normalisation["mean"], normalisation["std"])
    if not all(v is None or _is_list_of(v, (int, float)) for v in (mean, std)):
        raise ModelError(f"{path}: normalisation must hold lists of numbers, got {normalisation!r}")
    noise = fields.take("noise", _is_noise)
    sigma = None if noise is None else noise["parameters"].get("sigma")
    fields.take("sigma", lambda v: v == sigma)
    names = fields.take("class_names", lambda v: v is None or _is_list_of(v, (str,)))
    config = CheckpointConfig(
        architecture=fields.take("architecture", lambda v: isinstance(v, str)),
        num_classes=fields.take("num_classes", _is_int),
        input_shape=tuple(fields.take("input_shape", lambda v: isinstance(v, list) and all(map(_is_int, v)))),
        mean=None if mean is None else tuple(float(v) for v in mean),
        std=None if std is None else tuple(float(v) for v in std),
        data=fields.take("data", lambda v: v is None or isinstance(v, str)),
        noise=None
        if noise is None
        else NoiseSpec(noise["name"], {k: float(v) for k, v in noise["parameters"].items()}),
        training=fields.take("training", lambda v: isinstance(v, dict)),
        class_names=None if names is None else tuple(names),
        version=fields.take("version", lambda v: isinstance(v, str)),
    )
    try:
        find_architecture(config.architecture)
    except UsageError as error:
        raise ModelError(f"{path}: {error}") from error
    if config.class_names is not None and len(config.class_names) != config.num_classes:
        raise ModelError(f"{path} must name {config.num_classes} classes, got {len(config.class_names)} names")
    return config, fields.take("sha256", lambda v: isinstance(v, str))


def read_file(path: Path) -> bytes:
    """Return the bytes of a file of a model.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {reason(error)}") from error


@dataclass(frozen=True)
class _Fields:
    """The members of model.json, each checked as it is taken."""

    path: Path
    content: dict[str, Any]

    def take(self, name: str, valid: Callable[[Any], bool]) -> Any:
        if name not in self.content:
            raise ModelError(f"{self.path} must have the member {name!r}, got {', '.join(sorted(self.content))}")
        if not valid(self.content[name]):
            raise ModelError(f"{self.path}: {name} is not what it has to be, got {name}={self.content[name]!r}")
        return self.content[name]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(item, types) for item in value)


def _is_noise(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    parameters = value.get("parameters")
    return isinstance(parameters, dict) and all(isinstance(item, int | float) for item in parameters.values())
