"""Answers on their way into the journal: safe from a kill at once, in one write, while the journal takes its time.

A transaction of the journal waits for the disk several times, so that answers go there in groups. Until then they stand in
a small file beside it, which the operating system keeps when the process dies; only a power cut can take it. What it holds
counts for nothing: whoever opens the journal next moves it there first.
"""

import errno
import json
import os
import threading
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path

from certify.blackbox.stored import StoredAnswer
from certify.errors import JournalError
from certify.journal import plain
from smoothing.estimators.base import Phase

FILE_NAME = "answers.pending"


class Pending:
    """The file of a run folder; for the one process that holds the journal's lock, any thread of it.

    The first line names the journal. Every other is a list of answers `[key, phase, sample, label, version]`, those of one
    call. The file is there only while it holds an answer that the journal lacks.

    Args:
        folder: The run folder.
        token: Name of the journal in it, `Journal.token`.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self.path = folder / FILE_NAME
        self._head = json.dumps({"journal": token})
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        # By its sample's number, the first answer of each line: the journal takes whole lines, all or none.
        self._first: dict[int, set[StoredAnswer]] = {}

    def read(self) -> list[StoredAnswer]:
        """Return what a killed process has left; a line that it did not end is an answer that it did not get.

        Raises:
            JournalError: If the file is there and cannot be read, or belongs to another journal: what another run was told
                of its samples says nothing about those of this one.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JournalError(f"cannot read {self.path}: {error.strerror or error}; make it readable") from None
        if lines and lines[0] != self._head.encode():
            raise JournalError(
                f"{self.path} must hold answers of the journal beside it, got those of another one; move it away, or use "
                "another --out"
            )
        rows: list[StoredAnswer] = []
        for line in lines[1:]:
            try:
                rows += [
                    StoredAnswer(int(key), Phase(phase), int(sample), str(label), version)
                    for key, phase, sample, label, version in json.loads(line)
                ]
            except (ValueError, TypeError):
                break  # after a power cut the end may be anything
        return rows

    def write(self, answers: Sequence[StoredAnswer]) -> None:
        """Add the answers of one call, a whole line in one write.

        Raises:
            JournalError: If the file cannot be written.
        """
        text = json.dumps(plain(answers)) + "\n"
        with self._lock:
            try:
                if self._file is None:
                    self._file = FileIO(self.path, "a")
                    if not self._file.tell():
                        text = f"{self._head}\n{text}"
                data = text.encode()
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise JournalError(
                    f"cannot write to {self.path}: {error.strerror or error}; "
                    "free some space or make the folder writable, and repeat the command, which resumes"
                ) from None
            self._first.setdefault(answers[0].sample, set()).add(answers[0])

    def drop(self, answers: Iterable[StoredAnswer]) -> None:
        """Take note that answers are in the journal; the file is removed when all of its answers are."""
        with self._lock:
            for row in answers:
                first = self._first.get(row.sample)
                if first is not None:
                    first.discard(row)
                    if not first:
                        del self._first[row.sample]
            if not self._first and self._file is not None:
                self._remove()

    def remove(self) -> None:
        """Remove the file: all that it holds is in the journal."""
        with self._lock:
            self._first.clear()
            self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)
