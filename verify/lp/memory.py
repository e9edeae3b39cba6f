"""Programs that would not fit into memory are refused before they are built, with the estimate."""

import os

import numpy as np

from verify.errors import VerificationError
from verify.graph import AvgPool, Conv2d, Graph, Linear

BYTES_PER_NONZERO = 80
"""Matrix entries are held by rows here, by rows and by columns in the solver, and again in its factorisation."""


class ProgramTooLargeError(VerificationError, MemoryError):
    """A linear or mixed-integer program would need more memory than is free."""


def free_memory() -> int:
    """Bytes of memory free now; a fixed 4 GiB where the system does not say."""
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def require_memory(needed: int, limit: int | None, what: str) -> None:
    """Refuse if `needed` bytes are more than `limit` (or than is free, where that is None).

    Raises:
        ProgramTooLargeError: With the estimate.
    """
    allowed = free_memory() if limit is None else limit
    if needed > allowed:
        raise ProgramTooLargeError(
            f"{what} must fit into {_mebibytes(allowed)} of memory, got an estimate of {_mebibytes(needed)}; "
            f"use alpha-crown, which reaches nearly the same bounds, or raise the limit"
        )


def affine_nonzeros(graph: Graph, index: int) -> int:
    """Number of entries that the matrices of an affine node will hold, found without building them."""
    node = graph[index]
    op = node.op
    if isinstance(op, Linear):
        return int(node.size * op.weight.shape[1])
    if isinstance(op, Conv2d):
        return node.size * int(np.prod(op.weight.shape[1:]))
    if isinstance(op, AvgPool):
        return int(op.index.size)
    return node.size * max(len(node.inputs), 1)


def _mebibytes(size: int) -> str:
    """Small sizes keep their digits: neither an estimate nor a limit reads "0 MiB"."""
    value = size / 2**20
    return f"{value:,.0f} MiB" if value >= 10 else f"{value:.3g} MiB"
