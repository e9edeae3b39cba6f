"""The arrays of a verified input: certificates and the counterexample, in one file, known to the journal by its hash."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from certify.errors import CertifyError
from certify.files import make_folder, write_atomically
from smoothing.errors import InvalidArgumentError
from verify.certificate import Certificate

FOLDER = "certificates"
POINT = "counterexample"
MULTIPLIERS = "multipliers"


def arrays_path(folder: Path, index: int) -> Path:
    """Return where the arrays of an input lie."""
    return folder / FOLDER / f"{index}.npz"


def write_arrays(
    folder: Path,
    index: int,
    certificates: Mapping[str, Certificate],
    counterexample: ndarray | None,
    lipschitz: Mapping[str, ndarray] | None = None,
) -> str | None:
    """Write the file, whole or not at all; a journal row names it afterwards.

    Returns:
        The SHA-256 of the file; None where there is nothing to keep.
    """
    arrays = {f"{name}/{key}": v for name, c in certificates.items() for key, v in c.to_arrays().items()}
    arrays |= {f"{name}/{MULTIPLIERS}": values for name, values in (lipschitz or {}).items()}
    if counterexample is not None:
        arrays[POINT] = counterexample
    if not arrays:
        return None
    buffer = io.BytesIO()
    save: Any = np.savez_compressed
    save(buffer, **arrays)
    make_folder(folder / FOLDER)
    write_atomically(arrays_path(folder, index), buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_arrays(folder: Path, index: int, sha256: str) -> dict[str, ndarray]:
    """Read the file back.

    Raises:
        CertifyError: If it is absent, is not the one that the journal names, or cannot be read.
    """
    path = arrays_path(folder, index)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CertifyError(f"cannot read {path}: {error.strerror or error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CertifyError(f"{path} must have the sha256 {sha256} that the journal names, got {found}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise CertifyError(f"{path} is damaged: {error}") from None


def certificate_of(arrays: Mapping[str, ndarray], name: str) -> Certificate:
    """Return one derivation of the file.

    Raises:
        InvalidArgumentError: If it is not there, or damaged.
    """
    prefix = f"{name}/"
    return Certificate.from_arrays({key[len(prefix) :]: v for key, v in arrays.items() if key.startswith(prefix)})


def multipliers_of(arrays: Mapping[str, ndarray], name: str) -> ndarray:
    """Return the multipliers of a global Lipschitz proof, [programs, hidden] float64.

    Raises:
        InvalidArgumentError: If they are not there, or no matrix of numbers.
    """
    found = arrays.get(f"{name}/{MULTIPLIERS}")
    if found is None or found.ndim != 2 or found.dtype != np.float64:
        raise InvalidArgumentError(f"the arrays must hold a float64 matrix {name}/{MULTIPLIERS}, got none")
    return found
