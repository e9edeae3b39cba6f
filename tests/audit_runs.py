"""Runs for tests of the audit, and ways to tamper with them."""

import csv
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify.cli import main
from certify.journal import Journal
from certify.rundir import KIND, Row, claim_folder, export
from smoothing import Gaussian, Norm, SmoothingDistribution
from smoothing.certificate import issue_certificate
from smoothing.estimators import FixedEstimator, Phase
from smoothing.noise import NOISE_VERSION
from smoothing.statistics.binomial import failure_upper_bound

SHAPE = (1, 2, 2)
ESTIMATOR = FixedEstimator(n0=20, n=1000, alpha=0.001)
Votes = dict[int, tuple[list[int], list[int]]]

VOTES: Votes = {  # input -> selection votes, estimation votes; the last outcome is "invalid"
    0: ([20, 0, 0, 0], [990, 5, 3, 2]),
    3: ([10, 10, 0, 0], [700, 300, 0, 0]),  # a tie: the lowest class
    5: ([8, 7, 5, 0], [400, 350, 240, 10]),  # abstains
    7: ([0, 20, 0, 0], [0, 1000, 0, 0]),
    9: ([0, 0, 20, 0], [0, 0, 0, 1000]),  # no estimation vote at all for the selected class
    11: ([5, 2, 1, 12], [900, 0, 0, 100]),  # "invalid" has most votes, and is never chosen
}


def config_of(
    law: SmoothingDistribution, norm: Norm, convert_from: Norm | None, indices: Sequence[int]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": KIND,
        "identity": {
            "model_digest": "0" * 64,
            "data_digest": "1" * 64,
            "data": "digits",
            "split": "test",
            "input_shape": list(law.shape),
            "num_classes": 3,
            "law": law.describe(),
            "norm": str(norm),
            "convert_from": None if convert_from is None else str(convert_from),
            "estimator": ESTIMATOR.describe(),
            "seed": 7,
            "noise_version": NOISE_VERSION,
            "precision": "fp32",
            "channels_last": False,
            "compile": False,
            "batch_size": 32,
            "transform": None,
            "device_kind": "cpu",
            "device_name": None,
            "torch_version": torch.__version__,
        },
        "settings": {
            "model": "m",
            "data": "d",
            "data_root": None,
            "indices": list(indices),
            "data_size": 12,
            "shard": None,
        },
        "environment": {},
    }


def write_run(
    folder: Path,
    law: SmoothingDistribution | None = None,
    norm: Norm = Norm.L2,
    convert_from: Norm | None = None,
    *,
    votes: Votes = VOTES,
    config: dict[str, Any] | None = None,
    payload: Callable[[int], dict[str, Any]] | None = None,
) -> Path:
    """Write a run folder through the program's own parts, from given votes."""
    law = law or Gaussian(SHAPE, sigma=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with Journal(folder, kind=KIND, write=True) as journal:
        claim_folder(folder, config or config_of(law, norm, convert_from, list(votes)))
        for index, (select, estimate) in votes.items():
            state = ESTIMATOR.start()
            state.update(Phase.SELECT, np.array(select, dtype=np.int64))
            state.update(Phase.ESTIMATE, np.array(estimate, dtype=np.int64))
            certificate = issue_certificate(
                state.result(),
                law,
                norm,
                index=index,
                seed=7,
                noise_version=NOISE_VERSION,
                convert_from=convert_from,
            )
            content = {
                "label": index % 3,
                "certificate": certificate.to_dict(),
                "seconds": 0.25,
                "input_sha256": hashlib.sha256(bytes([index])).hexdigest(),
            } | (payload(index) if payload is not None else {})
            journal.record_input(index, content, certificate.looks)
        rows = [Row.from_entry(entry) for entry in journal.entries()]
    export(folder, rows)
    return folder


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / "journal.sqlite", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def edit_payload(folder: Path, index: int, change: Callable[[dict[str, Any]], None]) -> None:
    with database(folder) as connection:
        (text,) = connection.execute('SELECT payload FROM inputs WHERE "index" = ?', (index,)).fetchone()
        payload = json.loads(text)
        change(payload)
        connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (json.dumps(payload), index))


def put(key: str, value: Any, *, index: int = 0, inside: bool = True) -> Callable[[Path], None]:
    """Return a tampering that sets one value of a record (of its certificate, if `inside`)."""

    def change(payload: dict[str, Any]) -> None:
        (payload["certificate"] if inside else payload)[key] = value

    return lambda folder: edit_payload(folder, index, change)


def scale(key: str, factor: float, *, index: int = 0) -> Callable[[Path], None]:
    def change(payload: dict[str, Any]) -> None:
        payload["certificate"][key] *= factor

    return lambda folder: edit_payload(folder, index, change)


def sql(statement: str, *values: Any) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        with database(folder) as connection:
            connection.execute(statement, values)

    return run


def counts(index: int, phase: str, value: str) -> Callable[[Path], None]:
    """Return a tampering that replaces the text of a look's counts, in the table alone."""
    return sql('UPDATE looks SET counts = ? WHERE "index" = ? AND phase = ?', value, index, phase)


def both(index: int, position: int, value: list[Any]) -> Callable[[Path], None]:
    """Return a tampering that replaces a look's counts in the table and in the certificate alike."""
    phase = ("select", "estimate")[position]

    def change(payload: dict[str, Any]) -> None:
        payload["certificate"]["looks"][position]["counts"] = value

    def run(folder: Path) -> None:
        counts(index, phase, json.dumps(value))(folder)
        edit_payload(folder, index, change)

    return run


def identity(key: str, value: Any) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        config = json.loads((folder / "run.json").read_text())
        *parents, last = key.split(".")
        where = config["identity"]
        for parent in parents:
            where = where[parent]
        where[last] = value
        (folder / "run.json").write_text(json.dumps(config))

    return run


def cell(name: str, index: int, column: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        delimiter = "\t" if name.endswith("tsv") else ","
        with (folder / name).open(newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter))
        position = rows[0].index(column)
        for row in rows[1:]:
            if row[0] == str(index):
                row[position] = change(row[position])
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)

    return run


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        (folder / name).write_text("\n".join(change((folder / name).read_text().splitlines())) + "\n")

    return run


def radius_at(alpha: float) -> Callable[[Path], None]:
    """Return a tampering that puts in the radius which these votes would give at another alpha."""
    q = failure_upper_bound(10, 1000, alpha)
    return put("radius", Gaussian(SHAPE, sigma=0.5).radius(1 - q, "l2", q_upper=q))


def bound_at(alpha: float) -> Callable[[Path], None]:
    """Return a tampering that takes the bound and everything after it from another alpha."""
    q = failure_upper_bound(10, 1000, alpha)

    def change(payload: dict[str, Any]) -> None:
        radius = Gaussian(SHAPE, sigma=0.5).radius(1 - q, "l2", q_upper=q)
        payload["certificate"] |= {"q_upper": q, "p_lower": 1 - q, "radius": radius}

    return lambda folder: edit_payload(folder, 0, change)


def run_json(folder: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["audit", str(folder), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)
