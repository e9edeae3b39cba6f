"""Where tables that take seconds to compute are kept between processes."""

import os

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
