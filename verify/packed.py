"""Files that may be packed by gzip, as benchmark repositories keep them; told by their content, not by their name."""

import gzip
from pathlib import Path

_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked if it begins as gzip does.

    Raises:
        OSError: If it cannot be read, or is no gzip file although it begins like one.
        EOFError: If it is a gzip file that ends too early.
        zlib.error: If its packed data are damaged.
    """
    data = path.read_bytes()
    return gzip.decompress(data) if data.startswith(_MAGIC) else data
