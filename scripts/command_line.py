"""What the scripts share on the command line: numbers with a range, file names of pictures, and errors of one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

PICTURES = (".png", ".pdf", ".svg")


def whole(least: int) -> Callable[[str], int]:
    """Return a reader of integers of at least `least`, for argparse."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"an integer of at least {least} is expected, got {text}")
        return value

    read.__name__ = "integer"
    return read


def between(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers in (low, high), for argparse."""

    def read(text: str) -> float:
        value = float(text)
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"a number in ({low:g}, {high:g}) is expected, got {text}")
        return value

    read.__name__ = "number"
    return read


def picture(text: str) -> Path:
    """Read the file name of a picture, for argparse: a form that cannot be drawn is not found after the measurements."""
    path = Path(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"a file name that ends in {', '.join(PICTURES)} is expected, got {text!r}")
    return path


def in_one_line(work: Callable[[], int | None], *, failure: int = 1) -> int:
    """Return the exit code of `work`; an error that was raised on purpose becomes one message on standard error.

    As `certify` does it: wrong usage exits with 2, a failure of the world (a file, a folder, a model) with 1. Only a defect
    shows a traceback.

    Args:
        work: What to do; its answer is the exit code, None for 0.
        failure: Exit code of a failure of the world.
    """
    # Imported here, so that --help and wrong arguments need nothing heavy.
    from smoothing.errors import InvalidArgumentError, SmoothingError

    try:
        return work() or 0
    except InvalidArgumentError as error:
        code, text = 2, str(error)
    except (SmoothingError, OSError) as error:
        code, text = failure, str(error)
    print(f"error: {text}", file=sys.stderr)
    return code
