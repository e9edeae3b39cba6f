"""cvxpy, imported where it is used: it takes a second, and most of verification never needs it."""

from typing import Any


def load_cvxpy() -> Any:
    """Return the module `cvxpy`, untyped: its own annotations cover only parts of it."""
    import cvxpy

    return cvxpy
