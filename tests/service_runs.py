"""What tests of runs on the toy service share: the line that starts one, and what it leaves in its folder."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prediction_service import Service, brightness_class

BATCH = 4
"""Images a call."""


_RADII = ("--radii", "0.1,0.2,0.45", "--alpha", "0.01")
ESTIMATORS = {
    "fixed": ("--n0", "20", "--n", "60"),
    "planned": ("--estimator", "planned", "--pilot", "40", "--cap", "90"),
    "sequential": ("--estimator", "sequential", "--cap", "200", *_RADII),
    "anytime": ("--estimator", "anytime", "--cap", "200", *_RADII),
}
"""Options of small runs, by estimator."""


def save_levels(path: Path, levels: Sequence[int]) -> Path:
    """Write a data set of grey images, whose labels the honest service gives them; return its path."""
    images = np.stack([np.full((8, 8, 1), level, np.uint8) for level in levels])
    np.savez(path, images=images, labels=np.array(brightness_class(images)))
    return path


def wrong_order(images: Any) -> list[int]:
    """Return what a service says whose classes are in another order."""
    return [(2, 0, 1)[c] for c in brightness_class(images)]


def run_line(service: Service, data: Path, out: Path, *more: str, n0: int | None = None, n: int = 0) -> list[str]:
    """Return the command of a quiet run by the Open Inference Protocol.

    Args:
        service: What is asked.
        data: Data set.
        out: Run folder.
        more: Further options.
        n0: Selection votes; None: no fixed numbers of votes.
        n: Estimation votes.
    """
    votes = () if n0 is None else ("--n0", str(n0), "--n", str(n))
    return [
        *("run", service.url, "--adapter", "oip", "--service", "model=toy", "--service", f"batch={BATCH}"),
        *("--data", str(data), "--num-classes", "3", "--noise", "gaussian", "--sigma", "0.25", *votes),
        *("--quiet", "--out", str(out), *more),
    ]


def one_by_one(service: Service, data: Path, out: Path, estimator: str, *more: str, indices: str) -> list[str]:
    """Return the command of a run of one of `ESTIMATORS`, one call after the other and with no clean images before."""
    rest = ("--no-preflight", "--concurrency", "1", "--indices", indices, *ESTIMATORS[estimator], *more)
    return run_line(service, data, out, *rest)


def change_at(service: Service, call: int, version: str | None = "2") -> None:
    """Have the service report another version from a call on, counted from now."""
    first = service.requests + call

    def classify(images: Any) -> list[int]:
        if service.requests >= first:
            service.version = version
        return brightness_class(images)

    service.classify = classify


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what the journal of a run folder answers."""
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        found = list(connection.execute(query))
    connection.close()
    return found


def looks(folder: Path) -> list[tuple[Any, ...]]:
    """Return all counts of votes, in order."""
    return rows(folder, 'SELECT "index", phase, n, counts FROM looks ORDER BY 1, 2, 3')


def account(folder: Path) -> dict[int, int]:
    """Return how many images the journal knows were sent, by key; those of inputs together under 0."""
    return dict(rows(folder, 'SELECT min("index", 0), count(*) FROM answers WHERE sample >= 0 GROUP BY 1'))


def certificates(folder: Path) -> list[str]:
    """Return the lines of the certificates and their heading, without the seconds."""
    return [line.rsplit("\t", 1)[0] for line in (folder / "certificates.tsv").read_text().splitlines()]


def service_settings(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of how the service was asked."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["settings"]["service"]
    return found


def certificate(out: Path, index: int = 0) -> dict[str, Any]:
    """Return the certificate of an input, from the journal."""
    [(payload,)] = rows(out, f'SELECT payload FROM inputs WHERE "index" = {index}')
    found: dict[str, Any] = json.loads(payload)["certificate"]
    return found
