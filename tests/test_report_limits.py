"""The impossibility curve in reports: its values, where it is drawn, and where it makes no sense."""

import math
from pathlib import Path

import numpy as np
import pytest

from certify.cli import main
from certify.report.limits import LIMIT_CAVEAT, impossible_radii
from certify.report.plots import plot_certified_accuracy
from certify.report.sources import read_source
from certify.report.write import write_report
from smoothing import Pareto
from tests.test_report import make_run, some_outcomes

SIGMA = 0.5


def expected(q: float) -> float:
    """sigma min{1 / sqrt(2 q), sqrt(3/2) (1 - 2 q) / sqrt(q)}, written down from the theorem."""
    return SIGMA * min(1 / math.sqrt(2 * q), math.sqrt(1.5 / q) * (1 - 2 * q))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", some_outcomes())


def test_every_right_input_has_the_limit_of_its_own_bounds(run: Path) -> None:
    source = read_source(run)
    limit = impossible_radii(source)
    assert limit is not None
    assert source.run is not None
    for row, value in zip(source.run.rows, limit, strict=True):
        wanted = expected(row.certificate.q_upper) if row.correct else 0.0
        assert value == pytest.approx(wanted, rel=1e-9)
        assert not row.correct or value > row.radius
    assert sorted(np.flatnonzero(limit == 0)) == [1, 2, 4]


def test_a_log_and_a_law_of_infinite_sigma_have_none(run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    log.write_text((run / "certificates.tsv").read_text())
    assert impossible_radii(read_source(log)) is None
    source = read_source(run)
    assert source.run is not None
    law = Pareto((1, 8, 8), scale=1.0, a=1.5).describe()
    assert law["sigma"] is None
    source.run.config["identity"]["law"] = law
    assert impossible_radii(source) is None


def test_the_curve_is_the_share_of_inputs_that_the_limit_allows(run: Path) -> None:
    source = read_source(run)
    limit = impossible_radii(source)
    assert limit is not None
    ax = plot_certified_accuracy([source.certified], limits=[limit])
    curve = ax.get_lines()[-1]
    x, y = curve.get_xdata(), curve.get_ydata()
    for radius in (0.0, 0.7, 1.5):
        at = int(np.searchsorted(x, radius, side="right")) - 1
        assert y[at] == pytest.approx(100 * np.mean(limit > radius))
    # The axis is that of the certificates; the limit may go beyond it.
    assert ax.get_xlim() == plot_certified_accuracy([source.certified]).get_xlim()
    assert len(ax.get_lines()) == len(plot_certified_accuracy([source.certified]).get_lines()) + 1
    assert len(plot_certified_accuracy([source.certified], limits=[None]).get_lines()) == len(ax.get_lines()) - 1


def test_it_is_drawn_when_asked_for_and_explained(run: Path, tmp_path: Path) -> None:
    plain = write_report(run, tmp_path / "plain")
    limited = write_report(run, tmp_path / "limited", limit=True)
    assert LIMIT_CAVEAT not in plain.to_markdown()
    assert LIMIT_CAVEAT in limited.to_markdown()
    assert LIMIT_CAVEAT.split(":", maxsplit=1)[0] in (tmp_path / "limited" / "report.html").read_text()
    names = ("plain", "limited")
    assert len({(tmp_path / name / "certified_accuracy.png").read_bytes() for name in names}) == 2
    assert main(["report", str(run), "--limit", "--no-html", "--out", str(tmp_path / "cli")]) == 0
    assert LIMIT_CAVEAT in (tmp_path / "cli" / "table.md").read_text()
