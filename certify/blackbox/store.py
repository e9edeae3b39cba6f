"""Where answers are kept before they count: one row per sample, never any content of an image."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from certify.blackbox.pending import Pending
from certify.blackbox.stored import StoredAnswer, versions_of
from certify.errors import JournalError
from certify.journal import Journal
from smoothing.estimators.base import Phase

__all__ = ["AnswerStore", "JournalStore", "MemoryStore", "StoredAnswer"]


@runtime_checkable
class AnswerStore(Protocol):
    """Keeps answers; what `add` was given is durable when it returns."""

    def note(self, answers: Sequence[StoredAnswer]) -> None:
        """Save these answers from the end of this process, at little cost, until `add` is called with them.

        Called from another thread than the other methods.
        """
        ...

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """Keep these answers, all or none of them.

        Raises:
            JournalError: If one of the samples already has an answer.
        """
        ...

    def find(self, index: int) -> Iterable[StoredAnswer]:
        """Return what is there of one input, in the order of phases and samples."""
        ...

    def versions(self, index: int) -> set[str | None]:
        """Return the versions that the answers of one input speak for; see `versions_of`."""
        ...


class MemoryStore:
    """An `AnswerStore` that lives as long as the process: for the library, where nothing is to be resumed."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[tuple[Phase, int], StoredAnswer]] = {}

    def note(self, answers: Sequence[StoredAnswer]) -> None:
        """Do nothing: what this store keeps ends with the process."""

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """See `AnswerStore.add`."""
        for row in answers:
            if (row.phase, row.sample) in self._rows.get(row.key, ()):
                raise JournalError(f"input {row.key}, phase {row.phase}, sample {row.sample} already has an answer")
        for row in answers:
            self._rows.setdefault(row.key, {})[row.phase, row.sample] = row

    def find(self, index: int) -> list[StoredAnswer]:
        """See `AnswerStore.find`."""
        return sorted(self._rows.get(index, {}).values(), key=lambda row: (str(row.phase), row.sample))

    def versions(self, index: int) -> set[str | None]:
        """See `AnswerStore.versions`."""
        return versions_of(self._rows.get(index, {}).values())


class JournalStore:
    """An `AnswerStore` in the journal of a run; begins with moving there what a killed process has left.

    Args:
        journal: Opened for writing.

    Raises:
        JournalError: If what was left cannot be read, or the journal not be written.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pending = Pending(journal.path.parent, journal.token())
        self.close()

    def note(self, answers: Sequence[StoredAnswer]) -> None:
        """See `AnswerStore.note`."""
        self._pending.write(answers)

    def add(self, answers: Sequence[StoredAnswer]) -> None:
        """See `AnswerStore.add`."""
        self._journal.record_answers(answers)
        self._pending.drop(answers)

    def find(self, index: int) -> list[StoredAnswer]:
        """See `AnswerStore.find`."""
        return [StoredAnswer(index, *row) for row in self._journal.answers(index)]

    def versions(self, index: int) -> set[str | None]:
        """See `AnswerStore.versions`."""
        return self._journal.answer_versions(index)

    def close(self) -> None:
        """Move what is noted and not added into the journal: an interrupt may have come between the two."""
        left = missing(self, self._pending.read())
        if left:
            self.add(left)
        self._pending.remove()


def missing(store: AnswerStore, rows: Sequence[StoredAnswer]) -> list[StoredAnswer]:
    """Return those of some answers that a store lacks, each once."""
    there = {row[:3] for key in {row.key for row in rows} for row in store.find(key)}
    return list({row[:3]: row for row in rows if row[:3] not in there}.values())
