"""`verify.csv` and `verify.json`: one line per input and claim, with everything that a comparison needs to be honest.

A run at one radius over a data set has its robust error, bracketed method by method, in `robust_error.csv`.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certify.files import write_atomically
from certify.verification.arrays import FOLDER
from certify.verification.row import VERIFIED, Claim, VerifyRow
from certify.verification.summary import robust_error, summarize

CSV, JSON, ERROR_CSV = "verify.csv", "verify.json", "robust_error.csv"

COLUMNS = (
    "image",
    "label",
    "model_sha",
    "classifier",
    "pred",
    "method",
    "guarantee",
    "alpha",
    "norm",
    "clip",
    "radius",
    "margin",
    "converted_from",
    "attack_radius",
    "attack",
    "gap",
    "status",
    "seconds",
    "device",
    "seed",
    "certificate_path",
    "rests_on",
)
ERROR_COLUMNS = ("side", "method", "inputs", "count", "share", "rests_on", "norm", "eps", "clip", "pure")


def report_rows(config: dict[str, Any], rows: Sequence[VerifyRow]) -> list[dict[str, Any]]:
    """Return the lines of the report; a radius is the float64 that was proved, never rounded up."""
    return [_line(config["identity"], row, claim) for row in rows for claim in row.claims]


def _line(identity: dict[str, Any], row: VerifyRow, claim: Claim) -> dict[str, Any]:
    attack = row.attack_radius
    clip = identity.get("clip")
    return {
        "image": row.index,
        "label": row.label,
        "model_sha": identity["model_digest"],
        "classifier": "f",
        "pred": row.predict,
        "method": f"{claim.method} (pure)" if identity["methods"].get("pure") else claim.method,
        "guarantee": "deterministic",
        "alpha": 0.0,
        "norm": identity.get("norm"),
        "clip": clip_text(clip) if "clip" in identity else "box of the file",
        "radius": claim.radius,
        "margin": claim.margin,
        "converted_from": None,
        "attack_radius": attack,
        "attack": row.attack,
        "gap": None if attack is None else attack - claim.radius,
        "status": "certified" if claim.status == VERIFIED else claim.status,
        "seconds": row.seconds,
        "device": row.device,
        "seed": identity["methods"].get("seed"),
        "certificate_path": None if claim.certificate is None else f"{FOLDER}/{row.index}.npz#{claim.certificate}",
        "rests_on": claim.rests_on,
    }


def clip_text(clip: Sequence[float] | None) -> str:
    """Return the clip flag as every table prints it."""
    return "no clip" if clip is None else f"clip [{clip[0]:g}, {clip[1]:g}]"


def has_robust_error(config: dict[str, Any]) -> bool:
    """Return whether a run is about one radius over a data set."""
    return "vnnlib_sha256" not in config["identity"] and not config["identity"]["search"]


def error_rows(config: dict[str, Any], rows: Sequence[VerifyRow]) -> list[dict[str, Any]]:
    """Return the lines of `robust_error.csv`; none for radii, boxes of a file, or no input yet."""
    if not rows or not has_robust_error(config):
        return []
    identity = config["identity"]
    known = {"norm": identity["norm"], "eps": identity["eps"], "clip": clip_text(identity["clip"])}
    bracket = robust_error(config, rows)
    return [{**line, **known, "pure": bracket.pure} for line in bracket.table()]


def export(folder: Path, config: dict[str, Any], rows: Sequence[VerifyRow]) -> None:
    """Write both files, sorted by index."""
    lines = report_rows(config, sorted(rows, key=lambda row: row.index))
    write_atomically(folder / CSV, csv_text(COLUMNS, lines))
    content = {"summary": summarize(config, rows), "rows": lines}
    bounds = error_rows(config, rows)
    if bounds:
        write_atomically(folder / ERROR_CSV, csv_text(ERROR_COLUMNS, bounds))
    write_atomically(folder / JSON, json.dumps(content, indent=2, allow_nan=False) + "\n")


def csv_text(columns: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    """Return a table as text; numbers as the shortest text that reads back as the same float64, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow(["" if line[c] is None else _cell(line[c]) for c in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
