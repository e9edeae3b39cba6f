"""Reads a run folder with nothing but the standard library: the program's own reader of journals is under audit too."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.audit.findings import AuditError

JOURNAL = "journal.sqlite"
RUN = "run.json"
SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class RawLook:
    """One row of the table `looks`, as it stands; `counts` is whatever the text decodes to."""

    phase: Any
    n: Any
    counts: Any


@dataclass(frozen=True)
class RawRow:
    """One row of the table `inputs`, as it stands, with its looks in the order in which they were recorded.

    `payload` is None where the text is no JSON object.
    """

    index: int
    status: Any
    payload: dict[str, Any] | None
    looks: tuple[RawLook, ...]


@dataclass(frozen=True)
class RawRun:
    """A run folder as it stands.

    Attributes:
        folder: Where it lies.
        config: Content of `run.json`.
        kind: Kind in the journal.
        rows: Every row of `inputs`, by index; an index may occur twice in a damaged journal.
        unfinished: Looks of inputs that have no row in `inputs`.
    """

    folder: Path
    config: dict[str, Any]
    kind: str
    rows: tuple[RawRow, ...]
    unfinished: dict[int, tuple[RawLook, ...]]


def read_folder(folder: Path) -> RawRun:
    """Read `run.json` and the journal.

    Raises:
        AuditError: If one of them is absent or unreadable, or of an unknown schema.
    """
    config = _read_config(folder)
    kind, inputs, looks = _read_journal(folder / JOURNAL)
    rows = tuple(RawRow(i, status, _object(payload), tuple(looks.get(i, ()))) for i, status, payload in inputs)
    finished = {row.index for row in rows}
    unfinished = {index: tuple(found) for index, found in looks.items() if index not in finished}
    return RawRun(folder, config, kind, rows, unfinished)


def is_run_of(folder: Path, kind: str) -> bool:
    """Return whether `run.json` says that the folder holds a run of this kind; False where it cannot be read."""
    try:
        config = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") == kind


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shards = "; its shards have folders of their own: audit them one by one, or merge them first"
        hint = shards if (folder / "shards").is_dir() else ""
        raise AuditError(f"{folder} is not a run folder: there is no {RUN} in it{hint}") from None
    except (OSError, ValueError) as error:
        raise AuditError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict) or config.get("schema") != 1:
        found = config.get("schema") if isinstance(config, dict) else None
        raise AuditError(f"{path} must have schema 1 to be audited, got schema={found!r}")
    return config


def _read_journal(path: Path) -> tuple[str, list[tuple[int, Any, Any]], dict[int, list[RawLook]]]:
    if not path.is_file():
        raise AuditError(f"{path.parent} has no {path.name}: without the recorded votes nothing can be audited")
    looks: dict[int, list[RawLook]] = {}
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            # One transaction: the picture is of one moment, even while a run is writing.
            connection.execute("BEGIN")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            inputs = list(connection.execute('SELECT "index", status, payload FROM inputs ORDER BY "index", rowid'))
            for index, phase, n, counts in connection.execute(
                'SELECT "index", phase, n, counts FROM looks ORDER BY rowid'
            ):
                looks.setdefault(index, []).append(RawLook(phase, n, _decoded(counts)))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise AuditError(
            f"{path} cannot be read: {error}. A journal that a killed process left half-written is mended by "
            "repeating the run's command; a damaged one is to be restored from a copy"
        ) from None
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise AuditError(f"{path} must have schema version {SCHEMA_VERSION}, got {meta.get('schema_version')!r}")
    strange = [index for index in (*looks, *(row[0] for row in inputs)) if type(index) is not int]
    if strange:
        raise AuditError(f"{path} must number its inputs by integers, got index {strange[0]!r}")
    return str(meta.get("kind")), inputs, looks


def _object(text: Any) -> dict[str, Any] | None:
    value = _decoded(text)
    return value if isinstance(value, dict) else None


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
