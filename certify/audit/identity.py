"""What must be equal before a vote is drawn again: the machine's noise, the model, the data, every single input."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.audit import fields
from certify.audit.findings import AuditError, Findings
from certify.audit.folder import RawRow
from certify.datasets.base import Dataset

_WHERE = "replay"


def _torch_streams(identity: dict[str, Any]) -> torch.device:
    """Return a device with the run's random streams: torch's differ by release, device kind and model of the GPU."""
    recorded, here = identity.get("torch_version"), torch.__version__
    if recorded != here:
        raise AuditError(
            f"noise version torch-block-v1 can be drawn again only by the torch that drew it: the run used torch "
            f"{recorded}, here is torch {here}"
        )
    kind = identity.get("device_kind")
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if kind not in available:
        raise AuditError(
            f"noise version torch-block-v1 can be drawn again only on the device kind that drew it: the run used "
            f"{kind!r}, this machine has {' and '.join(available)}"
        )
    return torch.device("cpu") if kind == "cpu" else _same_gpu(identity.get("device_name"))


def _same_gpu(recorded: object) -> torch.device:
    """Return a GPU of the recorded name: how many samples a kernel draws at once depends on its multiprocessors."""
    if not isinstance(recorded, str) or not recorded:
        raise AuditError(
            "noise of a GPU can be drawn again only on the same model of GPU, which run.json must name (device_name), "
            f"got {recorded!r}"
        )
    here = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if recorded not in here:
        raise AuditError(
            f"noise version torch-block-v1 can be drawn again only on the model of GPU that drew it: the run used "
            f"{recorded!r}, this machine has {', '.join(map(repr, here)) or 'none'}"
        )
    return torch.device("cuda", here.index(recorded))


def _any_device(identity: dict[str, Any]) -> torch.device:
    """Return the fastest device: integer noise has the same bits everywhere, under any release of torch."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


NOISE_VERSIONS: dict[str, Callable[[dict[str, Any]], torch.device]] = {
    "torch-block-v1": _torch_streams,
    "philox-int-v1": _any_device,
}
"""Noise version -> the device that draws the same noise, or an error; a new version is one row."""


def check_machine(identity: dict[str, Any]) -> torch.device:
    """Check that the recorded noise can be drawn here, and return the device to draw it on.

    Raises:
        AuditError: If it cannot.
    """
    version = identity.get("noise_version")
    check = NOISE_VERSIONS.get(version) if isinstance(version, str) else None
    if check is None:
        raise AuditError(f"noise version must be one of {', '.join(NOISE_VERSIONS)} to be replayed, got {version!r}")
    return check(identity)


def check_digest(what: str, recorded: object, here: str, options: str) -> None:
    """Refuse a model or data other than the recorded ones.

    Raises:
        AuditError: If the digests differ.
    """
    if recorded != here:
        raise AuditError(
            f"the {what} must be that of the run: run.json has the digest {recorded}, what was loaded has {here}; "
            f"no vote was drawn. If the original lies elsewhere, name it by {options}"
        )


def check_transform(identity: dict[str, Any], here: str | None) -> None:
    """Refuse a model that resizes and crops otherwise than that of the run; runs that did not record it pass.

    Raises:
        AuditError: If it does.
    """
    recorded = identity.get("transform", here)
    if recorded != here:
        raise AuditError(
            f"the model must resize and crop as in the run: run.json has {recorded!r}, what was loaded has {here!r}; no "
            "vote was drawn"
        )


def check_inputs(rows: Sequence[RawRow], data: Dataset, shape: tuple[int, ...]) -> dict[int, Tensor]:
    """Return the inputs of `rows`, float32, after comparing each with its recorded hash and label.

    Raises:
        AuditError: If one of them is not the recorded one.
    """
    inputs: dict[int, Tensor] = {}
    for row in rows:
        if not 0 <= row.index < len(data):
            raise AuditError(
                f"input {row.index} is not in the data set, which has {len(data)} inputs; no vote was drawn"
            )
        x, payload = data.inputs([row.index])[0], row.payload or {}
        if tuple(x.shape) != shape:
            raise AuditError(f"input {row.index} must have shape {shape}, got {tuple(x.shape)}; no vote was drawn")
        here = _sha256(x)
        if payload.get("input_sha256") != here:
            raise AuditError(
                f"input {row.index} must be that of the run: the journal has sha256 {payload.get('input_sha256')}, "
                f"what was loaded has {here}; no vote was drawn"
            )
        label = int(data.labels([row.index])[0])
        if payload.get("label") != label:
            raise AuditError(
                f"the label of input {row.index} must be that of the run: the journal has {payload.get('label')!r}, "
                f"the data set has {label}; no vote was drawn"
            )
        inputs[row.index] = x
    return inputs


def check_rows(rows: Iterable[RawRow], data: Dataset, found: Findings) -> None:
    """Compare hash and label of inputs that are not drawn again: the data are at hand, and no vote is needed for it.

    One input at a time, so that memory does not grow with the run.
    """
    for row in rows:
        if row.payload is None:
            continue  # reported with the record
        if not 0 <= row.index < len(data):
            found.add(row.index, "index", row.index, f"an input of the data set, 0..{len(data) - 1}", _WHERE)
            continue
        label = int(data.labels([row.index])[0])
        if fields.integer(row.payload.get("label")) != label:
            found.add(row.index, "label", row.payload.get("label"), f"{label}, by the data set", _WHERE)
        here = _sha256(data.inputs([row.index])[0])
        if row.payload.get("input_sha256") != here:
            found.add(row.index, "input_sha256", row.payload.get("input_sha256"), f"{here}, by the data set", _WHERE)


def check_data_settings(settings: dict[str, Any], data: Dataset, found: Findings) -> None:
    """Compare what run.json says of the data, as far as it says it, with the data."""
    for key, value in (("data_size", len(data)), ("grid", data.grid)):
        if key in settings:
            found.require_equal(None, key, settings[key], value, "run.json")


def _sha256(x: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(x.numpy(), dtype="<f4").tobytes()).hexdigest()
