"""Where certificates come from: a run folder, or a published log of six columns."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from certify.errors import CertifyError, UsageError
from certify.journal import FILE_NAME as JOURNAL_FILE
from certify.metrics import CertifiedSet
from certify.outcomes import ABSTAINED, NAMES, REFUTED
from certify.report.service import ServiceFacts, read_service
from certify.report.wording import selection_text
from certify.rundir import RUN_FILE, TSV_COLUMNS, Run, read_config, read_run
from smoothing.errors import SmoothingError

_NEEDED = (
    "model_digest",
    "data_digest",
    "split",
    "law",
    "norm",
    "estimator",
    "seed",
    "noise_version",
    "precision",
    "device_kind",
    "torch_version",
)
_OPTIONAL = ("device_name", "transform")
"""Text or null; runs of earlier versions have none."""


@dataclass(frozen=True)
class Source:
    """A set of certificates with the run that it was read from.

    Attributes:
        path: Folder or file.
        certified: The certificates.
        run: The run; None for a log, which holds no evidence.
        service: The prediction service that gave the votes; None where there was none.
    """

    path: Path
    certified: CertifiedSet
    run: Run | None = None
    service: ServiceFacts | None = None

    def to_tsv(self) -> str:
        """Return the certificates as tab-separated text, the columns of the published codes; nothing is rounded."""
        c = self.certified
        rows = zip(c.idx, c.label, c.predict, c.radius, c.correct, c.seconds, strict=True)
        lines = (f"{i}\t{y}\t{p}\t{float(r)!r}\t{int(ok)}\t{t:.6f}\n" for i, y, p, r, ok, t in rows)
        return "\t".join(TSV_COLUMNS) + "\n" + "".join(lines)

    def configuration_digest(self) -> str:
        """Return the SHA-256 (hex) of the run's identity as canonical JSON; "" for a log, which records none."""
        if self.run is None:
            return ""
        text = json.dumps(self.run.identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def read_sources(paths: Sequence[Path | str], names: Sequence[str] = ()) -> list[Source]:
    """Read run folders and logs, and give each a name of its own.

    Args:
        paths: Run folders, or logs as tab-separated text.
        names: One name per path; default: the folder's or file's name, longer where two are alike.

    Raises:
        UsageError: If there is no path, or the number of names is not the number of paths.
        CertifyError: If something cannot be read.
    """
    if not paths:
        raise UsageError("at least one run folder or log is needed, got none")
    if names and len(names) != len(paths):
        raise UsageError(f"give one name per source, got {len(names)} for {len(paths)} sources")
    sources = [read_source(path) for path in paths]
    chosen = _distinct([clean_name(name) for name in names] if names else _short_names([s.path for s in sources]))
    return [replace(s, certified=replace(s.certified, name=n)) for s, n in zip(sources, chosen, strict=True)]


def read_source(path: Path | str) -> Source:
    """Read one run folder or one log.

    Raises:
        CertifyError: If it is neither, is damaged, or is a folder of shards that were not merged.
    """
    path = Path(path)
    if path.is_dir():
        return read_run_source(path)
    if not path.is_file():
        raise CertifyError(f"there is no run folder and no log at {path}")
    if path.name == "certificates.tsv" and (path.parent / RUN_FILE).is_file():
        # The export of a run: the folder also knows whether the run is whole, and a part must not pass for the whole.
        return read_run_source(path.parent)
    return Source(path, read_log(path))


def read_run_source(folder: Path) -> Source:
    """Read a run folder.

    Raises:
        CertifyError: If it is none, is damaged, holds no finished input, or holds shards that were not merged.
    """
    if not (folder / JOURNAL_FILE).exists() and (folder / "shards").is_dir():
        raise CertifyError(
            f"{folder} holds the shards of a run that were not joined yet: run `certify merge {folder}` first"
        )
    known = _read_known(folder)
    run = _read_rows(folder)
    if not run.rows:
        raise CertifyError(f"{folder}: no input of this run is finished yet; repeat the command that made it")
    service = read_service(folder, run.config, [row.index for row in run.rows])
    return Source(folder, _from_run(run, known), run, service)


def _read_known(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of a set of certificates; whatever is wrong here is wrong there."""
    config = read_config(folder)
    identity, settings = config["identity"], config["settings"]
    missing = [f"identity.{key}" for key in _NEEDED if key not in identity]
    missing += [f"settings.{key}" for key in ("data", "indices") if key not in settings]
    if missing:
        raise CertifyError(f"{folder / RUN_FILE} is damaged: it lacks {', '.join(missing)}")
    for key in _OPTIONAL:
        if not isinstance(identity.get(key), str | None):
            raise CertifyError(
                f"{folder / RUN_FILE} is damaged: identity.{key} must be text or null, got {identity[key]!r}"
            )
    try:
        law, estimator, shard, size = (
            identity["law"],
            identity["estimator"],
            settings.get("shard"),
            settings.get("data_size"),
        )
        return {
            "planned": frozenset(int(index) for index in settings["indices"]),
            "shard": None if shard is None or int(shard[1]) == 1 else (int(shard[0]), int(shard[1])),
            "sigma": None if law["sigma"] is None else float(law["sigma"]),
            "law": law_text(law),
            "norm": str(identity["norm"]),
            "alpha": float(estimator["alpha"]),
            **estimator_facts(estimator),
            "data_digest": str(identity["data_digest"]),
            "data_size": None if size is None else int(size),
            "split": str(identity["split"]),
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CertifyError(f"{folder / RUN_FILE} is damaged: {type(error).__name__} {error}") from None


def estimator_facts(estimator: dict[str, Any]) -> dict[str, Any]:
    """Return what tables and pages say of an estimator: votes that are the same for every input, the grid, the cap.

    Args:
        estimator: From `Estimator.describe`.

    Returns:
        "estimator" (its name), "n0" and "n" (None where inputs get as many as they need), "grid" (radii, or None), "cap"
        (votes per input at most; None without a cap).
    """
    name = str(estimator["name"])
    if name == "fixed":
        n0, n = int(estimator["n0"]), int(estimator["n"])
        return {"estimator": name, "n0": n0, "n": n, "grid": None, "cap": n0 + n}
    thresholds = estimator.get("thresholds")
    cap = {"sequential": "cap", "anytime": "budget", "planned": "n_max"}.get(name, "cap")
    limit = estimator.get(cap)
    pilot = int(estimator.get("pilot", 0))
    return {
        "estimator": name,
        "n0": None,
        "n": None,
        "grid": None if thresholds is None else tuple(float(entry["radius"]) for entry in thresholds),
        "cap": None if limit is None else int(limit) + pilot,
    }


def _read_rows(folder: Path) -> Run:
    """Read the run after `run.json` was found to be in order: what is wrong now is wrong in the journal."""
    journal = folder / JOURNAL_FILE
    try:
        return read_run(folder)
    except SmoothingError as error:
        if str(folder) in str(error):
            raise
        raise CertifyError(f"{journal}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CertifyError(f"{journal} is damaged: {type(error).__name__} {error}") from None


def law_text(law: dict[str, Any]) -> str:
    """Return a law in words, from `SmoothingDistribution.describe`."""
    parameters = {**law["parameters"], "sigma": law["sigma"]}
    return f"{law['name']}({', '.join(f'{key}={value:g}' for key, value in parameters.items() if value is not None)})"


def _from_run(run: Run, known: dict[str, Any]) -> CertifiedSet:
    expected = (known["alpha"], known["norm"], run.identity["law"])
    for row in run.rows:
        if (row.certificate.alpha, str(row.certificate.norm), row.certificate.law) != expected:
            raise CertifyError(
                f"{run.folder}: the certificate of input {row.index} has another alpha, norm or law than {RUN_FILE}; "
                f"run `certify audit {run.folder}`"
            )
    # A folder may hold inputs beyond those that the latest command asked for; they belong to the run all the same.
    planned = sorted(known["planned"] | {row.index for row in run.rows})
    size = known["data_size"]
    if size is not None and not 0 <= planned[0] <= planned[-1] < size:
        raise CertifyError(
            f"{run.folder}: {RUN_FILE} says that the data set has {size} inputs, but there is input "
            f"{planned[0] if planned[0] < 0 else planned[-1]} in it or in {JOURNAL_FILE}; run `certify audit {run.folder}`"
        )
    selection = None if size is None else selection_text(planned, size, known["shard"])
    invalid = [row.certificate.invalid for row in run.rows]
    try:
        return CertifiedSet(
            name=run.folder.resolve().name,
            idx=np.array([row.index for row in run.rows], dtype=np.int64),
            label=np.array([row.label for row in run.rows], dtype=np.int64),
            predict=np.array([row.predict for row in run.rows], dtype=np.int64),
            radius=np.array([row.radius for row in run.rows], dtype=np.float64),
            correct=np.array([row.correct for row in run.rows], dtype=np.bool_),
            seconds=np.array([row.seconds for row in run.rows], dtype=np.float64),
            kind="run",
            selection=selection,
            invalid_votes=sum(invalid),
            invalid_inputs=sum(count > 0 for count in invalid),
            votes=sum(row.certificate.votes for row in run.rows),
            service=run.identity.get("service") is not None,
            **{**known, "planned": len(planned)},
        )
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        # The numbers of the rows come from the journal alone.
        raise CertifyError(f"{run.folder / JOURNAL_FILE} is damaged: {error}") from None


def read_log(path: Path, *, timed: bool = True) -> CertifiedSet:
    """Read a log in the format of Cohen et al. 2019: a header and one tab-separated row per input.

    Columns `idx label predict radius correct time`, in any order and with others beside them. `time` is in seconds or
    as H:MM:SS.ffffff; `predict` is -1 where abstained, and -2 (undecided) or -3 (refuted) in exports of this program.

    Args:
        path: The file.
        timed: Whether the column `time` is needed; where it is not and there is none, `seconds` is NaN.

    Raises:
        CertifyError: If something cannot be read or contradicts itself; the message names file, line and column.
    """
    lines = _lines(path)
    header = lines[0].split("\t")
    needed = [column for column in TSV_COLUMNS if timed or column != "time"]
    missing = [column for column in needed if column not in header]
    if missing:
        raise CertifyError(
            f"{path}, line 1: the header must name the columns {' '.join(needed)}, separated by tabs; it lacks "
            f"{', '.join(missing)}"
        )
    if len(lines) == 1:
        raise CertifyError(f"{path}: there is no row below the header")
    rows: dict[int, dict[str, Any]] = {}
    lines_of: dict[int, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _read_row(path, number, header, line)
        index = row["idx"]
        if index in rows:
            raise CertifyError(
                f"{path}, line {number}, column idx: each input must appear once, got {index} again (first in line "
                f"{lines_of[index]})"
            )
        rows[index], lines_of[index] = row, number
    ordered = [rows[index] for index in sorted(rows)]
    return CertifiedSet(
        name=path.stem,
        idx=np.array([row["idx"] for row in ordered], dtype=np.int64),
        label=np.array([row["label"] for row in ordered], dtype=np.int64),
        predict=np.array([row["predict"] for row in ordered], dtype=np.int64),
        radius=np.array([row["radius"] for row in ordered], dtype=np.float64),
        correct=np.array([row["correct"] == 1 for row in ordered], dtype=np.bool_),
        seconds=np.array([row.get("time", np.nan) for row in ordered], dtype=np.float64),
    )


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CertifyError(f"{path} is not a log: it is not UTF-8 text") from None
    except OSError as error:
        raise CertifyError(f"cannot read {path}: {error.strerror or error}") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise CertifyError(f"{path} is empty: a log has a header and one row per input")
    return lines


def _read_row(path: Path, number: int, header: list[str], line: str) -> dict[str, Any]:
    fields = line.split("\t")
    if len(fields) != len(header):
        # The first column that is absent, or the first that the header does not name.
        column = header[len(fields)] if len(fields) < len(header) else str(len(header) + 1)
        raise CertifyError(
            f"{path}, line {number}, column {column}: a row must have {len(header)} tab-separated fields, got "
            f"{len(fields)}"
        )
    row: dict[str, Any] = {}
    for column, text in zip(header, fields, strict=True):
        if column in _READERS:
            rule, read = _READERS[column]
            value = read(text.strip())
            if value is None:
                raise CertifyError(f"{path}, line {number}, column {column}: {rule} is expected, got {text[:40]!r}")
            row[column] = value
    if (row["correct"] == 1) != (row["predict"] == row["label"]):
        raise CertifyError(
            f"{path}, line {number}, column correct: it must be 1 exactly where predict equals label, got "
            f"{row['correct']} for predict {row['predict']} and label {row['label']}"
        )
    if row["predict"] < 0 and row["radius"] != 0:
        raise CertifyError(
            f"{path}, line {number}, column radius: it must be 0 where predict is {row['predict']} ("
            f"{NAMES[row['predict']]}), got "
            f"{row['radius']}"
        )
    return row


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def _natural(text: str) -> int | None:
    value = _integer(text)
    return value if value is not None and value >= 0 else None


def _prediction(text: str) -> int | None:
    value = _integer(text)
    return value if value is not None and value >= REFUTED else None


def _bit(text: str) -> int | None:
    return {"0": 0, "1": 1}.get(text)


def _amount(text: str) -> float | None:
    if not re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text):
        return None
    value = float(text)
    return value if np.isfinite(value) else None


def _seconds(text: str) -> float | None:
    # str(datetime.timedelta), as the published code prints it: "0:00:13.736080", beyond a day "1 day, 0:00:13".
    clock = re.fullmatch(r"(?:([0-9]{1,6}) days?, )?([0-9]{1,6}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]*)?)", text)
    if clock is None:
        return _amount(text)
    days, hours, minutes, seconds = clock.groups()
    return 86400.0 * int(days or 0) + 3600.0 * int(hours) + 60.0 * int(minutes) + float(seconds)


_READERS: dict[str, tuple[str, Callable[[str], int | float | None]]] = {
    "idx": ("an integer of at least 0", _natural),
    "label": ("an integer of at least 0", _natural),
    "predict": (f"an integer of at least 0, or {ABSTAINED} for abstained,", _prediction),  # or -2, -3: see outcomes
    "radius": ("a finite number of at least 0", _amount),
    "correct": ("0 or 1", _bit),
    "time": ("a number of seconds or H:MM:SS", _seconds),
}


def clean_name(name: str) -> str:
    """Return a name fit for one line of a table or legend: printable, without line breaks, at most 80 characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return (text if len(text) <= 80 else f"{text[:79]}…") or "unnamed"


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name each source by as few trailing parts of its path as tell it from the others."""
    resolved = [path.resolve() for path in paths]
    parts = [(*path.parts[:-1], path.name if path.is_dir() else path.stem) for path in resolved]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return [clean_name(name) for name in names]
    return [clean_name(p[-1]) for p in parts]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once."""
    result: list[str] = []
    for name in names:
        choices = (name if k == 1 else f"{name} ({k})" for k in range(1, len(names) + 1))
        result.append(next(choice for choice in choices if choice not in result))
    return result
