"""The row that is kept of an answer, and what rows say of the version of the service."""

from collections.abc import Iterable
from typing import NamedTuple

from smoothing.estimators.base import Phase


class StoredAnswer(NamedTuple):
    """One row: which sample, and what the service said of it ("" stands for no label)."""

    key: int
    phase: Phase
    sample: int
    label: str
    version: str | None


def versions_of(rows: Iterable[StoredAnswer]) -> set[str | None]:
    """Return the versions that rows speak for; None where a label came without one.

    A refusal may come from something in front of the service, and without a version: that says nothing. A label comes from
    the service itself, and one without a version beside one with it is the answer of another build.
    """
    return {row.version for row in rows if row.label or row.version is not None}
