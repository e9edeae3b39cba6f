"""The script that replays published logs: what it counts, on a small log in the published format."""

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from smoothing import Gaussian
from smoothing.estimators import thresholds
from smoothing.statistics import failure_upper_bound

ROWS = [  # prediction, radius, correct; the label is always 3. The radii of the grid are 0 and 0.25: one is near.
    *[(3, radius, 1) for radius in (0.457, 0.41, 0.35, 0.255, 0.16, 0.12)],
    (5, 0.3, 0),
    (-1, 0.0, 0),
]
SIGMA = 0.12


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "benchmark_sequential.py"
    spec = importlib.util.spec_from_file_location("benchmark_sequential", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "benchmark_sequential", module)
        patch.syspath_prepend(str(path.parent))  # as when it is run: scripts share modules beside them
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "cifar10_noise_0.12_sigma_0.12.tsv"
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    for i, (predict, radius, correct) in enumerate(ROWS):
        lines.append(f"{20 * i}\t3\t{predict}\t{radius:.3}\t{correct}\t0:00:15.524113")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(script: ModuleType, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    assert script.main([*arguments, "--json", str(tmp_path / "out.json"), "--csv", str(tmp_path / "out.csv")]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    with (tmp_path / "out.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found["lines"])
    return found


COLUMNS = (
    "log",
    "estimator",
    "radii",
    "mean votes",
    "median",
    "times fewer",
    "over the floor",
    "mean loss",
    "max loss",
)


def test_the_whole_curve(script: ModuleType, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(script, tmp_path, str(log), "--replicates", "1")
    assert capsys.readouterr().out.splitlines()[0] == f"| {' | '.join(COLUMNS)} |"
    lines = {line["estimator"]: line for line in found["lines"]}
    assert list(lines) == [
        "fixed",
        "sequential gse",
        "sequential zmix",
        "sequential gse free",
        "anytime",
        "planned 5%",
    ]
    fixed = lines.pop("fixed")
    assert (fixed["mean_votes"], fixed["median_votes"], fixed["times_fewer"]) == (100_100, 100_100, 1.0)
    for name, line in lines.items():
        assert (line["log"], line["radii"]) == (log.stem, 2)
        assert line["times_fewer"] == pytest.approx(100_100 / line["mean_votes"])
        assert line["times_fewer"] > 5
        # The floor is one for the expected votes of any test; 8 inputs scatter around theirs.
        assert line["votes_over_floor"] == pytest.approx(line["mean_votes"] / line["floor"])
        assert line["votes_over_floor"] > 0.9
        assert line["floor"] == fixed["floor"]
        # Both curves are decided on the same votes, so that no estimator certifies more than the fixed n does here; and
        # the seed is fixed. The planned one gives up 5 % of a radius, and with it the claim of 0.25 for the input at 0.255.
        if name == "planned 5%":
            assert (line["mean_loss"], line["max_loss"]) == (100 / 16, 100 / 8)
        elif name != "anytime":  # which has no cap to spend its alpha on, and may be short of a claim there too
            assert (line["mean_loss"], line["max_loss"]) == (0.0, 0.0)
        assert 0.0 <= line["mean_loss"] <= line["max_loss"] <= 100 / 8
    # The free mode tests at half of alpha.
    assert lines["sequential gse free"]["mean_votes"] > lines["sequential gse"]["mean_votes"]


def test_radii_alone_are_summed_up(
    script: ModuleType, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(script, tmp_path, str(log), str(log), "--single", "--replicates", "1")
    lines = found["lines"]
    assert [line["estimator"] for line in lines] == ["sequential gse, r = 0", "sequential gse, r = 0.25"] * 2
    one, everything = found["averages"]  # the log is given twice, under one name
    assert (one["log"], everything["log"], everything["cells"]) == (log.stem, "all", 4)
    votes = np.array([line["mean_votes"] for line in lines])
    assert everything["mean_votes"] == pytest.approx(votes.mean())
    assert everything["times_fewer"] == pytest.approx(100_100 / votes.mean())
    assert everything["mean_of_ratios"] == pytest.approx((100_100 / votes).mean())
    assert everything["mean_of_ratios"] > everything["times_fewer"] > 10
    assert everything["max_loss"] == max(line["max_loss"] for line in lines) == 0.0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"| all | 4 | {votes.mean():,.0f} | {100_100 / votes.mean():.1f}x |")


def test_an_average_over_logs_weighs_each_cell_alike(script: ModuleType) -> None:
    def line(log: str, votes: float, floor: float, loss: float) -> Any:
        return script.Line(log, "e", 1, votes, votes, 100_100 / votes, floor, votes / floor, loss, loss)

    found = script.averages(
        [line("a", 100.0, 50.0, 0.0), line("a", 300.0, 150.0, 0.1), line("b", 1400.0, 1000.0, -0.1)]
    )
    assert [(x.log, x.cells, x.mean_votes) for x in found] == [("a", 2, 200.0), ("b", 1, 1400.0), ("all", 3, 600.0)]
    assert [x.times_fewer for x in found] == pytest.approx([100_100 / 200, 100_100 / 1400, 100_100 / 600])
    assert found[0].mean_of_ratios == pytest.approx((1001 + 100_100 / 300) / 2)
    assert [x.votes_over_floor for x in found] == pytest.approx([2.0, 1.4, 600 / 400])
    assert (found[2].mean_loss, found[2].max_loss) == (pytest.approx(0.0), 0.1)


def test_the_class_probability_behind_a_radius(script: ModuleType) -> None:
    radii = np.array([0.0, 0.12, 0.3, 0.457])
    failures = 100_000 * script.implied_failures(radii, SIGMA, 100_000, 0.001)
    grid = Gaussian((1,), sigma=SIGMA)
    for radius, count in zip(radii, failures, strict=True):
        bounds = failure_upper_bound(np.array([math.floor(count), math.ceil(count)]), 100_000, 0.001)
        reached = [grid.radius(1 - q, "l2", q_upper=q) if q < 0.5 else 0.0 for q in bounds.tolist()]
        assert reached[1] - 1e-9 <= radius
        assert radius <= reached[0] + 1e-9 or count == 0  # radii are printed to three digits


def test_the_floor(script: ModuleType) -> None:
    grid = thresholds(Gaussian((1,), sigma=1.0), "l2", (0.0, 1.0))
    most = script.fixed_limits(grid)
    assert failure_upper_bound(most[1], 100_000, 0.001) < grid[1].q0 < failure_upper_bound(most[1] + 1, 100_000, 0.001)
    # Always right: ln(1000) / ln(1 / p0) for the harder radius. Right in 3 of 5: for radius 0 alone. In 1 of 3: nothing.
    p0 = 0.8413447460685429
    assert script.floor_votes(0.0, grid, most) == pytest.approx(math.log(1000) / -math.log(p0))
    assert script.floor_votes(0.4, grid, most) == pytest.approx(
        math.log(1000) / (0.6 * math.log(1.2) + 0.4 * math.log(0.8))
    )
    assert script.floor_votes(2 / 3, grid, most) == 0.0


HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
ROW = "0\t3\t3\t0.3\t1\t0:00:01"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        ([HEADER], "no row below the header"),
        (["idx\tlabel\tpredict", "0\t3\t3"], "it lacks radius, correct"),
        ([HEADER.replace("\t", ","), ROW.replace("\t", ",")], "separated by tabs"),
        ([HEADER, ROW, ROW], "line 3, column idx: each input must appear once, got 0 again"),
        (
            [HEADER, ROW.replace("0.3", "nan")],
            "line 2, column radius: a finite number of at least 0 is expected, got 'nan'",
        ),
        ([HEADER, ROW.replace("0.3", "-0.3")], "column radius: a finite number of at least 0 is expected, got '-0.3'"),
        (None, "No such file"),
    ],
)
def test_a_log_that_cannot_be_read_is_one_line(
    script: ModuleType, tmp_path: Path, lines: list[str] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine_sigma_0.12.tsv"
    if lines is not None:
        path.write_text("".join(f"{line}\n" for line in lines))
    assert script.main([str(path)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    [line] = captured.err.splitlines()
    assert line.startswith(f"error: {path}" if "No such" not in message else f"error: cannot read {path}")
    assert message in line


def test_sigma_is_read_off_the_name_or_given(script: ModuleType, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, sigma in (("noise_0.25_sigma_0.50.tsv", 0.5), ("sigma1.tsv", 1.0), ("sigma_.12.tsv", 0.12)):
        assert script.sigma_of(Path(name)) == sigma
    path = log.with_name("mine.tsv")
    path.write_text(log.read_text())
    assert script.main([str(path)]) == 2
    assert "or give --sigma; got mine.tsv" in capsys.readouterr().err


def test_a_log_that_is_not_there_is_named_before_its_name_is_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path / "nosuch.tsv")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot read ")
    assert "sigma" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--only", "foo"],
            "--only must be one of fixed, sequential gse, sequential zmix, sequential gse free, anytime, ",
        ),
        (["--only", "anytime", "--single"], "--only is for whole curves"),
        (["--replicates", "0"], "an integer of at least 1 is expected, got 0"),
        (["--log-alpha", "2"], "a number in (0, 1) is expected, got 2"),
        (["--log-alpha", "nan"], "a number in (0, 1) is expected, got nan"),
        (["--log-n", "0"], "an integer of at least 1 is expected, got 0"),
        (["--sigma", "0"], "is expected, got 0"),
        (["--seed", "-1"], "an integer of at least 0 is expected, got -1"),
    ],
)
def test_bad_options_are_refused(
    script: ModuleType, log: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leave:
        script.main([str(log), *options])
    assert leave.value.code == 2
    assert message in capsys.readouterr().err


def test_undecided_and_refuted_rows_are_no_wrong_classes(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sigma_0.12.tsv"
    rows = [f"{i}\t3\t{code}\t0.0\t0" for i, code in enumerate([-1, -2, -3] * 200)]
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect", *rows]) + "\n")  # and no `time`
    log = script.read_log(path, timed=False)
    assert np.isnan(log.seconds).all()
    made = script.LogSettings(100_000, 0.001, "given")
    share = 1.0 - script.label_failures(log, SIGMA, made, np.random.default_rng(1))
    for code, most in ((-1, 0.505), (-2, 0.505), (-3, 0.5)):
        found = share[log.predict == code]
        assert 0.0 < found.min() < 0.02
        assert most - 0.02 < found.max() <= most
        assert found.mean() == pytest.approx(most / 2, abs=0.04)


def test_a_log_of_abstentions_has_no_ratio_to_the_floor(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sigma_0.12.tsv"
    path.write_text(f"{HEADER}\n0\t3\t-1\t0\t0\t1\n1\t3\t-3\t0\t0\t1\n")
    for options in (["--only", "anytime"], ["--single"]):
        found = run(script, tmp_path, str(path), "--replicates", "1", *options)
        assert {line["votes_over_floor"] for line in found["lines"]} == {None}
        printed = capsys.readouterr().out
        assert "| - |" in printed
        assert "nan" not in printed
