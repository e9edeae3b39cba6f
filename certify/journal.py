"""The journal of a run: one SQLite file in which a row is there whole or not at all, whatever kills the process.

Schema v1: `inputs(index, status, payload)`, `looks(index, phase, n, counts)`, `answers(index, phase, sample, label,
version)` for prediction services, and `meta(key, value)` with `schema_version` and `kind`. A rollback journal rather than
WAL, because shards may lie on network disks; synchronous = FULL, because a certificate that was reported must be there
after a power cut. One process writes at a time, by a lock file that the operating system drops with the process.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

from certify.errors import JournalError
from smoothing.estimators.base import Look, Phase

SCHEMA_VERSION = 1
FILE_NAME = "journal.sqlite"
LOCK_NAME = "journal.lock"
DONE = "done"

NOT_ASKED = "certify: not asked"
"""Version of the row of a sample that a service was not asked about, because its input was void already."""

_PHASES = {str(phase): phase for phase in Phase}
_TOGETHER = 64
"""Answers that are written by one statement."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE inputs ("index" INTEGER PRIMARY KEY, status TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE looks ("index" INTEGER NOT NULL, phase TEXT NOT NULL, n INTEGER NOT NULL, counts TEXT NOT NULL,
                    PRIMARY KEY ("index", phase, n));
CREATE TABLE answers ("index" INTEGER NOT NULL, phase TEXT NOT NULL, sample INTEGER NOT NULL, label TEXT NOT NULL,
                      version TEXT, PRIMARY KEY ("index", phase, sample)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Entry:
    """One finished input: its payload, and the looks that the payload was derived from, in order."""

    index: int
    status: str
    payload: dict[str, Any]
    looks: tuple[Look, ...]


class Journal:
    """A journal opened for writing (one process at a time) or for reading.

    Args:
        folder: The run folder, which must exist.
        kind: What the rows are, for instance "smoothing"; checked against an existing journal.
        write: Open for writing, creating the file if it is not there.

    Raises:
        JournalError: If it cannot be opened: absent, damaged, of another kind or schema, not writable, or in use.
    """

    def __init__(self, folder: Path, *, kind: str, write: bool = False) -> None:
        self.path = folder / FILE_NAME
        self._lock: Any = None
        if not write and not self.path.is_file():
            raise JournalError(f"there is no journal in {folder} (expected {FILE_NAME}): is it a run folder?")
        if write:
            self._lock = _acquire(folder)
        try:
            if not write:
                _recover(self.path)
            with _explained(self.path):
                # Read-only by mode=ro, so that a report can be made while the run is going on, or from a read-only disk.
                uri = f"{self.path.resolve().as_uri()}?mode={'rwc' if write else 'ro'}"
                self._connection = sqlite3.connect(uri, uri=True, timeout=10.0, isolation_level=None)
                if write:
                    self._connection.execute("PRAGMA journal_mode = DELETE")
                    self._connection.execute("PRAGMA synchronous = FULL")
                self._open(kind, write)
        except BaseException:
            self._release()
            raise

    def _open(self, kind: str, write: bool) -> None:
        names = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names and write:
            with self._transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._connection.execute(statement)
                self._connection.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("schema_version", str(SCHEMA_VERSION)), ("kind", kind)]
                )
            return
        if "meta" not in names:
            raise JournalError(f"{self.path} is not a journal of this program: it has no table 'meta'")
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        if meta.get("schema_version") != str(SCHEMA_VERSION):
            raise JournalError(
                f"{self.path} has schema version {meta.get('schema_version')}, this program reads {SCHEMA_VERSION}"
            )
        if meta.get("kind") != kind:
            raise JournalError(f"{self.path} is a journal of kind {meta.get('kind')!r}, expected {kind!r}")

    def entries(self) -> list[Entry]:
        """Return the finished inputs with their looks, by index, as of one moment.

        Raises:
            JournalError: If a row cannot be read.
        """
        with _explained(self.path), self._transaction("DEFERRED"):
            # One transaction: a writer may finish an input between two statements.
            found = self._connection.execute('SELECT "index", phase, n, counts FROM looks ORDER BY rowid').fetchall()
            rows = self._connection.execute('SELECT "index", status, payload FROM inputs ORDER BY "index"').fetchall()
        looks: dict[int, list[Look]] = {}
        entries = []
        try:
            index = None
            for index, phase, n, counts in found:
                looks.setdefault(index, []).append(Look(Phase(phase), int(n), tuple(json.loads(counts))))
            for index, status, payload in rows:
                entries.append(Entry(index, status, json.loads(payload), tuple(looks.get(index, ()))))
        except (ValueError, TypeError) as error:
            raise JournalError(f"{self.path}: the row of input {index} is damaged ({error})") from None
        return entries

    def unfinished(self) -> dict[int, tuple[Look, ...]]:
        """Return the looks of inputs that are not finished, in order: from where an interrupted run goes on.

        Raises:
            JournalError: If a row cannot be read.
        """
        with _explained(self.path), self._transaction("DEFERRED"):
            found = self._connection.execute(
                'SELECT "index", phase, n, counts FROM looks WHERE "index" NOT IN (SELECT "index" FROM inputs) '
                "ORDER BY rowid"
            ).fetchall()
        looks: dict[int, list[Look]] = {}
        index = None
        try:
            for index, phase, n, counts in found:
                looks.setdefault(index, []).append(Look(Phase(phase), int(n), tuple(json.loads(counts))))
        except (ValueError, TypeError) as error:
            raise JournalError(f"{self.path}: the row of input {index} is damaged ({error})") from None
        return {index: tuple(found) for index, found in looks.items()}

    def record_looks(self, looks: Iterable[tuple[int, Look]]) -> None:
        """Write looks of inputs that are not finished yet, all in one transaction; durable when this returns."""
        with _explained(self.path), self._transaction():
            for index, look in looks:
                self._insert_look(index, look)

    def reopen(self, indices: Iterable[int]) -> None:
        """Take the certificates of inputs away and keep their looks: they are unfinished again, and can be continued."""
        with _explained(self.path), self._transaction():
            self._connection.executemany('DELETE FROM inputs WHERE "index" = ?', [(index,) for index in indices])

    def record_inputs(
        self, finished: Iterable[tuple[int, Mapping[str, Any], tuple[Look, ...]]], *, replacing: Iterable[int] = ()
    ) -> None:
        """Write finished inputs (key, payload, looks), all in one transaction; durable when this returns.

        Args:
            finished: The inputs.
            replacing: Those of them whose looks take the place of earlier ones; ones that were finished before keep theirs.
        """
        with _explained(self.path), self._transaction():
            self._connection.executemany(
                'DELETE FROM looks WHERE "index" = ? AND "index" NOT IN (SELECT "index" FROM inputs)',
                [(index,) for index in replacing],
            )
            for index, payload, looks in finished:
                for look in looks:
                    self._insert_look(index, look)
                self._connection.execute(
                    "INSERT INTO inputs VALUES (?, ?, ?)", (index, DONE, json.dumps(payload, allow_nan=False))
                )

    def record_input(self, index: int, payload: Mapping[str, Any], looks: tuple[Look, ...]) -> None:
        """Write one finished input; durable when this returns."""
        self.record_inputs([(index, payload, looks)])

    def record_answers(self, answers: Iterable[tuple[int, Phase, int, str, str | None]]) -> None:
        """Write answers of a prediction service (key, phase, sample, label, version), all or none; then durable.

        Raises:
            JournalError: If a sample already has an answer: overwriting would be a choice between votes.
        """
        rows = plain(answers)
        with _explained(self.path):
            try:
                with self._transaction():
                    # Many rows a statement: each statement gives the interpreter to the threads that make the calls, and
                    # then has to wait for it.
                    for start in range(0, len(rows), _TOGETHER):
                        part = rows[start : start + _TOGETHER]
                        self._connection.execute(_insert_answers(len(part)), list(chain.from_iterable(part)))
            except sqlite3.IntegrityError:
                raise JournalError(self._answered_twice(rows)) from None

    def _answered_twice(self, rows: list[tuple[int, str, int, str, str | None]]) -> str:
        """Say which of these samples has an answer already, in the journal or earlier among them."""
        seen: set[tuple[int, str, int]] = set()
        for index, phase, sample, _, _ in rows:
            query = 'SELECT 1 FROM answers WHERE "index" = ? AND phase = ? AND sample = ?'
            key = (index, phase, sample)
            if key in seen or self._connection.execute(query, key).fetchone() is not None:
                return f"input {index}, phase {phase}, sample {sample} already has an answer"
            seen.add(key)
        return f"cannot write answers to {self.path}: they are no rows of it"

    def token(self) -> str:
        """Return a random name of this journal, given when first asked for: files beside it say by it whose they are."""
        with _explained(self.path), self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES ('token', ?)", (secrets.token_hex(16),))
            [(found,)] = self._connection.execute("SELECT value FROM meta WHERE key = 'token'").fetchall()
        return str(found)

    def answers(self, index: int) -> list[tuple[Phase, int, str, str | None]]:
        """Return the answers of one input (phase, sample, label, version), by phase and sample.

        Raises:
            JournalError: If a row cannot be read.
        """
        with _explained(self.path):
            rows = self._connection.execute(
                'SELECT phase, sample, label, version FROM answers WHERE "index" = ? ORDER BY phase, sample', (index,)
            ).fetchall()
        try:
            return [(_PHASES[phase], int(sample), str(label), version) for phase, sample, label, version in rows]
        except (ValueError, KeyError) as error:
            raise JournalError(f"{self.path}: an answer of input {index} is damaged ({error})") from None

    def answer_versions(self, index: int) -> set[str | None]:
        """Return the versions of the service that the answers of one input speak for.

        None is among them where an answer has a label and no version; an answer that has neither says nothing of it.
        """
        with _explained(self.path):
            query = (
                """SELECT DISTINCT version FROM answers WHERE "index" = ? AND (label <> '' OR version IS NOT NULL)"""
            )
            return {version for (version,) in self._connection.execute(query, (index,))}

    def names_version(self, *, apart_from: Iterable[str] = ()) -> bool:
        """Return whether the service has named a version, in a label of any input or in answer to any other question.

        Args:
            apart_from: What stands in the place of a version and is none.
        """
        none = (NOT_ASKED, *apart_from)
        with _explained(self.path):
            # Of questions that are no votes the labels are not kept.
            query = (
                """SELECT 1 FROM answers WHERE version IS NOT NULL AND (label <> '' OR "index" < 0) """
                f"AND version NOT IN ({', '.join('?' * len(none))}) LIMIT 1"
            )
            return self._connection.execute(query, none).fetchone() is not None

    def count_answers(self, *, votes: bool = False) -> int:
        """Return how many answers are there, of all inputs: what has been paid for.

        Args:
            votes: Count answers about samples of inputs alone, not those of questions beside them (negative keys).
        """
        with _explained(self.path):
            which = ' AND "index" >= 0' if votes else ""
            query = f"SELECT count(*) FROM answers WHERE sample >= 0 AND version IS NOT ?{which}"
            return int(self._connection.execute(query, (NOT_ASKED,)).fetchone()[0])

    def _insert_look(self, index: int, look: Look) -> None:
        counts = json.dumps(look.counts)
        key = (index, str(look.phase), look.n)
        there = self._connection.execute(
            'SELECT counts FROM looks WHERE "index" = ? AND phase = ? AND n = ?', key
        ).fetchone()
        if there is None:
            self._connection.execute("INSERT INTO looks VALUES (?, ?, ?, ?)", (*key, counts))
        elif there[0] != counts:
            # The same samples cannot have two outcomes; overwriting would be a choice between votes.
            raise JournalError(
                f"input {index}, phase {look.phase}, n={look.n}: the journal holds other votes than those just counted"
            )

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        try:
            # Within: a signal may be handled as soon as this returns, and must not leave the transaction open.
            self._connection.execute(f"BEGIN {kind}")
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file and give the folder free."""
        self._connection.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plain(answers: Iterable[tuple[int, Phase, int, str, str | None]]) -> list[tuple[int, str, int, str, str | None]]:
    """Return answers with the names of their phases."""
    return [
        (index, name, sample, label, version)
        for phase, same in groupby(answers, key=itemgetter(1))
        for name in (str(phase),)
        for index, _, sample, label, version in same
    ]


@cache
def _insert_answers(rows: int) -> str:
    return "INSERT INTO answers VALUES " + ", ".join(["(?, ?, ?, ?, ?)"] * rows)


def _acquire(folder: Path) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(
            f"another process is writing to {folder}; wait for it, or give this one a folder or a --shard of its own"
        ) from None
    except OSError as error:
        raise JournalError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    return lock


def _recover(path: Path) -> None:
    """Let SQLite roll back what a killed writer left half done: a read-only connection may not, and then cannot read."""
    if not path.with_name(f"{path.name}-journal").exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=10.0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return  # not writable here: the read-only connection says what can be done


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        advice = {
            "full": "free some space and repeat the command, which resumes",
            "readonly": "make the folder writable (a killed run left a write to be rolled back) or choose another --out",
            "disk I/O": "check the disk and repeat the command, which resumes",
            "locked": "another process is using it; wait for it to end",
            "malformed": "the file is damaged; restore it from a copy",
            "not a database": "the file is damaged or is not a journal",
        }
        hint = next((text for key, text in advice.items() if key in reason), "check the folder")
        raise JournalError(f"{path}: {reason}; {hint}") from error
