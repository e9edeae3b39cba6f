"""The exports beside a journal must say what the journal says, row by row."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from certify.audit import fields
from certify.audit.findings import AuditError, Findings, list_indices
from certify.audit.folder import RawRun

TSV, CSV = "certificates.tsv", "certificates.csv"
_DIALECTS = {TSV: "\t", CSV: ","}
_TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_TIME_TOLERANCE = 1e-3
"""Seconds; times are the only column that may be rounded."""

Agrees = Callable[[str, Any], bool]


def check_exports(run: RawRun, found: Findings, *, partial: bool = False) -> list[str]:
    """Compare the exports, where there are any, with the journal.

    Args:
        run: The run folder.
        found: Where findings go.
        partial: Whether planned inputs have no certificate yet. A run that was killed while it grew leaves exports that
            are older than its journal: rows that they lack are then a note. In a whole run they are a mismatch; extra
            or different rows always are.

    Returns:
        The names of the files that were compared.
    """
    expected: dict[int, dict[str, Any]] = {}
    for row in run.rows:
        values = _expected(row.index, row.payload)
        if values is not None:
            expected[row.index] = values
    # A row whose record cannot be read was reported already; the exports are not asked about it.
    unreadable = {row.index for row in run.rows} - set(expected)
    compared = []
    for name in _DIALECTS:
        path = run.folder / name
        if path.is_file():
            _check_file(path, expected, unreadable, found, partial)
            compared.append(name)
        else:
            found.note(f"{name} is not there")
    return compared


def _check_file(
    path: Path, expected: Mapping[int, dict[str, Any]], unreadable: set[int], found: Findings, partial: bool
) -> None:
    name = path.name
    columns, lines = _read(path)
    wanted = set(_TSV_COLUMNS) if name == TSV else set(_AGREES)
    if not _LATER & set(columns):
        wanted -= _LATER
    missing = sorted(wanted - set(columns))
    if missing or len(set(columns)) != len(columns):
        found.add(
            None, "columns", ", ".join(columns) or "none", f"each of {', '.join(sorted(wanted))} once", where=name
        )
        return
    unknown = [column for column in columns if column not in wanted]
    if unknown:
        found.note(f"{name}: nobody checked the columns {', '.join(unknown)}")
    seen: set[int] = set()
    for number, line in enumerate(lines, start=2):
        if len(line) != len(columns):
            found.add(None, "columns", f"line {number}: {len(line)} values", f"{len(columns)} values", where=name)
            continue
        values = dict(zip(columns, line, strict=True))
        index = _integer(values["idx"])
        if index is None:
            found.add(None, "idx", f"line {number}: {values['idx']!r}", "an index", where=name)
        elif index in seen:
            found.add(index, "duplicate row", f"line {number}", "one row for every input", where=name)
        elif index not in expected:
            if index not in unreadable:
                found.add(
                    index, "extra row", f"line {number}", "the journal has no certificate of this input", where=name
                )
        else:
            for column in sorted(wanted):
                if not _AGREES[column](values[column], expected[index][column]):
                    found.add(index, column, values[column], f"{expected[index][column]!r}, by the journal", where=name)
        if index is not None:
            seen.add(index)
    absent = sorted(set(expected) - seen)
    if absent and partial:
        found.note(
            f"{name} is older than the journal: {len(absent)} inputs with a certificate have no row in it "
            f"({list_indices(absent)}); repeating the run's command writes it anew"
        )
        return
    for index in absent:
        found.add(
            index,
            "missing row",
            "no row",
            "a row: the journal has a certificate of this input (repeating the run's command writes the exports anew)",
            where=name,
        )


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter=_DIALECTS[path.name]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AuditError(f"cannot read {path}: {error}") from None
    return (rows[0], rows[1:]) if rows else ([], [])


def _expected(index: int, payload: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what an export has to say of one record, column by column; None where the record cannot be read."""
    certificate = fields.mapping((payload or {}).get("certificate"))
    if payload is None or certificate is None:
        return None
    prediction, label = certificate.get("prediction"), payload.get("label")
    predict = _CODES.get(str(certificate.get("status")), -1) if prediction is None else prediction
    try:
        looks = [[int(count) for count in look["counts"]] for look in certificate["looks"]]
        last = looks[-1]
        # A look is a prefix: the last one of a phase contains the others.
        whole = {look["phase"]: counts for look, counts in zip(certificate["looks"], looks, strict=True)}
        rival = certificate.get("rival_upper")
        decisions = certificate.get("decisions", [])
        law = certificate["law"]
        parameters = ";".join(f"{key}={value!r}" for key, value in law["parameters"].items())
        return {
            "idx": index,
            "label": label,
            "predict": predict,
            "radius": float(certificate["radius"]),
            "correct": int(predict == label),
            "time": float(payload["seconds"]),
            "status": certificate["status"],
            "norm": certificate["norm"],
            "p_lower": float(certificate["p_lower"]),
            "q_upper": float(certificate["q_upper"]),
            "alpha": float(certificate["alpha"]),
            "n0": certificate["n0"],
            "n": certificate["n"],
            "votes_predict": "" if predict < 0 else last[predict],
            "votes_second": sorted(last[:-1])[-2],
            "invalid": sum(counts[-1] for counts in whole.values()),
            "law": f"{law['name']}({parameters})",
            "seed": certificate["seed"],
            "precision": certificate["precision"],
            "converted_from": certificate["converted_from"] or "",
            "input_sha256": payload["input_sha256"],
            "votes": sum(map(sum, whole.values())),
            "rival_upper": "" if rival is None else float(rival),
            "decisions": ";".join(f"{float(d['radius'])!r}:{d['status']}" for d in decisions),
            "noise_version": certificate["noise_version"],
            "probability_slack": float(certificate.get("probability_slack", 0.0)),
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _integer(text: str) -> int | None:
    try:
        value = int(text)
    except ValueError:
        return None
    return value if str(value) == text else None


def _same_integer(text: str, value: Any) -> bool:
    return text == str(value)


def _same_text(text: str, value: Any) -> bool:
    return text == str(value)


def _same_float(text: str, value: float) -> bool:
    # Bit for bit: a radius whose text reads back as a larger float64 claims more than was proved.
    try:
        return float(text) == value
    except ValueError:
        return False


def _near(text: str, value: float) -> bool:
    try:
        return abs(float(text) - value) <= _TIME_TOLERANCE
    except ValueError:
        return False


_AGREES: dict[str, Agrees] = {
    "idx": _same_integer,
    "label": _same_integer,
    "predict": _same_integer,
    "radius": _same_float,
    "correct": _same_integer,
    "time": _near,
    "status": _same_text,
    "norm": _same_text,
    "p_lower": _same_float,
    "q_upper": _same_float,
    "alpha": _same_float,
    "n0": _same_integer,
    "n": _same_integer,
    "votes_predict": _same_integer,
    "votes_second": _same_integer,
    "invalid": _same_integer,
    "law": _same_text,
    "seed": _same_integer,
    "precision": _same_text,
    "converted_from": _same_text,
    "input_sha256": _same_text,
    "votes": _same_integer,
    "rival_upper": lambda text, value: text == "" if value == "" else _same_float(text, value),
    "decisions": _same_text,
    "noise_version": _same_text,
    "probability_slack": _same_float,
}
_LATER = {"votes", "rival_upper", "decisions", "noise_version", "probability_slack"}
"""Columns that exports of earlier versions lack."""

_CODES = {"abstained": -1, "undecided": -2, "refuted": -3}
"""What the column `predict` says where no class is proved."""
