"""The native checkpoint: a folder with `model.safetensors` (weights) and `model.json` (everything else).

Nothing in it can run code. `model.json` holds the sha256 of `model.safetensors`, so a pair that does not belong
together, a truncated file and a changed byte are all noticed.
"""

import hashlib
import json
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from certify.errors import ModelError, UsageError
from certify.models.architectures import build_architecture
from certify.models.base import LoadedModel, describe, reason
from certify.models.checkpoint_config import CONFIG, WEIGHTS, CheckpointConfig, config_text, read_config, read_file
from certify.models.digest import module_digest
from certify.models.weights import fill, misfits, on_meta

_PENDING = "model.safetensors.pending"


def save_checkpoint(folder: str | Path, model: nn.Module, config: CheckpointConfig) -> None:
    """Write `model` and `config` into `folder`, replacing what stands there all at once.

    Whatever interrupts it (a kill, a full disk), the folder then holds either the old checkpoint or the new one, whole:
    the new weights are first written under another name, `model.json` is replaced in one step, and only then do the
    weights get their name; `load_checkpoint` knows the state in between.

    Args:
        folder: Made if absent. Other files in it stay.
        model: As `build_architecture` builds it from the same configuration; on any device.
        config: What to record.

    Raises:
        UsageError: If the model is not the one that the configuration describes.
        ModelError: If the folder cannot be written.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    problem = misfits(_build_empty(config).state_dict(), tensors)
    if problem:
        raise UsageError(
            f"the model must be the {config.architecture} that the configuration describes; tensors {problem}"
        )
    problem = _normalisation_problem(config, tensors)
    if problem:
        raise UsageError(f"the model must be normalised as the configuration says; {problem}")
    weights = safetensors.torch.save(tensors)
    text = config_text(config, hashlib.sha256(weights).hexdigest())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_through(folder / _PENDING, weights)
            _write_through(folder / f".{CONFIG}.new", text.encode())
        except OSError:
            (folder / _PENDING).unlink(missing_ok=True)
            (folder / f".{CONFIG}.new").unlink(missing_ok=True)
            raise
        os.replace(folder / f".{CONFIG}.new", folder / CONFIG)  # from here on the new checkpoint is the one
        os.replace(folder / _PENDING, folder / WEIGHTS)
        _sync_folder(folder)
    except OSError as error:
        raise ModelError(f"cannot write the checkpoint folder {folder}: {reason(error)}") from error


def load_checkpoint(path: str | Path) -> tuple[nn.Module, CheckpointConfig]:
    """Read a native checkpoint.

    Args:
        path: The folder, or either of its two files.

    Returns:
        The model on the CPU in eval mode, and what was recorded with it.

    Raises:
        ModelError: If a file is missing, truncated, changed since it was written, or not what it says it is.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config, digest = read_config(folder)
    tensors = parse_safetensors(_read_weights(folder, digest), folder / WEIGHTS)
    try:
        model = _build_empty(config)
    except UsageError as error:
        raise ModelError(f"{folder / CONFIG} describes a model that cannot be built: {error}") from error
    problem = _normalisation_problem(config, tensors)
    if problem:
        raise ModelError(f"{folder / CONFIG} does not belong to {WEIGHTS}: {problem}")
    return fill(model, tensors, str(folder / WEIGHTS)), config


def load_native(spec: str, path: Path) -> LoadedModel:
    """Return the native checkpoint at `path` (folder or file) as a `LoadedModel`; raises as `load_checkpoint` does."""
    model, config = load_checkpoint(path)
    return LoadedModel(
        spec=spec,
        classifier=model,
        num_classes=config.num_classes,
        input_shape=config.input_shape,
        transform=None,
        noise=config.noise,
        class_names=config.class_names,
        data=config.data,
        digest=architecture_digest(model, config.architecture, config.num_classes, config.input_shape),
        description=describe(
            config.architecture,
            model,
            input_shape=config.input_shape,
            num_classes=config.num_classes,
            data=config.data,
            noise=config.noise,
        ),
    )


def architecture_digest(model: nn.Module, name: str, num_classes: int, input_shape: tuple[int, ...]) -> str:
    """Return the digest of a network of the table: the same for the same weights, whatever file they came from."""
    config = {"architecture": name, "num_classes": num_classes, "input_shape": list(input_shape)}
    return module_digest(model, json.dumps(config, sort_keys=True))


def parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file.

    Raises:
        ModelError: If the bytes are not one.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is not a safetensors file, or is truncated: {reason(error)}") from error
    return tensors


def _build_empty(config: CheckpointConfig) -> nn.Module:
    with on_meta():
        return build_architecture(
            config.architecture,
            num_classes=config.num_classes,
            input_shape=config.input_shape,
            mean=config.mean,
            std=config.std,
        )


def _normalisation_problem(config: CheckpointConfig, tensors: dict[str, Tensor]) -> str:
    """Return how the recorded mean and std differ from those among the weights, which are the ones that count."""
    for name, recorded in (("mean", config.mean), ("std", config.std)):
        stored = tensors.get(f"normalize.{name}")
        if recorded is None or stored is None:
            continue  # one without the other is a missing or unexpected tensor, reported as such
        if not torch.equal(stored.float().flatten(), torch.tensor(recorded, dtype=torch.float32)):
            return f"{name} is recorded as {recorded}, the weights hold {tuple(stored.flatten().tolist())}"
    return ""


def _read_weights(folder: Path, digest: str) -> bytes:
    """Return the bytes with that sha256: the weights, or those of a save that was cut off before its last step."""
    path, pending = folder / WEIGHTS, folder / _PENDING
    data = path.read_bytes() if path.is_file() else None
    if data is not None and hashlib.sha256(data).hexdigest() == digest:
        return data
    if pending.is_file():
        waiting = read_file(pending)
        if hashlib.sha256(waiting).hexdigest() == digest:
            return waiting
    if data is None:
        raise ModelError(f"a checkpoint folder holds {WEIGHTS} and {CONFIG}, but {folder} has no {WEIGHTS}")
    raise ModelError(
        f"{path} is truncated or was changed after it was written: "
        f"its sha256 must be {digest}, got {hashlib.sha256(data).hexdigest()} ({len(data)} bytes)"
    )


def _write_through(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it; a rename after that can then be trusted."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the renames durable, where the system lets a folder be synchronised (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
