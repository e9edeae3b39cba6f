"""The run folder: `run.json` says what the run is, the journal what came out, the exports are for people and plots."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.errors import CertifyError, JournalError, RunMismatchError
from certify.files import write_atomically
from certify.journal import Entry, Journal
from smoothing.certificate import Certificate

RUN_FILE = "run.json"
SCHEMA = 1
KIND = "smoothing"
TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
CSV_COLUMNS = (
    *TSV_COLUMNS,
    "status",
    "norm",
    "p_lower",
    "q_upper",
    "alpha",
    "n0",
    "n",
    "votes_predict",
    "votes_second",
    "invalid",
    "law",
    "seed",
    "precision",
    "converted_from",
    "input_sha256",
)


@dataclass(frozen=True)
class Row:
    """One certified input as the exports and reports see it.

    `predict` is -1 when abstained, and `radius` then 0.0; `seconds` is the input's share of the wall time.
    """

    index: int
    label: int
    predict: int
    radius: float
    correct: bool
    seconds: float
    input_sha256: str
    certificate: Certificate

    @classmethod
    def from_entry(cls, entry: Entry) -> "Row":
        """Read a journal entry.

        Raises:
            JournalError: If the payload lacks something.
        """
        try:
            certificate = Certificate.from_dict(entry.payload["certificate"])
            if certificate.looks != entry.looks:
                raise JournalError(f"the journal's votes of input {entry.index} are not those of its certificate")
            predict = -1 if certificate.prediction is None else certificate.prediction
            label = int(entry.payload["label"])
            return cls(
                entry.index,
                label,
                predict,
                certificate.radius,
                predict == label,
                float(entry.payload["seconds"]),
                str(entry.payload["input_sha256"]),
                certificate,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(f"the journal's row of input {entry.index} cannot be read: {error!r}") from None


@dataclass(frozen=True)
class Run:
    """A run folder as read from disk.

    Attributes:
        folder: Where it lies.
        config: Content of `run.json`: "identity" (what defines the run), "settings" (how it was called), "environment".
        rows: The finished inputs, by index.
        planned: Indices that were asked for, by all commands so far.
    """

    folder: Path
    config: dict[str, Any]
    rows: tuple[Row, ...]
    planned: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What defines the run."""
        return dict(self.config["identity"])

    @property
    def complete(self) -> bool:
        """Whether every planned input is done."""
        return set(self.planned) <= {row.index for row in self.rows}


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        CertifyError: If it is not a run folder, or is damaged.
    """
    config = read_config(folder)
    with Journal(folder, kind=KIND) as journal:
        rows = tuple(Row.from_entry(entry) for entry in journal.entries())
    try:
        planned = tuple(int(i) for i in config["settings"]["indices"])
    except (KeyError, TypeError, ValueError) as error:
        raise CertifyError(f"{folder / RUN_FILE} is damaged: settings lacks a list of inputs ({error!r})") from None
    return Run(folder, config, rows, planned)


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `run.json`.

    Raises:
        CertifyError: If it is absent, damaged, or of another schema.
    """
    path = folder / RUN_FILE
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CertifyError(f"{folder} is not a run folder: there is no {RUN_FILE} in it") from None
    except (OSError, ValueError) as error:
        raise CertifyError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        schema = config.get("schema") if isinstance(config, dict) else None
        raise CertifyError(f"{path} has schema {schema}, this program reads {SCHEMA}")
    missing = [key for key in ("identity", "settings", "environment") if not isinstance(config.get(key), dict)]
    if missing or "kind" not in config:
        raise CertifyError(f"{path} is damaged: it lacks {', '.join(missing or ['kind'])}")
    return config


def claim_folder(folder: Path, config: dict[str, Any], *, has_rows: bool = False) -> None:
    """Write `run.json` into a new folder, or check that the folder holds the same run and add what is asked for now.

    Which inputs are asked for may grow from call to call; what an earlier call asked for stays planned, so that asking
    for less can never make an unfinished run look complete.

    Args:
        folder: The run folder.
        config: What the run is, in full.
        has_rows: Whether the journal holds certificates already.

    Raises:
        RunMismatchError: If the folder holds a run of another identity; the message shows the difference. Or if it has
            certificates, but no `run.json` that says whose they are.
    """
    path = folder / RUN_FILE
    if has_rows and not path.exists():
        raise RunMismatchError(
            f"{folder} holds certificates but no {RUN_FILE} that says of which run; use another --out"
        )
    if path.exists():
        there = read_config(folder)
        differences = compare_identities(there["identity"], config["identity"])
        if differences:
            shown = "\n".join(f"  {line}" for line in differences)
            raise RunMismatchError(
                f"{folder} holds another run; use another --out, or repeat the command that made it. Differences:\n{shown}"
            )
        try:
            grown = {
                key: sorted({*there["settings"][key], *config["settings"][key]}) for key in ("indices", "selected")
            }
        except (KeyError, TypeError) as error:
            raise CertifyError(f"{path} is damaged: settings lacks a list of inputs ({error!r})") from None
        config = {**config, "settings": {**config["settings"], **grown}}
    write_atomically(path, json.dumps(config, indent=2, allow_nan=False) + "\n")


def compare_identities(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one line per value in which two identities differ."""
    lines = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += compare_identities(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: the folder has {old!r}, now {new!r}")
    return lines


def export(folder: Path, rows: Sequence[Row]) -> None:
    """Write `certificates.tsv` (the published codes' columns) and `certificates.csv` (everything else too), sorted by index.

    A radius is written as the shortest text that reads back as the same float64, so that it is never rounded up.
    """
    ordered = sorted(rows, key=lambda row: row.index)
    write_atomically(folder / "certificates.tsv", _table(TSV_COLUMNS, ordered, "\t"))
    write_atomically(folder / "certificates.csv", _table(CSV_COLUMNS, ordered, ","))


def _table(columns: Sequence[str], rows: Sequence[Row], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = _values(row)
        writer.writerow([values[column] for column in columns])
    return text.getvalue()


def _values(row: Row) -> dict[str, Any]:
    certificate = row.certificate
    votes = sorted(certificate.looks[-1].counts[:-1], reverse=True)
    parameters = ";".join(f"{key}={value!r}" for key, value in certificate.law["parameters"].items())
    return {
        "idx": row.index,
        "label": row.label,
        "predict": row.predict,
        "radius": repr(row.radius),
        "correct": int(row.correct),
        "time": f"{row.seconds:.6f}",
        "status": certificate.status,
        "norm": certificate.norm,
        "p_lower": repr(certificate.p_lower),
        "q_upper": repr(certificate.q_upper),
        "alpha": repr(certificate.alpha),
        "n0": certificate.n0,
        "n": certificate.n,
        "votes_predict": certificate.looks[-1].counts[row.predict] if row.predict >= 0 else "",
        "votes_second": votes[1] if len(votes) > 1 else "",
        "invalid": certificate.invalid,
        "law": f"{certificate.law['name']}({parameters})",
        "seed": certificate.seed,
        "precision": certificate.precision,
        "converted_from": certificate.converted_from or "",
        "input_sha256": row.input_sha256,
    }
