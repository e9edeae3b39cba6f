"""The row that is kept of an answer."""

from typing import NamedTuple

from smoothing.estimators.base import Phase


class StoredAnswer(NamedTuple):
    """One row: which sample, and what the service said of it ("" stands for no label)."""

    key: int
    phase: Phase
    sample: int
    label: str
    version: str | None
