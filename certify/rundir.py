"""The run folder: `run.json` says what the run is, the journal what came out, the exports are for people and plots."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.errors import CertifyError, JournalError, RunMismatchError
from certify.files import write_atomically
from certify.journal import Entry, Journal
from certify.outcomes import predict_code
from smoothing.certificate import Certificate
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator

RUN_FILE = "run.json"
BOUNDARY_FOLDER = "boundaries"
"""Folder with the boundaries that the run's estimator tests by, each in a file named by its hash."""

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
    "votes",
    "rival_upper",
    "decisions",
    "noise_version",
    "probability_slack",
)


@dataclass(frozen=True)
class Row:
    """One certified input as the exports and reports see it.

    `predict` is negative where no class is proved (`certify.outcomes`), and `radius` then 0.0; `seconds` is the input's
    share of the wall time.
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
            predict = predict_code(certificate)
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


def claim_folder(
    folder: Path, config: dict[str, Any], *, has_rows: bool = False, extend: Callable[[], None] | None = None
) -> None:
    """Write `run.json` into a new folder, or check that the folder holds the same run and add what is asked for now.

    Which inputs are asked for may grow from call to call; what an earlier call asked for stays planned, so that asking
    for less can never make an unfinished run look complete.

    Args:
        folder: The run folder.
        config: What the run is, in full.
        has_rows: Whether the journal holds certificates or votes already.
        extend: Called before `run.json` is replaced where the identities differ in the estimator alone and the caller has
            found (`may_extend`) that the run may be continued; None where it may not.

    Raises:
        RunMismatchError: If the folder holds a run of another identity; the message shows the difference. Or if it has
            certificates or votes, but no `run.json` that says whose they are.
    """
    path = folder / RUN_FILE
    if has_rows and not path.exists():
        raise RunMismatchError(
            f"{folder} holds certificates or votes but no {RUN_FILE} that says of which run; use another --out"
        )
    if path.exists():
        there = read_config(folder)
        differences = compare_identities(there["identity"], config["identity"])
        if differences and extend is None:
            raise RunMismatchError(mismatch_text(folder, differences))
        try:
            grown: dict[str, Any] = {
                key: sorted({*there["settings"][key], *config["settings"][key]}) for key in ("indices", "selected")
            }
        except (KeyError, TypeError) as error:
            raise CertifyError(f"{path} is damaged: settings lacks a list of inputs ({error!r})") from None
        asked = config["settings"].get("service")
        if isinstance(asked, dict):
            # What earlier starts have found out about a service stays, until this one knows better.
            known = there["settings"].get("service") or {}
            grown["service"] = {**asked, **known, **{key: value for key, value in asked.items() if value is not None}}
        history = list(there["settings"].get("extended_from", []))
        if differences and extend is not None:
            extend()
            history.append(there["identity"]["estimator"])
        if history:
            grown["extended_from"] = history
        config = {**config, "settings": {**config["settings"], **grown}}
    write_atomically(path, json.dumps(config, indent=2, allow_nan=False) + "\n")


def extends(folder: Path, config: dict[str, Any], estimator: Estimator) -> bool:
    """Return whether the folder holds a run that `estimator` may continue with more votes or further radii.

    Returns:
        False if there is no run yet, or the same one.

    Raises:
        RunMismatchError: If it holds another run, or one that must not be continued; the message says why.
    """
    if not (folder / RUN_FILE).exists():
        return False
    there = read_config(folder)["identity"]
    differences = compare_identities(there, config["identity"])
    others = compare_identities({**there, "estimator": None}, {**config["identity"], "estimator": None})
    if not differences:
        return False
    previous = there.get("estimator")
    if others or not isinstance(previous, dict):
        raise RunMismatchError(mismatch_text(folder, differences))
    try:
        estimator.may_extend(previous)
    except InvalidArgumentError as refusal:
        raise RunMismatchError(f"{mismatch_text(folder, differences)}\nIt cannot be continued: {refusal}") from None
    return True


def mismatch_text(folder: Path, differences: Sequence[str]) -> str:
    """Say that a folder holds another run, and in what it differs."""
    shown = "\n".join(f"  {line}" for line in differences)
    return f"{folder} holds another run; use another --out, or repeat the command that made it. Differences:\n{shown}"


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
        "votes": certificate.votes,
        "rival_upper": "" if certificate.rival_upper is None else repr(certificate.rival_upper),
        "decisions": ";".join(f"{d.radius!r}:{d.status}" for d in certificate.decisions),
        "noise_version": certificate.noise_version,
        "probability_slack": repr(certificate.probability_slack),
    }
