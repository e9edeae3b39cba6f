"""The account of what was sent to a service: what it may have billed, whether or not an answer came, and what may be sent.

A call that timed out, was cut off or ended in an error of the server gave no answer, and may be on the bill all the same.
So images count from the moment at which they are sent, and are taken off the account only where the service cannot have
taken them: the connection was refused, or it said so itself (HTTP 429).
"""

import errno
import os
import struct
import threading
from enum import StrEnum
from pathlib import Path

from certify.blackbox.budget import BudgetSpentError
from certify.errors import JournalError

FILE_NAME = "questions.sent"

_NUMBER = struct.Struct("<q")
_LOST = 0
"""Place of the number of images without an answer; every other place is a call in flight."""

_MOST = 10**9
"""Images that a file may name: each becomes a row, and more than this is what a power cut has left of a file."""


class Purpose(StrEnum):
    """What an image is sent for, which decides what it may be paid from."""

    VOTE = "vote"
    """A sample of an input: from whatever is not reserved."""

    RESERVED = "reserved"
    """A question that was foreseen when the inputs were chosen: from what is reserved."""

    SPARE = "spare"
    """A question that is asked only where something is left over: neither from votes that are due nor from the reserve."""


class Ledger:
    """Counts what is sent within a limit, and keeps what has no answer in a small file that outlives a kill.

    The file holds one number a call in flight, written before the call and struck out when its answers are safe, and the
    images of all calls that ended without an answer: whatever kills the process, what may have been billed is there. A
    power cut may lose the calls in flight; those without an answer are rare enough for a sync to disk each.
    Without a path nothing is kept.

    Args:
        path: The file; it is there only while something is on it.

    Attributes:
        left: Images that may still be sent; None: no limit.
        reserved: Of these, images that are kept for questions that are no votes.
        due: Of these, votes that the inputs under way may still take, and that are not in flight.
        lost: Images that were sent without an answer since the ledger was opened.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.left: int | None = None
        self.reserved = 0
        self.due = 0
        self.lost = 0
        self._lock = threading.Lock()
        self._flying: dict[int, tuple[int, Purpose]] = {}
        self._free: list[int] = []
        self._file: int | None = None

    @property
    def unanswered(self) -> int:
        """Images without an answer, those of calls in flight among them."""
        with self._lock:
            return self.lost + sum(images for images, _ in self._flying.values())

    def allows(self, images: int, purpose: Purpose) -> bool:
        """Return whether so many images may be sent now."""
        if self.left is None:
            return True
        kept = {
            Purpose.VOTE: self.reserved,
            Purpose.RESERVED: 0,
            Purpose.SPARE: self.reserved + self.due,
        }[purpose]
        return self.left - images >= kept

    def send(self, images: int, purpose: Purpose) -> int:
        """Put a call on the account, before it is made; return its place.

        Raises:
            BudgetSpentError: If the limit does not allow it.
            JournalError: If the file cannot be written.
        """
        with self._lock:
            if not self.allows(images, purpose):
                raise BudgetSpentError(
                    "the budget is used up by what was sent, calls without an answer among it, which may have been billed; "
                    "raise --max-queries or --max-cost and repeat the line, which goes on with the answers that are there"
                )
            place = self._free[-1] if self._free else len(self._flying) + 1
            self._write(place, images)
            if self._free:
                self._free.pop()  # only now: where the file could not be written, the place is still free
            self._flying[place] = (images, purpose)
            if self.left is not None:
                self.left -= images
            self._take(images, purpose)
            return place

    def settle(self, place: int) -> None:
        """Take note that a call's answers are safe: it is their rows that count from now on."""
        with self._lock:
            self._strike(place)

    def lose(self, place: int) -> None:
        """Take note that a call ended without an answer, and may have been billed."""
        with self._lock:
            self.lost += self._flying[place][0]
            # Before the place is struck out: a kill in between counts it twice, never not.
            self._write(_LOST, self.lost, durable=True)
            self._restore(*self._strike(place))

    def undo(self, place: int) -> None:
        """Take a call off the account: the service has not taken it."""
        with self._lock:
            images, purpose = self._strike(place)
            if self.left is not None:
                self.left += images
            self._restore(images, purpose)

    def give_up(self, images: int, purpose: Purpose, *, billed: bool) -> None:
        """Take note that a question will not be asked again, and has rows that say so, which count like answers.

        Args:
            images: Its images.
            purpose: What they were sent for.
            billed: Whether its last call is on the account: the rows stand for that one.
        """
        with self._lock:
            if billed:
                self.lost -= images
                self._write(_LOST, self.lost)
            elif self.left is not None:
                self.left -= images
            self._take(images, purpose)

    def read(self) -> int:
        """Return the images on the file that a killed process has left.

        Raises:
            JournalError: If it cannot be read, or is damaged.
        """
        if self.path is None:
            return 0
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise JournalError(f"cannot read {self.path}: {error.strerror or error}; make it readable") from None
        whole = len(data) // _NUMBER.size * _NUMBER.size
        images: int = sum(max(number, 0) for (number,) in _NUMBER.iter_unpack(data[:whole]))
        if images > _MOST:
            raise JournalError(
                f"{self.path} is damaged: it says that {images:,} images were sent without an answer; remove it to go on, "
                "and have a look at the bill"
            )
        return images

    def clear(self) -> None:
        """Remove the file: what it held is kept elsewhere. The limit stays as it is."""
        with self._lock:
            self.lost = 0
            self._flying.clear()
            self._free.clear()
            if self._file is not None:
                os.close(self._file)
                self._file = None
            if self.path is not None:
                self.path.unlink(missing_ok=True)

    def _strike(self, place: int) -> tuple[int, Purpose]:
        found = self._flying.pop(place)
        self._free.append(place)
        self._write(place, 0)
        return found

    def _take(self, images: int, purpose: Purpose) -> None:
        """Take images from what is kept for them."""
        if purpose is Purpose.VOTE:
            self.due = max(self.due - images, 0)
        elif purpose is Purpose.RESERVED:
            self.reserved = max(self.reserved - images, 0)

    def _restore(self, images: int, purpose: Purpose) -> None:
        """Keep for images once more, which will be asked about again."""
        if purpose is Purpose.VOTE:
            self.due += images
        elif purpose is Purpose.RESERVED and self.left is not None:
            self.reserved = min(self.reserved + images, max(self.left, 0))

    def _write(self, place: int, number: int, *, durable: bool = False) -> None:
        if self.path is None:
            return
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            os.lseek(self._file, place * _NUMBER.size, os.SEEK_SET)
            if os.write(self._file, _NUMBER.pack(number)) != _NUMBER.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(self._file)
        except OSError as error:
            raise JournalError(
                f"cannot write to {self.path}: {error.strerror or error}; "
                "free some space or make the folder writable, and repeat the command, which resumes"
            ) from None
