"""What is shown while radii are decided: the votes saved so far, and the curve of certified accuracy as it sharpens."""

import io
import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from certify import progress
from certify.curve import Curve
from certify.progress import LineLog, LiveBar, Silent, watch
from certify.rundir import Row
from smoothing import Gaussian
from smoothing.certificate import issue_certificate
from smoothing.estimators.base import Estimate, Look, Phase, Status
from smoothing.noise import NOISE_VERSION
from smoothing.threat import Norm

INPUTS, CAP = 4, 1000
CURVES = [
    Curve((0.0, 0.25), (1, 0), (3, 4), INPUTS),
    Curve((0.0, 0.25), (2, 1), (1, 2), INPUTS),
    Curve((0.0, 0.25), (3, 2), (0, 0), INPUTS),
]
SHARPER = ["0: 25.0-100.0%  0.25: 0.0-100.0%", "0: 50.0-75.0%  0.25: 25.0-75.0%", "0: 75.0%  0.25: 50.0%"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that only a test moves, in seconds."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


def row(votes: int, invalid: int = 0) -> Row:
    looks = (Look(Phase.ESTIMATE, votes, (0, votes - invalid, invalid)),)
    estimate = Estimate(Status.CERTIFIED, 1, 0.9, 0.1, None, 0.001, looks)
    law = Gaussian((1, 2, 2), sigma=0.5)
    certificate = issue_certificate(estimate, law, Norm.L2, index=0, seed=0, noise_version=NOISE_VERSION)
    return Row(0, 1, 1, certificate.radius, True, 0.1, "ab" * 32, certificate)


class Bar:
    """What `rich.progress.Progress` is told."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.advanced = 0

    def add_task(self, description: str, **fields: Any) -> int:
        self.fields |= fields
        return 7

    def update(self, task: int, *, advance: int = 0, **fields: Any) -> None:
        assert task == 7
        self.advanced += advance
        self.fields |= fields


def test_lines_show_votes_saved_and_the_curve_as_it_sharpens(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LineLog(INPUTS, CAP, interval=10.0, decides=True)
    curves = iter(CURVES)
    log.on_curve(lambda: next(curves))
    log.on_votes(50)
    assert capsys.readouterr().err == "", "nothing before the interval is over"
    clock.time = 10.0
    log.on_votes(50)
    first, curve = capsys.readouterr().err.splitlines()
    assert first == "0/4 inputs · 10 samples/s", "no share of votes is saved before an input is finished"
    assert curve == f"  certified accuracy  {SHARPER[0]}"
    log.on_row(row(100))
    log.on_row(row(300, invalid=5))
    clock.time = 20.0
    log.on_votes(300)
    second, curve = capsys.readouterr().err.splitlines()
    # Two inputs might have had 2,000 votes, and took 400.
    assert second == "2/4 inputs · 20 samples/s · votes saved 80.0% · [invalid votes 5]"
    assert curve == f"  certified accuracy  {SHARPER[1]}"
    log.on_row(row(1000))
    log.on_row(row(1000))
    clock.time = 48.0
    log.line()
    last, curve = capsys.readouterr().err.splitlines()
    assert "4/4 inputs" in last
    assert "votes saved 40.0%" in last
    assert "left" not in last, "nobody knows what open inputs will need"
    assert "certified accuracy " not in last, "the curve says it, by radius"
    assert curve == f"  certified accuracy  {SHARPER[2]}"


def test_without_a_cap_nothing_is_called_saved(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    log = LineLog(INPUTS, None, decides=True)
    log.on_row(row(100))
    clock.time = 2.0
    log.line()
    assert capsys.readouterr().err == "1/4 inputs · 0 samples/s\n"


def test_a_fixed_size_shows_shares_and_the_time_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other side of the switch: what `decides` changes is seen to change."""
    log = LineLog(INPUTS, CAP)
    log.totals.votes = 1000
    log.on_row(row(1000))
    clock.time = 10.0
    log.line()
    text = "1/4 inputs · 100 samples/s · certified accuracy 100.0% · abstained 0.0% · 30 s left\n"
    assert capsys.readouterr().err == text


def test_the_bar_counts_inputs_and_shows_votes_saved_and_the_curve(clock: SimpleNamespace) -> None:
    shown = Bar()
    bar = LiveBar(shown, INPUTS, CAP, decides=True)
    assert (shown.fields["total"], shown.fields["inputs"]) == (INPUTS, "0/4"), "inputs, for votes are not known"
    curves, asked = iter(CURVES), itertools.count()

    def curve() -> Curve:
        next(asked)
        return next(curves)

    bar.on_curve(curve)
    clock.time = 1.0
    bar.on_votes(200)
    assert shown.fields["figures"] == f"200 samples/s · {SHARPER[0]}"
    clock.time = 2.0
    bar.on_votes(200)
    assert shown.fields["figures"] == f"200 samples/s · {SHARPER[0]}", (
        "a curve costs time: not asked for at every batch"
    )
    assert shown.advanced == 0, "votes do not move a bar of inputs"
    clock.time = 4.0
    bar.on_row(row(250))
    assert shown.fields["inputs"] == "1/4"
    assert shown.fields["figures"] == f"100 samples/s · votes saved 75.0% · {SHARPER[1]}"
    for _ in range(3):
        bar.on_row(row(250))
    clock.time = 8.0
    bar.on_votes(0)
    assert shown.advanced == INPUTS
    assert shown.fields["figures"] == f"50 samples/s · votes saved 75.0% · {SHARPER[2]}"
    assert next(asked) == 3


def test_a_bar_of_votes_moves_within_an_input(clock: SimpleNamespace) -> None:
    shown = Bar()
    bar = LiveBar(shown, INPUTS, CAP)
    assert shown.fields["total"] == INPUTS * CAP
    bar.on_row(row(CAP))  # of an earlier call
    clock.time = 1.0
    bar.on_votes(200)
    assert shown.advanced == CAP + 200


def test_the_observer_fits_where_it_goes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(INPUTS, CAP, quiet=True, decides=True) as quiet:
        assert isinstance(quiet, Silent)
        quiet.on_votes(1)
        quiet.on_row(row(1))
        quiet.on_curve(lambda: CURVES[0])
    assert capsys.readouterr().err == ""
    with watch(INPUTS, CAP, decides=True) as lines:
        lines.on_curve(lambda: CURVES[2])
        lines.on_row(row(100))
    assert "votes saved 90.0%" in (said := capsys.readouterr().err), "a line at the end, however short the run"
    assert SHARPER[2] in said
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with watch(INPUTS, CAP, decides=True) as live:
        assert isinstance(live, LiveBar)
        live.on_curve(lambda: CURVES[2])
        live.on_row(row(100))
    assert "1/4 inputs" in capsys.readouterr().err


def test_figures_in_square_brackets_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with watch(INPUTS, CAP, figures=lambda: "[sent without an answer 3]") as observer:
        observer.on_votes(CAP)
        observer.on_row(row(CAP, invalid=2))
    assert "[invalid votes 2] · [sent without an answer 3]" in screen.getvalue()
