"""Where answers are kept before they count: one row per sample, never any content of an image."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from certify.journal import Journal
from smoothing.estimators.base import Phase


class StoredAnswer(NamedTuple):
    """One row: which sample, and what the service said of it ("" stands for no label)."""

    key: int
    phase: Phase
    sample: int
    label: str
    version: str | None


@runtime_checkable
class AnswerStore(Protocol):
    """Keeps answers; what `add` was given is durable when it returns."""

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """Keep these answers, all or none of them.

        Raises:
            JournalError: If one of the samples already has an answer.
        """
        ...

    def find(self, index: int) -> Iterable[StoredAnswer]:
        """Return what is there of one input, in the order of phases and samples."""
        ...


class MemoryStore:
    """An `AnswerStore` that lives as long as the process: for the library, where nothing is to be resumed."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, Phase, int], StoredAnswer] = {}

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """See `AnswerStore.add`."""
        from certify.errors import JournalError

        for row in answers:
            if row[:3] in self._rows:
                raise JournalError(f"input {row.key}, phase {row.phase}, sample {row.sample} already has an answer")
        self._rows.update({(row.key, row.phase, row.sample): row for row in answers})

    def find(self, index: int) -> list[StoredAnswer]:
        """See `AnswerStore.find`."""
        found = [row for key, row in self._rows.items() if key[0] == index]
        return sorted(found, key=lambda row: (str(row.phase), row.sample))


class JournalStore:
    """An `AnswerStore` in the journal of a run.

    Args:
        journal: Opened for writing.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """See `AnswerStore.add`."""
        self._journal.record_answers(answers)

    def find(self, index: int) -> list[StoredAnswer]:
        """See `AnswerStore.find`."""
        return [StoredAnswer(index, *row) for row in self._journal.answers(index)]
