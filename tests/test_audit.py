"""The audit: a clean run passes, every tampering is reported with its row, and a replay counts the same votes."""

import ast
import csv
import hashlib
import json
import math
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from certify.audit import CHECKERS, AuditError, audit_folder, auditing
from certify.audit.exact import context, lower_tail, upper_bound
from certify.audit.fixed import FixedChecker, radius_bounds
from certify.audit.identity import check_machine
from certify.audit.neartie import NearTie, explained
from certify.audit.radii import GAUSSIAN, LAPLACE, UNIFORM, ExactLaw, conversion_factor, normal_quantile
from certify.audit.recount import recount
from certify.audit.replaying import ReplayOptions, choose_evenly, replay
from certify.cli import main
from certify.journal import Journal
from certify.models import load_model
from certify.rundir import KIND, Row, claim_folder, export
from certify.runner import execute
from certify.setup import RunOptions, prepare
from smoothing import Gaussian, Laplace, Norm, SmoothingDistribution, Uniform
from smoothing.certificate import issue_certificate
from smoothing.distributions.table import LAWS, make_law
from smoothing.errors import ClassifierError
from smoothing.estimators import FixedEstimator, Phase
from smoothing.forward import Forward, ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.noise_source import TorchBlockNoise
from smoothing.statistics.binomial import failure_upper_bound
from smoothing.votes import BatchingEngine, VoteRequest

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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean run, written once; tests that tamper take a copy."""
    return write_run(tmp_path_factory.mktemp("template") / "run")


@pytest.fixture
def clean(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "run"))


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


# Clean runs ---------------------------------------------------------------------------------------------------------

CLEAN: list[tuple[SmoothingDistribution, Norm, Norm | None]] = [
    (Gaussian(SHAPE, sigma=0.5), Norm.L2, None),
    (Gaussian(SHAPE, sigma=0.12), Norm.L1, None),
    (Gaussian(SHAPE, sigma=1.0), Norm.LINF, None),
    (Gaussian(SHAPE, sigma=0.5), Norm.LINF, Norm.L2),
    (Gaussian(SHAPE, sigma=0.5), Norm.L1, Norm.L2),
    (Gaussian(SHAPE, sigma=0.5), Norm.L2, Norm.LINF),
    (Laplace(SHAPE, sigma=0.5), Norm.L1, None),
    (Laplace(SHAPE, scale=0.3), Norm.L2, Norm.L1),
    (Uniform(SHAPE, half_width=0.7), Norm.L1, None),
    (Uniform(SHAPE, sigma=0.5), Norm.LINF, Norm.L1),
]


@pytest.mark.parametrize(("law", "norm", "convert_from"), CLEAN, ids=lambda value: getattr(value, "name", str(value)))
def test_a_clean_run_passes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    law: SmoothingDistribution,
    norm: Norm,
    convert_from: Norm | None,
) -> None:
    folder = write_run(tmp_path / "run", law, norm, convert_from)
    code, report = run_json(folder, capsys=capsys)
    assert report["mismatches"] == []
    assert report["notes"] == []
    assert (code, report["passed"], report["checked"]) == (0, True, len(VOTES))
    assert report["exports"] == ["certificates.tsv", "certificates.csv"]


def test_the_human_report_says_how_many_were_checked_and_by_what(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(clean)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "6 certificates checked" in text
    assert "exact binomial tails" in text
    assert "Cohen, Rosenfeld, Kolter 2019" in text
    assert "alpha = 0.001" in text
    assert "at most 0.006" in text


def test_a_law_without_a_checker_is_refused_and_never_passed(clean: Path) -> None:
    checked = {law for _, _, law in CHECKERS}
    assert {"gaussian", "laplace", "uniform"} <= checked <= set(LAWS)
    for law in ("cauchy", *sorted(set(LAWS) - checked)):
        identity("law.name", law)(clean)
        with pytest.raises(AuditError, match=f"nothing can audit .* law '{law}'"):
            audit_folder(clean)


@pytest.mark.parametrize("law", [GAUSSIAN, LAPLACE, UNIFORM], ids=lambda law: law.name)
def test_a_norm_is_derived_or_refused_and_never_passed(tmp_path: Path, law: ExactLaw) -> None:
    checker = CHECKERS["smoothing", "fixed", law.name]
    assert isinstance(checker, FixedChecker)
    assert checker.law is law
    proved = {str(norm) for norm in LAWS[law.name].norms}
    assert set(law.radii) <= proved
    for norm in sorted(proved - set(law.radii)):
        folder = write_run(tmp_path / norm, make_law(law.name, SHAPE, sigma=0.5), Norm.parse(norm))
        with pytest.raises(AuditError, match=f"derives no radius for {law.name} noise in norm '{norm}'"):
            audit_folder(folder)


def test_the_arithmetic_shares_no_code_with_what_it_checks() -> None:
    folder = Path(auditing.__file__).parent
    replaying = {"replaying", "recount", "identity"}  # they draw votes: with the noise and the forward pass of the run
    files = [path for path in folder.glob("*.py") if path.stem not in replaying]
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                ours = module.split(".")[0] in ("smoothing", "certify")
                assert not ours or module.startswith("certify.audit") or module == "certify.errors", (path.name, module)


# One tampering per rule ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tampering:
    """What is done to a clean run, and the mismatch that has to be reported for it."""

    name: str
    tamper: Callable[[Path], None]
    rule: str
    index: int | None = 0
    where: str = "journal"


EXPORTED = (("certificates.tsv", "tsv"), ("certificates.csv", "csv"))
LOOKS_TABLE = [
    {"phase": "select", "n": 20, "counts": [20, 0, 0, 0]},
    {"phase": "estimate", "n": 1000, "counts": [990, 5, 3, 2]},
]

TAMPERINGS = [
    # (a) looks and counts
    Tampering("vote moved in the table", counts(0, "estimate", "[991, 4, 3, 2]"), "looks"),
    Tampering("vote moved in the table, bound", counts(0, "estimate", "[989, 6, 3, 2]"), "q_upper"),
    Tampering("vote moved in the certificate", put("looks", [{**LOOKS_TABLE[0]}, LOOKS_TABLE[0]]), "looks"),
    Tampering("votes moved in both", both(0, 1, [989, 6, 3, 2]), "q_upper"),
    Tampering("votes improved in both", both(0, 1, [991, 4, 3, 2]), "q_upper"),
    Tampering("counts do not sum to n", both(0, 1, [990, 5, 3, 3]), "counts"),
    Tampering("count below zero", both(0, 1, [995, 5, 3, -3]), "counts"),
    Tampering("NaN votes", counts(0, "estimate", "[NaN, 5, 3, 2]"), "counts"),
    Tampering("votes that are floats", both(0, 1, [990.0, 5, 3, 2]), "counts"),
    Tampering("votes that are no JSON", counts(0, "estimate", "[990, 5, 3, "), "counts"),
    Tampering("outcome missing", both(0, 1, [992, 5, 3]), "counts"),
    Tampering("outcome too many", both(0, 1, [990, 5, 3, 1, 1]), "counts"),
    Tampering("look missing", sql("DELETE FROM looks WHERE \"index\" = 0 AND phase = 'select'"), "looks"),
    Tampering("no looks", sql('DELETE FROM looks WHERE "index" = 0'), "looks"),
    Tampering("look too many", sql("INSERT INTO looks VALUES (0, 'estimate', 2, '[2, 0, 0, 0]')"), "looks"),
    Tampering("other phase", sql("UPDATE looks SET phase = 'pilot' WHERE \"index\" = 0 AND phase = 'select'"), "looks"),
    Tampering("other length", sql("UPDATE looks SET n = 900 WHERE \"index\" = 0 AND phase = 'estimate'"), "looks"),
    # (b) prediction
    Tampering("wrong prediction", put("prediction", 1), "prediction"),
    Tampering("tie to the higher class", put("prediction", 1, index=3), "prediction", 3),
    Tampering("invalid predicted", put("prediction", 3, index=11), "prediction", 11),
    Tampering("prediction true", put("prediction", True, index=7), "prediction", 7),
    # (c) bounds
    Tampering("bound of another alpha", bound_at(0.01), "q_upper"),
    Tampering("bound of a smaller alpha", bound_at(0.0009), "q_upper"),
    Tampering("bound too small by 1e-6", scale("q_upper", 1 - 1e-6), "q_upper"),
    Tampering("bound too large by 2e-6", scale("q_upper", 1 + 2e-6), "q_upper"),
    Tampering("bound of no success below 1", put("q_upper", 0.999, index=9), "q_upper", 9),
    Tampering("bound NaN", put("q_upper", math.nan), "q_upper"),
    Tampering("bound above 1", put("q_upper", 1.5), "q_upper"),
    Tampering("bound 0", put("q_upper", 0.0), "q_upper"),
    Tampering("p_lower raised", scale("p_lower", 1 + 1e-12), "p_lower"),
    Tampering("p_lower much too low", scale("p_lower", 0.99), "p_lower"),
    Tampering("p_lower text", put("p_lower", "0.98"), "p_lower"),
    Tampering("runner-up bound", put("rival_upper", 0.01), "rival_upper"),
    # (d) status
    Tampering("certified instead of abstained", put("status", "certified", index=5), "status", 5),
    Tampering("abstained instead of certified", put("status", "abstained"), "status"),
    Tampering("abstained with a prediction", put("prediction", 0, index=5), "prediction", 5),
    Tampering("abstained with a radius", put("radius", 0.1, index=5), "radius", 5),
    Tampering("certified without a prediction", put("prediction", None), "prediction"),
    # (e) radius
    Tampering("radius raised by 1e-9", scale("radius", 1 + 1e-9), "radius"),
    Tampering("radius lowered by 2e-6", scale("radius", 1 - 2e-6), "radius"),
    Tampering("radius of another alpha", radius_at(0.01), "radius"),
    Tampering("radius of a smaller alpha", radius_at(0.0001), "radius"),
    Tampering("radius infinite", put("radius", "inf"), "radius"),
    Tampering("radius 0", put("radius", 0.0), "radius"),
    Tampering("law of the certificate", put("law", Gaussian(SHAPE, sigma=0.25).describe()), "law"),
    Tampering("shape of the certificate", put("law", Gaussian((1, 4), sigma=0.5).describe()), "law"),
    Tampering("conversion claimed", put("converted_from", "linf"), "converted_from"),
    Tampering("law of the run", identity("law.parameters.sigma", 0.6), "radius"),
    Tampering("law of the run against the certificate", identity("law.parameters.sigma", 0.6), "law"),
    Tampering("sigma of the run", identity("law.sigma", 0.6), "sigma", None, "run.json"),
    # (f) settings
    Tampering("alpha of the certificate", put("alpha", 0.0001), "alpha"),
    Tampering("n0 of the certificate", put("n0", 10), "n0"),
    Tampering("n of the certificate", put("n", 10_000), "n"),
    Tampering("seed of the certificate", put("seed", 8), "seed"),
    Tampering("seed of the run", identity("seed", 8), "seed"),
    Tampering("alpha of the run", identity("estimator.alpha", 0.01), "alpha"),
    Tampering("alpha of the run, bound", identity("estimator.alpha", 0.01), "q_upper"),
    Tampering("n of the run", identity("estimator.n", 999), "looks"),
    Tampering("norm of the run", identity("norm", "linf"), "norm"),
    Tampering("conversion of the run", identity("convert_from", "linf"), "converted_from"),
    Tampering("noise version of the run", identity("noise_version", "philox-int-v1"), "noise_version"),
    Tampering("precision of the run", identity("precision", "bf16"), "precision"),
    Tampering("classes of the run", identity("num_classes", 4), "counts"),
    Tampering("index of the certificate", put("index", 3), "index"),
    Tampering("no word on the guarantee", put("guarantee", ""), "guarantee"),
    # (g) labels, records, exports
    Tampering("label outside the classes", put("label", 3, inside=False), "label"),
    Tampering("label below", put("label", -1, inside=False), "label"),
    Tampering("hash cut short", put("input_sha256", "ab", inside=False), "input_sha256"),
    Tampering("certificate gone", put("certificate", None, inside=False), "certificate"),
    Tampering("payload no JSON", sql("UPDATE inputs SET payload = '{' WHERE \"index\" = 0"), "payload"),
    Tampering("row not done", sql("UPDATE inputs SET status = 'failed' WHERE \"index\" = 0"), "status of the row"),
    Tampering("index outside the data", sql('UPDATE inputs SET "index" = 12 WHERE "index" = 0'), "index", 12),
    *(
        Tampering(f"{kind}: {what}", tamper, rule, index, name)
        for name, kind in EXPORTED
        for what, tamper, rule, index in (
            ("dropped row", lines(name, lambda rows: rows[:2] + rows[3:]), "missing row", 3),
            ("repeated row", lines(name, lambda rows: [*rows, rows[1]]), "duplicate row", 0),
            ("extra row", lines(name, lambda rows: [*rows, rows[1].replace("0", "8", 1)]), "extra row", 8),
            ("row cut short", lines(name, lambda rows: [*rows[:-1], rows[-1][:5]]), "columns", None),
            ("column gone", lines(name, lambda rows: [rows[0].replace("radius", "r"), *rows[1:]]), "columns", None),
            ("empty", lines(name, lambda rows: []), "columns", None),
            ("radius rounded up", cell(name, 7, "radius", lambda text: f"{float(text) + 5e-4:.3f}"), "radius", 7),
            ("radius rounded down", cell(name, 7, "radius", lambda text: text[:6]), "radius", 7),
            (
                "radius one unit up",
                cell(name, 7, "radius", lambda text: repr(math.nextafter(float(text), 9.0))),
                "radius",
                7,
            ),
            ("abstained row with a class", cell(name, 5, "predict", lambda text: "0"), "predict", 5),
            ("label", cell(name, 7, "label", lambda text: "0"), "label", 7),
            ("correct flag", cell(name, 7, "correct", lambda text: str(1 - int(text))), "correct", 7),
            ("time", cell(name, 7, "time", lambda text: "1.0"), "time", 7),
        )
    ),
    *(
        Tampering(f"csv: {column}", cell("certificates.csv", 0, column, change), column, 0, "certificates.csv")
        for column, change in (
            ("status", lambda text: "abstained"),
            ("norm", lambda text: "linf"),
            ("p_lower", lambda text: text[:5]),
            ("q_upper", lambda text: text[:5]),
            ("alpha", lambda text: "0.0001"),
            ("n0", lambda text: "100"),
            ("n", lambda text: "100000"),
            ("votes_predict", lambda text: "991"),
            ("votes_second", lambda text: "4"),
            ("invalid", lambda text: "0"),
            ("law", lambda text: "gaussian(sigma=0.25)"),
            ("seed", lambda text: "8"),
            ("precision", lambda text: "bf16"),
            ("converted_from", lambda text: "l1"),
            ("input_sha256", lambda text: "0" * 64),
        )
    ),
]


def test_the_tampering_table_has_distinct_names() -> None:
    assert len({case.name for case in TAMPERINGS}) == len(TAMPERINGS)


@pytest.mark.parametrize("case", TAMPERINGS, ids=lambda case: case.name)
def test_tampering_is_reported_with_its_row(clean: Path, capsys: pytest.CaptureFixture[str], case: Tampering) -> None:
    case.tamper(clean)
    code, report = run_json(clean, capsys=capsys)
    assert code == 1
    assert report["passed"] is False
    hits = [
        mismatch
        for mismatch in report["mismatches"]
        if (mismatch["index"], mismatch["where"], mismatch["rule"]) == (case.index, case.where, case.rule)
    ]
    assert hits, report["mismatches"]
    assert all(hit["recorded"] and hit["derived"] for hit in hits)


def test_tampering_with_one_row_accuses_no_other(clean: Path) -> None:
    scale("radius", 1 + 1e-9, index=7)(clean)
    report = audit_folder(clean)
    assert {(m.index, m.rule) for m in report.mismatches if m.where == "journal"} == {(7, "radius")}


def test_the_table_of_mismatches_shows_both_values(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("prediction", 2, index=3)(clean)
    assert main(["audit", str(clean)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "Mismatches" in text
    assert "prediction" in text
    assert "lowest class" in text


def test_duplicate_rows_of_a_journal_without_keys_are_reported(clean: Path) -> None:
    with database(clean) as connection:
        connection.executescript(
            'CREATE TABLE copy ("index" INTEGER, status TEXT, payload TEXT); INSERT INTO copy SELECT * FROM inputs;'
            'INSERT INTO copy SELECT * FROM inputs WHERE "index" = 3; DROP TABLE inputs;'
            "ALTER TABLE copy RENAME TO inputs;"
        )
    assert [(m.index, m.rule) for m in audit_folder(clean).mismatches] == [(3, "duplicate row")]


def test_the_largest_sound_radius_passes_and_the_next_float_does_not(clean: Path) -> None:
    q = failure_upper_bound(10, 1000, 0.001)
    exact = radius_bounds(GAUSSIAN, 0.5, q, proved_in="l2", norm="l2", dimension=4).most
    below = float(exact)
    if context().mpf(below) > exact:
        below = math.nextafter(below, 0.0)
    for radius, expected in ((below, []), (math.nextafter(below, 9.0), ["radius"])):
        put("radius", radius)(clean)
        assert [m.rule for m in audit_folder(clean).mismatches if m.where == "journal"] == expected


# What is no fault, and what cannot be audited -----------------------------------------------------------------------


def test_a_partial_run_passes_and_is_called_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law = Gaussian(SHAPE, sigma=0.5)
    config = config_of(law, Norm.L2, None, [*VOTES, 4, 6])
    config["settings"]["shard"] = [0, 2]
    folder = write_run(tmp_path, law, config=config)
    for look in ("select", "estimate"):
        sql("INSERT INTO looks VALUES (4, ?, 20, '[20, 0, 0, 0]')", look)(folder)
    (folder / "certificates.csv").unlink()
    code, report = run_json(folder, capsys=capsys)
    assert (code, report["mismatches"], report["planned"], report["checked"]) == (0, [], 8, 6)
    notes = "\n".join(report["notes"])
    assert "partial: 2 of 8 planned inputs have no certificate (4, 6)" in notes
    assert "incomplete: 1 inputs have votes but no certificate (4)" in notes
    assert "certificates.csv is not there" in notes
    assert "shard" in notes


@pytest.mark.parametrize("name", ["certificates.tsv", "certificates.csv"])
def test_rows_missing_from_an_export_are_a_note_only_while_the_run_is_partial(
    clean: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    older = lines(name, lambda rows: rows[:-2])
    older(clean)
    code, report = run_json(clean, capsys=capsys)
    assert (code, [(m["index"], m["rule"]) for m in report["mismatches"]]) == (
        1,
        [(9, "missing row"), (11, "missing row")],
    )
    config = json.loads((clean / "run.json").read_text())
    config["settings"]["indices"] += [4]
    (clean / "run.json").write_text(json.dumps(config))
    code, report = run_json(clean, capsys=capsys)
    assert (code, report["mismatches"], report["passed"]) == (0, [], True)
    [note] = [note for note in report["notes"] if note.startswith(name)]
    assert "older than the journal: 2 inputs with a certificate have no row in it (9, 11)" in note
    # What an export does say must be right, whole run or not.
    for tamper, found in (
        (cell(name, 7, "radius", lambda text: "9.0"), (7, "radius")),
        (lines(name, lambda rows: [*rows, rows[1].replace("0", "8", 1)]), (8, "extra row")),
    ):
        kept = (clean / name).read_bytes()
        tamper(clean)
        code, report = run_json(clean, capsys=capsys)
        assert (code, [(m["index"], m["rule"]) for m in report["mismatches"]]) == (1, [found])
        (clean / name).write_bytes(kept)


def _edit_run(folder: Path, key: str, value: Any) -> None:
    config = json.loads((folder / "run.json").read_text())
    config[key] = value
    (folder / "run.json").write_text(json.dumps(config))


UNAUDITABLE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("no run.json", lambda folder: (folder / "run.json").unlink(), "there is no run.json"),
    ("damaged run.json", lambda folder: (folder / "run.json").write_text("{"), "cannot read"),
    ("other schema", lambda folder: _edit_run(folder, "schema", 2), "schema=2"),
    ("no journal", lambda folder: (folder / "journal.sqlite").unlink(), "has no journal.sqlite"),
    ("no database", lambda folder: (folder / "journal.sqlite").write_bytes(b"x" * 4096), "cannot be read"),
    ("journal schema", sql("UPDATE meta SET value = '2' WHERE key = 'schema_version'"), "schema version 1"),
    ("two kinds", lambda folder: _edit_run(folder, "kind", "other"), "'other' and 'smoothing'"),
    ("no certificate", sql("DELETE FROM inputs"), "nothing to audit"),
    ("estimator", identity("estimator.name", "other"), "estimator 'other' and law 'gaussian'"),
    ("law", identity("law.name", "cauchy"), "estimator 'fixed' and law 'cauchy'"),
    ("norm without a proof", identity("norm", "l7"), "norm 'l7'"),
    (
        "norm to convert to",
        lambda folder: [identity(k, v)(folder) for k, v in (("convert_from", "l2"), ("norm", "l0"))],
        "'l0'",
    ),
    ("alpha", identity("estimator.alpha", 2.0), "estimator.alpha must be a number in (0, 1), got 2.0"),
    ("n", identity("estimator.n", 0), "n must be an integer of at least 1, got 0"),
    ("shape", identity("input_shape", [4]), "input_shape must be"),
    ("parameter", identity("law.parameters", {"scale": 1.0}), "one positive parameter, sigma"),
    ("classes", identity("num_classes", 1), "num_classes must be"),
    ("seed", identity("seed", None), "seed must be"),
    ("name of the device", identity("device_name", 3), "device_name must be text, got 3"),
    ("resizing", identity("transform", ["crop"]), "transform must be text, got ['crop']"),
]


@pytest.mark.parametrize(("name", "damage", "message"), UNAUDITABLE, ids=[case[0] for case in UNAUDITABLE])
def test_what_cannot_be_audited_is_an_error_and_never_a_pass(
    clean: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], Any], message: str
) -> None:
    damage(clean)
    assert main(["audit", str(clean)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_an_unknown_kind_is_an_error_that_names_it(clean: Path) -> None:
    _edit_run(clean, "kind", "verify")
    sql("UPDATE meta SET value = 'verify' WHERE key = 'kind'")(clean)
    with pytest.raises(AuditError, match="kind 'verify' with estimator 'fixed' and law 'gaussian'"):
        audit_folder(clean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replay", "0"], "--replay must be at least 1"),
        (["--replay", "2", "--indices", "3"], "give one of them"),
        (["--model", "m"], "are for a replay"),
        (["--indices", "4"], "with a certificate"),
        (["--indices", "x"], "indices must be"),
    ],
)
def test_wrong_usage_exits_with_2(
    clean: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["audit", str(clean), *arguments]) == 2
    assert message in capsys.readouterr().err


# Exact arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.5, 0.03125, 0.9, 1e-3, 1e-9])
@pytest.mark.parametrize(("failures", "n"), [(0, 1), (0, 50), (3, 50), (25, 50), (48, 50), (49, 50), (130, 200)])
def test_lower_tail_equals_the_sum_of_its_terms(failures: int, n: int, q: float) -> None:
    p = Fraction(q)
    direct = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(failures + 1))
    mp = context()
    expected = mp.mpf(direct.numerator) / direct.denominator
    assert abs(lower_tail(failures, n, p) / expected - 1) < mp.mpf(10) ** -38


def test_lower_tail_at_its_ends() -> None:
    assert lower_tail(-1, 10, Fraction(1, 2)) == 0
    assert lower_tail(10, 10, Fraction(1, 2)) == 1
    assert lower_tail(3, 10, Fraction(0)) == 1
    assert lower_tail(3, 10, Fraction(1)) == 0


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.9, 1e-9])
@pytest.mark.parametrize(("failures", "n"), [(0, 1000), (1, 1000), (999, 1000), (20_000, 100_000), (5, 10**9)])
def test_upper_bound_inverts_the_tail(failures: int, n: int, alpha: float) -> None:
    mp = context()
    q = upper_bound(failures, n, alpha)
    exact = Fraction(int(q.man), 1) * Fraction(2) ** int(q.exp)
    slack = Fraction(1, 10**16)
    assert lower_tail(failures, n, exact * (1 - slack)) > mp.mpf(alpha)
    assert lower_tail(failures, n, min(exact * (1 + slack), Fraction(1))) < mp.mpf(alpha)


def test_upper_bound_without_failures_has_a_closed_form() -> None:
    mp = context()
    expected = 1 - mp.mpf(0.001) ** (mp.one / 100_000)
    assert abs(upper_bound(0, 100_000, 0.001) / expected - 1) < mp.mpf(10) ** -17
    assert upper_bound(10, 10, 0.001) == 1


@pytest.mark.parametrize("q", [1e-300, 1e-17, 6.9075e-5, 0.1, 0.49, 0.4999999999999999])
def test_normal_quantile_inverts_the_normal_tail(q: float) -> None:
    mp = context()
    x = normal_quantile(mp.mpf(q))
    # d log Phi(-x) / dx is about -max(x, 1), so that 1e-36 here is at least 1e-37 in x.
    assert abs(mp.erfc(x / mp.sqrt(2)) / 2 / mp.mpf(q) - 1) < mp.mpf(10) ** -36


@pytest.mark.parametrize(
    ("law", "norm", "expected"),
    [
        (GAUSSIAN, "l2", "1.2815515655446004"),  # Phi^-1(0.9)
        (GAUSSIAN, "l1", "1.2815515655446004"),
        (GAUSSIAN, "linf", "0.6407757827723002"),  # / sqrt(4)
        (LAPLACE, "l1", "1.6094379124341003"),  # log 5
        (UNIFORM, "l1", "0.8"),
    ],
)
def test_radii_have_their_published_values(law: ExactLaw, norm: str, expected: str) -> None:
    mp = context()
    found = law.radii[norm](mp.one, mp.mpf("0.1"), 4)
    assert abs(found - mp.mpf(expected)) < mp.mpf(10) ** -15


def test_conversion_factors_are_those_of_the_inclusions() -> None:
    mp = context()
    for source, target, expected in (
        ("l2", "l1", 1),
        ("linf", "l2", 1),
        ("l2", "l2", 1),
        ("l1", "l2", mp.mpf(9) ** -0.5),
        ("l2", "linf", mp.mpf(9) ** -0.5),
        ("l1", "linf", mp.mpf(1) / 9),
    ):
        assert abs(conversion_factor(source, target, 9) - expected) < mp.mpf(10) ** -40, (source, target)


def test_the_audit_leaves_the_global_precision_of_mpmath_alone(tmp_path: Path) -> None:
    before = mpmath.mp.dps
    audit_folder(write_run(tmp_path))
    assert mpmath.mp.dps == before


# Replay -------------------------------------------------------------------------------------------------------------

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 2, 2)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3).cos())

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Coarse(Model):
    def forward(self, x):
        return (2 * super().forward(x)).round()


def make():
    return Model()


def changed():
    model = Model()
    model.weight.data[0, 0] += 1e-6
    return model


def coarse():
    return Coarse()
"""


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model module that can be imported, and twelve inputs."""
    (tmp_path / "audited_model.py").write_text(MODEL)
    random = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", images=random.random((12, *SHAPE), dtype=np.float32), labels=np.arange(12) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("audited_model", None)
    return tmp_path


def real_run(workshop: Path, **changes: Any) -> Path:
    """Certify all twelve inputs for real."""
    options = RunOptions(
        model="audited_model:make",
        data=str(workshop / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        n=1000,
        n0=150,
        seed=11,
        batch_size=64,
        device="cpu",
        out=workshop / "run",
    )
    plan = prepare(replace(options, **changes), {}).plan
    execute(plan)
    return plan.out


def test_a_real_run_passes_and_its_replay_counts_the_same_votes(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    code, report = run_json(folder, "--replay", "3", capsys=capsys)
    assert (code, report["mismatches"], report["checked"]) == (0, [], 12)
    assert report["replay"]["indices"] == [2, 6, 10]
    assert report["replay"]["votes"] == 3 * 1150
    assert [(look["phase"], look["verdict"]) for look in report["replay"]["looks"]] == [
        ("select", "equal"),
        ("estimate", "equal"),
    ] * 3
    assert main(["audit", str(folder), "--indices", "0,4-5"]) == 0
    assert "6 of 6 looks equal vote for vote" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 128, "precision": "bf16"},
        {"batch_size": 50, "noise": "laplace", "norm": "l1"},
        {"batch_size": 1000, "noise": "uniform", "norm": "l1", "channels_last": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_replay_follows_the_recorded_settings(workshop: Path, changes: dict[str, Any]) -> None:
    report = audit_folder(real_run(workshop, **changes))
    assert report.mismatches == ()
    replayed = replay(report.run, report.spec, [1, 8], ReplayOptions())
    assert [look.verdict for look in replayed.looks] == ["equal"] * 4


def _reseeded(folder: Path) -> None:
    """Pretend, consistently, that the run had another seed: no arithmetic can tell."""
    identity("seed", 12)(folder)
    for index in range(12):
        put("seed", 12, index=index)(folder)
    cells = [cell("certificates.csv", index, "seed", lambda text: "12") for index in range(12)]
    for change in cells:
        change(folder)


def test_another_seed_passes_the_arithmetic_and_fails_the_replay(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    _reseeded(folder)
    code, report = run_json(folder, capsys=capsys)
    assert (code, report["mismatches"]) == (0, [])
    code, report = run_json(folder, "--replay", "4", capsys=capsys)
    assert (code, report["passed"], report["mismatches"]) == (1, False, [])
    assert {mismatch["rule"] for mismatch in report["replay"]["mismatches"]} == {"votes"}
    assert {mismatch["index"] for mismatch in report["replay"]["mismatches"]} == {1, 4, 7, 10}


def _other_pixel(workshop: Path) -> None:
    with np.load(workshop / "data.npz") as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"]
    images[11, 0, 0, 0] /= 2
    np.savez(workshop / "data.npz", images=images, labels=labels)


REFUSALS: list[tuple[str, Callable[[Path], None], tuple[str, ...], str]] = [
    ("changed weight", lambda shop: None, ("--model", "audited_model:changed"), "the model must be that of the run"),
    ("changed pixel", _other_pixel, (), "the data must be that of the run"),
    (
        "input hash",
        lambda shop: put("input_sha256", "a" * 64, index=4, inside=False)(shop / "run"),
        (),
        "input 4 must be that of the run",
    ),
    ("label", lambda shop: put("label", 0, index=4, inside=False)(shop / "run"), (), "the label of input 4 must be"),
    (
        "torch",
        lambda shop: identity("torch_version", "2.0.0+rocm")(shop / "run"),
        (),
        f"the run used torch 2.0.0+rocm, here is torch {torch.__version__}",
    ),
    (
        "device",
        lambda shop: identity("device_kind", "tpu")(shop / "run"),
        (),
        "the run used 'tpu', this machine has cpu",
    ),
    (
        "resizing",
        lambda shop: identity("transform", "crop to 2")(shop / "run"),
        (),
        "the model must resize and crop as in the run: run.json has 'crop to 2', what was loaded has None",
    ),
    (
        "noise version",
        lambda shop: identity("noise_version", "philox-int-v9")(shop / "run"),
        (),
        "noise version must be one of torch-block-v1, philox-int-v1 to be replayed, got 'philox-int-v9'",
    ),
    ("batch size", lambda shop: identity("batch_size", None)(shop / "run"), (), "batch_size=None"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=[case[0] for case in REFUSALS])
def test_what_votes_depend_on_is_compared_before_any_vote(
    workshop: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, Callable[[Path], None], tuple[str, ...], str],
) -> None:
    _, tamper, arguments, message = case
    folder = real_run(workshop)
    tamper(workshop)
    monkeypatch.setattr("certify.audit.replaying.recount", lambda *_, **__: pytest.fail("a vote was drawn"))
    assert main(["audit", str(folder), "--indices", "4", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_run_on_a_cpu_without_the_later_keys_is_replayed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_run(workshop)
    config = json.loads((folder / "run.json").read_text())
    assert config["identity"].pop("device_name") is None
    assert config["identity"].pop("transform") is None
    (folder / "run.json").write_text(json.dumps(config))
    code, report = run_json(folder, "--replay", "1", capsys=capsys)
    assert (code, report["passed"]) == (0, True)


GPUS = ["Small GPU", "Large GPU"]


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"device_name": "Small GPU"}, None),
        ({"device_name": "Large GPU"}, None),
        ({"device_name": "Other GPU"}, r"the run used 'Other GPU', this machine has 'Small GPU', 'Large GPU'"),
        ({"device_name": None}, r"must name \(device_name\), got None"),
        ({"device_name": ""}, r"must name \(device_name\), got ''"),
        ({}, r"must name \(device_name\), got None"),
    ],
)
def test_noise_of_a_gpu_is_drawn_again_only_on_a_gpu_of_that_name(
    monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPUS))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: GPUS[index])
    run = {"noise_version": NOISE_VERSION, "torch_version": torch.__version__, "device_kind": "cuda", **recorded}
    if message is None:
        assert check_machine(run) == torch.device("cuda", GPUS.index(recorded["device_name"]))
    else:
        with pytest.raises(AuditError, match=message):
            check_machine(run)
    assert check_machine({**run, "device_kind": "cpu"}) == torch.device("cpu")


def test_replay_finds_model_and_data_elsewhere(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_run(workshop)
    (workshop / "moved").mkdir()
    (workshop / "data.npz").rename(workshop / "moved" / "data.npz")
    assert main(["audit", str(folder), "--replay", "1"]) == 1
    assert "no such file" in capsys.readouterr().err
    moved = ["--data", str(workshop / "moved" / "data.npz"), "--model", "audited_model:make"]
    assert main(["audit", str(folder), "--replay", "1", *moved]) == 0


def _coarse_votes(workshop: Path) -> tuple[Votes, Callable[[int], torch.Tensor]]:
    with np.load(workshop / "data.npz") as arrays:
        images = torch.from_numpy(arrays["images"])
    engine = BatchingEngine(
        load_model("audited_model:coarse").classifier,
        Gaussian(SHAPE, sigma=0.5),
        3,
        lambda index: images[index],
        settings=ForwardSettings(32),
        seed=7,
    )
    requests = [VoteRequest(0, Phase.SELECT, 0, 20), VoteRequest(0, Phase.ESTIMATE, 0, 1000)]
    found = {request.phase: counts.tolist() for request, counts in engine.votes(requests)}
    return {0: (found[Phase.SELECT], found[Phase.ESTIMATE])}, lambda index: images[index]


def test_near_ties_are_listed_and_explain_exactly_what_they_can(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes, inputs = _coarse_votes(workshop)
    law = Gaussian(SHAPE, sigma=0.5)
    forward = Forward(load_model("audited_model:coarse").classifier, ForwardSettings(32))
    draw = TorchBlockNoise(law, 7).bind(inputs(0), 0)
    early, found = recount(forward, draw, SHAPE, phase=Phase.ESTIMATE, prefixes=(300, 1000), num_classes=3)
    assert early == recount(forward, draw, SHAPE, phase=Phase.ESTIMATE, prefixes=(300,), num_classes=3)[0]
    assert list(found.counts) == votes[0][1]
    ties = sum((tie.best, tie.second) == (0, 1) for tie in found.near_ties)
    assert ties > 20, "rounded scores have to tie often for this test"
    assert all(tie.margin == 0.0 for tie in found.near_ties)

    for moved, source, target, verdict, code in (
        (0, 0, 1, "equal", 0),
        (20, 0, 1, "near-ties", 0),
        (ties + sum((tie.best, tie.second) == (0, 2) for tie in found.near_ties) + 1, 0, 1, "different", 1),
        (1, 1, 0, "different", 1),  # a tie goes to the lower class, so that no near-tie gives a vote of class 1 to 0
        (1, 0, 3, "different", 1),  # and none makes a vote invalid
    ):
        changed = list(votes[0][1])
        changed[source] -= moved
        changed[target] += moved
        folder = workshop / f"run-{moved}-{source}-{target}"
        config = config_of(law, Norm.L2, None, [0])
        model = load_model("audited_model:coarse")
        with np.load(workshop / "data.npz") as arrays:
            image = arrays["images"][0]
        config["settings"] |= {"model": "audited_model:coarse", "data": str(workshop / "data.npz")}
        config["identity"] |= {"model_digest": model.digest, "data_digest": _data_digest(workshop)}
        sha = hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()
        write_run(
            folder,
            law,
            votes={0: (votes[0][0], changed)},
            config=config,
            payload=lambda index, sha=sha: {"input_sha256": sha},  # type: ignore[misc]
        )
        exit_code, report = run_json(folder, "--replay", "1", capsys=capsys)
        assert report["mismatches"] == []
        look = report["replay"]["looks"][1]
        assert (look["verdict"], exit_code) == (verdict, code), (moved, source, target)
        assert len(look["near_ties"]) == len(found.near_ties)


def _data_digest(workshop: Path) -> str:
    from certify.datasets import load_dataset

    return load_dataset(str(workshop / "data.npz")).digest()


def tie(best: int, second: int) -> NearTie:
    return NearTie(0, best, second, 0.0, 1.0)


@pytest.mark.parametrize(
    ("recorded", "counted", "near_ties", "expected"),
    [
        ([5, 5, 0], [5, 5, 0], [], True),
        ([4, 6, 0], [5, 5, 0], [], False),
        ([4, 6, 0], [5, 5, 0], [tie(0, 1)], True),
        ([4, 6, 0], [5, 5, 0], [tie(1, 0)], False),  # the replay voted for 1 there: turning it takes from 1
        ([3, 7, 0], [5, 5, 0], [tie(0, 1)], False),
        ([3, 7, 0], [5, 5, 0], [tie(0, 1)] * 2, True),
        ([4, 5, 1, 0], [5, 5, 0, 0], [tie(0, 1), tie(1, 2)], True),  # one vote from 0 to 1, one from 1 to 2
        ([4, 5, 1, 0], [5, 5, 0, 0], [tie(0, 1), tie(2, 1)], False),
        ([3, 5, 1, 1, 0], [5, 5, 0, 0, 0], [tie(0, 2), tie(0, 2), tie(2, 3)], True),
        ([4, 5, 1], [5, 5, 0], [tie(0, 1)], False),  # to "invalid"
        ([4, 5, 0], [5, 5, 0], [tie(0, 1)], False),  # a vote has gone
        # The first path found, 0 -> 2, has to be taken back for both votes to arrive.
        ([4, 4, 1, 1, 0], [5, 5, 0, 0, 0], [tie(0, 2), tie(0, 3), tie(1, 2)], True),
    ],
)
def test_explained(recorded: list[int], counted: list[int], near_ties: list[NearTie], expected: bool) -> None:
    assert explained(recorded, counted, near_ties) is expected


def test_recount_counts_broken_scores_as_invalid_and_reads_labels() -> None:
    law = Gaussian((2,), sigma=1.0)

    def count(classifier: Callable[[torch.Tensor], Any]) -> Any:
        forward = Forward(classifier, ForwardSettings(50))
        draw = TorchBlockNoise(law, 1).bind(torch.zeros(2), 0)
        return recount(forward, draw, (2,), phase=Phase.SELECT, prefixes=(333,), num_classes=2)[0]

    scores = count(lambda x: x)
    assert sum(scores.counts) == 333
    assert min(scores.counts[:2]) > 100
    assert scores.counts[2] == 0
    broken = count(lambda x: torch.where(x[:, :1] > 0, x, torch.nan))
    assert broken.counts[2] > 100
    assert count(lambda x: x[:, 0].gt(0).long() * 5 - 1).counts == (0, 0, 333)
    labels = count(lambda x: x[:, 1].gt(x[:, 0]).long())
    assert labels.counts == scores.counts
    assert labels.near_ties == ()
    tied = count(torch.zeros_like)
    assert tied.counts == (333, 0, 0)
    assert [near.sample for near in tied.near_ties] == list(range(333))
    for wrong in (lambda x: x[:, :1], lambda x: x[:, 0], lambda x: [1, 2], lambda x: x[:-1]):
        with pytest.raises(ClassifierError):
            count(wrong)


@pytest.mark.parametrize(
    ("indices", "count", "expected"),
    [
        (list(range(10)), 1, [5]),
        (list(range(10)), 2, [2, 7]),
        (list(range(10)), 10, list(range(10))),
        ([4, 2, 9], 5, [2, 4, 9]),
        (list(range(0, 100, 10)), 3, [10, 50, 80]),
    ],
)
def test_choose_evenly(indices: list[int], count: int, expected: list[int]) -> None:
    assert choose_evenly(indices, count) == expected


def test_a_look_that_cannot_be_counted_again_fails_the_replay(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_run(workshop)
    counts(6, "estimate", "[NaN, 0, 0, 0]")(folder)
    code, report = run_json(folder, "--indices", "6", capsys=capsys)
    assert code == 1
    assert [m["rule"] for m in report["replay"]["mismatches"]] == ["votes"]
    assert [look["phase"] for look in report["replay"]["looks"]] == ["select"]
