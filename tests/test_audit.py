"""The audit: a clean run passes, and every tampering is reported with its row."""

import ast
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from audit_runs import (
    SHAPE,
    VOTES,
    both,
    bound_at,
    cell,
    config_of,
    counts,
    database,
    identity,
    lines,
    put,
    radius_at,
    run_json,
    scale,
    sql,
    write_run,
)

from certify.audit import CHECKERS, AuditError, audit_folder, auditing
from certify.audit.exact import context
from certify.audit.fixed import FixedChecker, radius_bounds
from certify.audit.radii import GAUSSIAN, LAPLACE, UNIFORM, ExactLaw
from certify.cli import main
from smoothing import Gaussian, Laplace, Norm, SmoothingDistribution, Uniform
from smoothing.distributions.table import LAWS, make_law
from smoothing.statistics.binomial import failure_upper_bound


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean run, written once; tests that tamper take a copy."""
    return write_run(tmp_path_factory.mktemp("template") / "run")


@pytest.fixture
def clean(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "run"))


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
