"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path

from certify.errors import CertifyError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` by way of a temporary file in the same folder, so that no reader ever sees a part of it.

    Raises:
        CertifyError: If the folder is not writable or the disk is full; the old file, if any, is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CertifyError(f"cannot write {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents.

    Raises:
        CertifyError: If that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CertifyError(
            f"cannot create the folder {path}: {error.strerror or error}; choose another --out"
        ) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
