"""Tables on disk: computed once per law and dimension, under a name that holds everything they depend on.

Two kinds: the curves of the level-set method (of a profile), and the growth integrals of the differential method (of the
function that builds them and its arguments). A file is named after the hash of the class or function and its parameters, of
the source code of the method, and of the versions of numpy and scipy; another version of anything gets another file. Files
appear whole, by a rename, so that any number of processes may read and write one folder: at worst two of them compute the
same table. A file that does not hold what its name says is computed again.

Both kinds are bounds at every probability (a look-up never lies above the radius that a computation without a table gives,
up to what that one rounds away), and monotone.
"""

import hashlib
import inspect
import io
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from smoothing.errors import InvalidArgumentError, SmoothingError
from smoothing.radius import caps, curve, differential, level_set, line, scale_chords, signs, special, spherical
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.differential import GrowthIntegral
from smoothing.radius.spherical import SphericalProfile

Arrays = dict[str, NDArray[np.float64]]

_folder: Path | None = None


class TableError(SmoothingError):
    """A table cannot be written where the caller wants it."""


def use_folder(folder: Path | str | None) -> None:
    """Keep the tables of this process in `folder` from now on, and look for them there; None: in memory only.

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


# --- Curves of the level-set method -----------------------------------------------------------------------------------


_CURVE = ("e", "w", "kappa", "above", "far", "spent")


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

    def build() -> Arrays:
        made = LevelSetCurve.build(profile)
        arrays = {name: getattr(made, name) for name in _CURVE}
        return {**arrays, "scalars": np.array([made.slope, made.power])}

    found = _load_or_build("level-set", table_header(profile), folder, (*_CURVE, "scalars"), build)
    slope, power = (float(value) for value in found["scalars"])
    return LevelSetCurve(**{name: found[name] for name in _CURVE}, slope=slope, power=power)


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
    return _header(
        kind,
        values,
        (curve, scale_chords, level_set, caps, line, spherical, special, sys.modules[type(profile).__module__]),
    )


# --- Growth integrals of the differential method ----------------------------------------------------------------------

_GROWTH = ("thresholds", "shares", "means", "scalars")


def kept_growth(build: Callable[..., GrowthIntegral]) -> Callable[..., GrowthIntegral]:
    """Make a function of numbers that builds a growth integral look in memory and in the folder of `use_folder` first.

    The decorated function takes its arguments by position only.
    """

    @lru_cache(maxsize=64)
    @wraps(build)
    def stored(*arguments: float | int) -> GrowthIntegral:
        if _folder is None:
            return build(*arguments)
        values = {str(index): float(value).hex() for index, value in enumerate(arguments)}
        names = (build.__module__, "smoothing.radius.radial")  # one of the builders uses the other's module
        modules = (differential, signs, special, *(sys.modules[name] for name in sorted(set(names))))
        header = _header(f"{build.__module__}.{build.__qualname__}", values, modules)

        def compute() -> Arrays:
            growth = build(*arguments)
            limit = math.nan if growth.limit is None else growth.limit
            scalars = np.array([growth.half_mean, limit, growth.error])
            return dict(zip(_GROWTH, (growth.thresholds, growth.shares, growth.means, scalars), strict=True))

        found = _load_or_build("growth", header, _folder, _GROWTH, compute)
        half_mean, limit, error = (float(value) for value in found["scalars"])
        return GrowthIntegral(
            found["thresholds"], found["shares"], found["means"], half_mean, None if math.isnan(limit) else limit, error
        )

    return stored


# --- Files ------------------------------------------------------------------------------------------------------------


def _header(kind: str, values: dict[str, Any], modules: tuple[ModuleType, ...]) -> str:
    code = hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest()
    content = {"table": kind, "values": values, "code": code, "numpy": np.__version__, "scipy": scipy.__version__}
    return json.dumps(content, sort_keys=True)


def _load_or_build(kind: str, header: str, folder: Path, names: tuple[str, ...], build: Callable[[], Arrays]) -> Arrays:
    path = folder / f"{kind}-{hashlib.sha256(header.encode()).hexdigest()[:40]}.npz"
    arrays = _read(path, header, names)
    if arrays is None:
        arrays = build()
        _write(path, header, arrays)
    return arrays


def _read(path: Path, header: str, names: tuple[str, ...]) -> Arrays | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            if str(data["header"]) != header:
                return None
            arrays: Arrays = {name: np.asarray(data[name], dtype=np.float64) for name in names}
            digest = str(data["digest"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if digest == _digest(arrays) else None


def _digest(arrays: Arrays) -> str:
    return hashlib.sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _write(path: Path, header: str, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    content: dict[str, Any] = dict(arrays)
    np.savez(buffer, header=header, digest=_digest(arrays), **content)
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
