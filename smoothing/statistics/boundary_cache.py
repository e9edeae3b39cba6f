"""Boundaries by name: each method of building one, and a folder that keeps what was built.

A file is named after the hash of everything that its boundary depends on: arguments, source code, versions. Files appear
whole, by a rename, so that any number of processes may read and write one folder: at worst two of them build the same
boundary. A file that does not hold what its name says is built again.
"""

import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy

from smoothing.errors import InvalidArgumentError, SmoothingError
from smoothing.statistics import boundary, crossing, mixture, spending, tail
from smoothing.statistics.boundary import Boundary, Side
from smoothing.statistics.mixture import mixture_boundary
from smoothing.statistics.spending import spending_boundary

Method = Literal["gse", "zmix"]

METHODS: dict[str, Callable[..., Boundary]] = {"gse": spending_boundary, "zmix": mixture_boundary}
"""Names of methods -> builders (q0, alpha, looks, side=). A new method is one file and one row."""


class BoundaryCacheError(SmoothingError):
    """A boundary cannot be written where the caller wants it."""


@lru_cache(maxsize=256)
def boundary_of(
    method: str, q0: float, alpha: float, looks: tuple[int, ...], side: Side, folder: Path | None = None
) -> Boundary:
    """Return the boundary: from memory, from `folder` if there is one, or built.

    Raises:
        InvalidArgumentError: If there is no such method, or an argument is out of range.
        BoundaryCacheError: If the file cannot be written.
    """
    if method not in METHODS:
        raise InvalidArgumentError(f"method must be one of {', '.join(METHODS)}, got method={method!r}")
    if folder is None:
        return METHODS[method](q0, alpha, looks, side=side)
    header = _header(method, q0, alpha, looks, side)
    path = folder / f"boundary-{hashlib.sha256(header.encode()).hexdigest()[:40]}.json"
    found = _read(path, header)
    if found is None:
        found = METHODS[method](q0, alpha, looks, side=side)
        _write(path, header, found)
    return found


def _header(method: str, q0: float, alpha: float, looks: tuple[int, ...], side: Side) -> str:
    modules = (boundary, crossing, mixture, spending, tail)
    content = {
        "method": method,
        "q0": q0.hex(),
        "alpha": alpha.hex(),
        "looks": looks,
        "side": side,
        "code": hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    return json.dumps(content, sort_keys=True)


def _read(path: Path, header: str) -> Boundary | None:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        found = Boundary.from_dict(data["boundary"])
        good = data["header"] == header and data["sha256"] == found.sha256
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return found if good else None


def _write(path: Path, header: str, built: Boundary) -> None:
    text = json.dumps({"header": header, "sha256": built.sha256, "boundary": built.to_dict()})
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise BoundaryCacheError(
            f"cannot write the boundary {path}: {error.strerror or error}; choose another folder"
        ) from error
