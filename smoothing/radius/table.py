"""Level-set curves on disk: computed once per law and dimension, under a name that holds everything they depend on.

A file is named after the hash of the profile's class and parameters, of the source code of the method and of the profile,
and of the versions of numpy and scipy; another version of anything gets another file. Files appear whole, by a rename, so
that any number of processes may read and write one folder: at worst two of them compute the same curve. A file that does
not hold what its name says is computed again.
"""

import hashlib
import inspect
import io
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from smoothing.errors import InvalidArgumentError, SmoothingError
from smoothing.radius import level_set, spherical
from smoothing.radius.level_set import LevelSetCurve
from smoothing.radius.spherical import SphericalProfile

_ARRAYS = ("e", "w", "kappa")

_folder: Path | None = None


class TableError(SmoothingError):
    """A table cannot be written where the caller wants it."""


def use_folder(folder: Path | str | None) -> None:
    """Keep the curves of this process in `folder` from now on, and look for them there; None: in memory only.

    Raises:
        TableError: If the folder cannot be created.
    """
    global _folder  # noqa: PLW0603 - one setting per process, made by the application and not by the library
    if folder is None:
        _folder = None
        return
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(f"cannot create the cache folder {path}: {error.strerror or error}") from error
    _folder = path


@lru_cache(maxsize=128)
def curve_of(profile: SphericalProfile) -> LevelSetCurve:
    """Return the curve of `profile`: from memory, from the folder of `use_folder`, or computed."""
    if _folder is None:
        return LevelSetCurve.build(profile)
    return load_or_build(profile, _folder)


def load_or_build(profile: SphericalProfile, folder: Path) -> LevelSetCurve:
    """Return the curve of `profile` from its file in `folder`; where there is none, compute it and write the file.

    Raises:
        InvalidArgumentError: If the profile is not a dataclass of numbers, so that nothing says what its curve depends on.
        TableError: If the file cannot be written.
    """
    header = table_header(profile)
    path = folder / f"level-set-{hashlib.sha256(header.encode()).hexdigest()[:40]}.npz"
    curve = _read(path, header)
    if curve is None:
        curve = LevelSetCurve.build(profile)
        _write(path, header, curve)
    return curve


def table_header(profile: SphericalProfile) -> str:
    """Return the text, JSON, of all that the curve of `profile` depends on; floats in hexadecimal.

    Raises:
        InvalidArgumentError: If the profile is not a dataclass of numbers.
    """
    kind = f"{type(profile).__module__}.{type(profile).__qualname__}"
    described: Any = profile  # mypy takes no abstract class for a dataclass
    if not is_dataclass(described):
        raise InvalidArgumentError(f"a profile must be a dataclass to be kept on disk, got {kind}")
    values: dict[str, Any] = {}
    for field in fields(described):
        value = getattr(profile, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArgumentError(f"a profile kept on disk must hold numbers, got {field.name}={value!r}")
        values[field.name] = float(value).hex()
    modules = (level_set, spherical, sys.modules[type(profile).__module__])
    code = hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest()
    content = {"profile": kind, "values": values, "code": code, "numpy": np.__version__, "scipy": scipy.__version__}
    return json.dumps(content, sort_keys=True)


def _read(path: Path, header: str) -> LevelSetCurve | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            if str(data["header"]) != header:
                return None
            arrays = {name: np.asarray(data[name], dtype=np.float64) for name in _ARRAYS}
            slope, digest = float(data["slope"]), str(data["digest"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    curve = LevelSetCurve(**arrays, slope=slope)
    return curve if digest == _digest(curve) else None


def _digest(curve: LevelSetCurve) -> str:
    parts = [getattr(curve, name).tobytes() for name in _ARRAYS]
    return hashlib.sha256(b"".join((*parts, curve.slope.hex().encode()))).hexdigest()


def _write(path: Path, header: str, curve: LevelSetCurve) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(curve, name) for name in _ARRAYS}
    np.savez(buffer, header=header, slope=curve.slope, digest=_digest(curve), **arrays)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise TableError(f"cannot write the table {path}: {error.strerror or error}; choose another folder") from error
