"""Curves of a report: exact steps, bands, envelopes, and axes that are given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_pages import digits, make_run, some_outcomes

from certify.errors import CertifyError, UsageError
from certify.metrics import certified_counts
from certify.report import (
    certified_table,
    plot_certified_accuracy,
    read_source,
    read_sources,
)
from certify.report.plots import curve_figure, outcome_bars, radius_histogram, render


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", some_outcomes())


def test_names_with_markup_of_the_plot_library_are_drawn_as_they_are(run: Path) -> None:
    for name in ("$x$", "_hidden", "100 $", "a\\$b"):
        certified = replace(read_source(run).certified, name=name)
        ax = plot_certified_accuracy(certified)
        assert ax.get_legend().get_texts()[0].get_text().startswith(name)
        for figure in (ax.figure, outcome_bars([certified]), radius_histogram([certified])):
            assert len(render(figure, "png", dpi=40)) > 1000


def test_curves_fall_exactly_at_the_radii(run: Path) -> None:
    certified = read_source(run).certified
    ax = plot_certified_accuracy(certified)
    line = ax.lines[0]
    assert line.get_drawstyle() == "steps-post"
    x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
    radii = certified.radius[certified.correct]
    assert x[0] == 0
    assert set(x[1:]) == set(radii)
    assert y[-1] == 0
    for at in [0.0, *radii, *(np.nextafter(radii, np.inf)), 0.123]:
        # On a step "post" the value at x is that from the last point before it on; at a fall itself the line is
        # vertical, and the share with radius >= r is its upper end.
        drawn = y[max(np.searchsorted(x, at, side="left") - 1, 0)]
        assert drawn == pytest.approx(100 * certified_counts(certified, [at])[0] / len(certified))


def test_bands_hold_the_curve_and_the_envelope_is_the_best_of_all(run: Path, tmp_path: Path) -> None:
    outcomes = [(p, min(q + 0.02, 0.49) if p is not None else q) for p, q in some_outcomes()]
    outcomes[2] = (int(digits().targets[2]), 0.3)
    sets = [s.certified for s in read_sources([run, make_run(tmp_path / "other", outcomes)])]
    ax = plot_certified_accuracy(sets, envelope=True)
    for line, band in zip(ax.lines, ax.collections, strict=False):
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() <= min(line.get_ydata())
        assert corners[:, 1].max() >= max(line.get_ydata())
    x, y = (np.asarray(values, dtype=np.float64) for values in ax.lines[-1].get_data())
    assert ax.lines[-1].get_linestyle() == "--" or ax.lines[-1].is_dashed()
    assert "envelope" in ax.get_legend().get_texts()[-1].get_text()
    for left, right, value in zip(x, x[1:], y, strict=False):
        middle = (left + right) / 2
        assert value == pytest.approx(max(100 * certified_counts(s, [middle])[0] / len(s) for s in sets))


def test_envelopes_that_would_mislead_are_refused(run: Path, tmp_path: Path) -> None:
    certified = read_source(run).certified
    with pytest.raises(UsageError, match="over several runs, got one"):
        plot_certified_accuracy(certified, envelope=True)
    shorter = read_source(make_run(tmp_path / "shorter", some_outcomes()[:11])).certified
    with pytest.raises(CertifyError, match="same inputs in every run"):
        plot_certified_accuracy([certified, shorter], envelope=True)


def test_norms_are_not_mixed(run: Path) -> None:
    certified = read_source(run).certified
    with pytest.raises(UsageError, match=r"one norm, got l1 \(run\), l2 \(run\)"):
        certified_table([certified, replace(certified, norm="l1")])
    certified_table([certified, replace(certified, norm=None, kind="log")])


def test_plots_go_into_axes_that_are_given_and_touch_no_global_state(run: Path) -> None:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    before = dict(rcParams)
    ax = Figure().add_subplot()
    certified = read_source(run).certified
    assert plot_certified_accuracy([certified], ax) is ax
    figure = curve_figure([certified])
    for form in ("png", "svg"):
        assert render(curve_figure([certified]), form) == render(curve_figure([certified]), form)
    assert dict(rcParams) == before
    assert figure.canvas.manager is None
    with pytest.raises(UsageError, match="png, pdf or svg"):
        render(figure, "gif")
