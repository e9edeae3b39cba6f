"""`verify.csv`, `verify.json` and `robust_error.csv` must say what the journal of a verification run says, line by line."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certify.audit.findings import Findings
from certify.verification.exports import (
    COLUMNS,
    CSV,
    ERROR_COLUMNS,
    ERROR_CSV,
    JSON,
    csv_text,
    error_rows,
    report_rows,
)
from certify.verification.row import VerifyRow
from certify.verification.summary import summarize


def check_verify_exports(
    folder: Path, config: dict[str, Any], rows: Sequence[VerifyRow], found: Findings, *, partial: bool
) -> list[str]:
    """Compare the exports, where there are any, with the journal.

    Args:
        folder: The run folder.
        config: Content of `run.json`.
        rows: The readable rows of the journal.
        found: Where findings go.
        partial: Whether planned inputs are missing: exports may then be older than the journal, and lines that they lack
            are a note.

    Returns:
        The names of the files that were compared.
    """
    lines = report_rows(config, sorted(rows, key=lambda row: row.index))
    compared = []
    if (folder / CSV).is_file():
        compared.append(CSV)
        expected = list(csv.reader(io.StringIO(csv_text(COLUMNS, lines))))
        there = list(csv.reader(io.StringIO((folder / CSV).read_text(encoding="utf-8"))))
        if not there or there[0] != expected[0]:
            found.add(None, "columns", there[0] if there else None, list(COLUMNS), CSV)
        else:
            _compare([tuple(line) for line in there[1:]], [tuple(line) for line in expected[1:]], found, CSV, partial)
    if (folder / ERROR_CSV).is_file():
        compared.append(ERROR_CSV)
        bounds = csv_text(ERROR_COLUMNS, error_rows(config, rows))
        # A partial run's table counts the inputs of its moment: it is compared once the run is whole.
        if not partial and (folder / ERROR_CSV).read_text(encoding="utf-8") != bounds:
            found.add(None, "table", "other bounds", "those that the journal's claims give", ERROR_CSV)
    if (folder / JSON).is_file():
        compared.append(JSON)
        try:
            content = json.loads((folder / JSON).read_text(encoding="utf-8"))
            recorded = [_text(line) for line in content["rows"]]
            summary = content["summary"]
        except (ValueError, KeyError, TypeError) as error:
            found.add(None, "file", JSON, f"cannot be read: {error!r}", JSON)
            return compared
        _compare(recorded, [_text(line) for line in lines], found, JSON, partial)
        if not partial:
            # Figures that an earlier version did not write are no fault; those that are there must follow.
            figures = {key: value for key, value in summarize(config, rows).items() if key in summary}
            found.require_equal(None, "summary", _text(summary), _text(figures), JSON)
    return compared


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _compare(there: Sequence[Any], expected: Sequence[Any], found: Findings, name: str, partial: bool) -> None:
    wanted = set(expected)
    for line in there:
        if line not in wanted:
            found.add(None, "line", str(line), "no such claim in the journal", name)
    absent = wanted - set(there)
    if absent and partial:
        found.note(f"{name} is older than the journal: it lacks {len(absent)} lines")
    elif absent:
        found.add(None, "lines", f"{len(set(there))} lines", f"{len(absent)} lines of the journal are missing", name)
