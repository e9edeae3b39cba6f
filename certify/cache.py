"""Where tables that take seconds to compute are kept between processes."""

import os
from pathlib import Path

from smoothing.errors import SmoothingError
from smoothing.radius.table import use_folder


def use_cache() -> None:
    """Keep level-set tables in `$CERTIFY_CACHE`, else in the platform's cache folder for this program.

    Raises:
        TableError: If `$CERTIFY_CACHE` is set but cannot be used. The platform's folder is only a convenience: without it
            tables are kept in memory.
    """
    asked = os.environ.get("CERTIFY_CACHE")
    if asked:
        use_folder(asked)
        return
    from platformdirs import user_cache_dir

    try:
        use_folder(user_cache_dir("wulff", appauthor=False))
    except SmoothingError:
        use_folder(None)


def boundary_cache() -> Path | None:
    """Return the folder for the boundaries of sequential tests, beside the tables; None where none can be written.

    Raises:
        UsageError: If `$CERTIFY_CACHE` is set but cannot be used.
    """
    from platformdirs import user_cache_dir

    from certify.errors import UsageError

    asked = os.environ.get("CERTIFY_CACHE")
    folder = Path(asked or user_cache_dir("wulff", appauthor=False)) / "boundaries"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if asked:
            raise UsageError(f"CERTIFY_CACHE must be a folder that can be written, got {asked}: {error}") from None
        return None
    return folder if os.access(folder, os.W_OK) else None
