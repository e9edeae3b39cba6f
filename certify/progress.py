"""What people see while a run is going on: a live bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from certify.curve import Curve
from certify.outcomes import ABSTAINED
from certify.rundir import Row

_CURVE_SECONDS = 2.0
"""How often a live bar asks for the curve."""


@runtime_checkable
class RunObserver(Protocol):
    """Told about votes and finished inputs as they come."""

    def on_votes(self, votes: int) -> None:
        """`votes` more have been counted."""
        ...

    def on_row(self, row: Row) -> None:
        """An input is finished and in the journal."""
        ...

    def on_curve(self, curve: Callable[[], Curve]) -> None:
        """`curve` says, whenever it is called, how far certified accuracy is known among the inputs under way."""
        ...


class _Totals:
    """Running figures: rates over the votes of this process, shares over all finished inputs.

    With estimators that decide radii (`decides`) inputs cost what they cost: the votes that were saved against the cap are
    shown, and the certified accuracy by radius.
    """

    def __init__(
        self,
        inputs: int,
        votes_per_input: int | None,
        decides: bool = False,
        figures: Callable[[], str] = str,
    ) -> None:
        self.figures = figures
        self.inputs = inputs
        self.votes_per_input = votes_per_input
        self.decides = decides
        self.curve: Callable[[], Curve] | None = None
        self.started = time.monotonic()
        self.votes = self.done = self.correct = self.abstained = self.invalid = self.used = 0
        self.resumed = 0

    def add(self, row: Row) -> None:
        if self.votes == 0:
            self.resumed += 1
        self.done += 1
        self.correct += row.correct
        self.abstained += row.predict == ABSTAINED
        self.invalid += row.certificate.invalid
        self.used += row.certificate.votes

    @property
    def rate(self) -> float:
        return self.votes / max(time.monotonic() - self.started, 1e-9)

    @property
    def saved(self) -> float | None:
        """Share of the votes that finished inputs did not need, of those that they might have had."""
        if self.votes_per_input is None or not self.done:
            return None
        return 1.0 - self.used / (self.done * self.votes_per_input)

    @property
    def seconds_left(self) -> float | None:
        if self.votes_per_input is None or self.decides:
            return None  # nobody knows what the inputs that are open will need
        missing = (self.inputs - self.resumed) * self.votes_per_input - self.votes
        return missing / self.rate if self.votes else None

    def text(self) -> str:
        done = max(self.done, 1)
        parts = [f"{self.rate:,.0f} samples/s"]
        if self.decides:
            if self.saved is not None:
                parts.append(f"votes saved {self.saved:.1%}")
        else:
            parts.append(f"certified accuracy {self.correct / done:.1%}")
            parts.append(f"abstained {self.abstained / done:.1%}")
        if self.invalid:
            parts.append(f"[invalid votes {self.invalid:,}]")
        others = self.figures()
        if others:
            parts.append(others)
        return " · ".join(parts)


class Silent:
    """No progress at all."""

    def on_curve(self, curve: Callable[[], Curve]) -> None:
        """Nothing."""

    def on_votes(self, votes: int) -> None:
        """Nothing."""

    def on_row(self, row: Row) -> None:
        """Nothing."""


class LineLog:
    """One plain line every few seconds and one at the end, for logs."""

    def __init__(
        self,
        inputs: int,
        votes_per_input: int | None,
        interval: float = 10.0,
        *,
        decides: bool = False,
        figures: Callable[[], str] = str,
    ) -> None:
        self.totals = _Totals(inputs, votes_per_input, decides, figures)
        self.interval = interval
        self._next = time.monotonic() + interval

    def on_votes(self, votes: int) -> None:
        """Count, and print a line when it is time."""
        self.totals.votes += votes
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.interval
            self.line()

    def on_row(self, row: Row) -> None:
        """Count."""
        self.totals.add(row)

    def on_curve(self, curve: Callable[[], Curve]) -> None:
        """Take note of whom to ask."""
        self.totals.curve = curve

    def line(self) -> None:
        """Print where the run stands."""
        totals = self.totals
        left = totals.seconds_left
        rest = "" if left is None else f" · {clock(left)} left"
        print(f"{totals.done}/{totals.inputs} inputs · {totals.text()}{rest}", file=sys.stderr, flush=True)
        if totals.curve is not None:
            print(f"  certified accuracy  {totals.curve().text()}", file=sys.stderr, flush=True)


class LiveBar:
    """A rich progress bar: counts votes, so that it moves within an input too; inputs where their cost is not known."""

    def __init__(
        self,
        progress: Any,
        inputs: int,
        votes_per_input: int | None,
        *,
        decides: bool = False,
        figures: Callable[[], str] = str,
    ) -> None:
        self.totals = _Totals(inputs, votes_per_input, decides, figures)
        self._progress = progress
        self._by_votes = votes_per_input is not None and not decides
        self._next = time.monotonic()
        self._curve = ""
        total = inputs * votes_per_input if self._by_votes and votes_per_input is not None else inputs
        self._task = progress.add_task("", total=total, inputs=f"0/{inputs}", figures="")

    def on_votes(self, votes: int) -> None:
        """Advance the bar."""
        self.totals.votes += votes
        advance = votes if self._by_votes else 0
        self._progress.update(self._task, advance=advance, figures=self._figures())

    def on_row(self, row: Row) -> None:
        """Count; inputs of an earlier call advance the bar at once."""
        resumed = self.totals.resumed
        self.totals.add(row)
        if not self._by_votes:
            self._progress.update(self._task, advance=1)
        elif self.totals.resumed > resumed:
            self._progress.update(self._task, advance=self.totals.votes_per_input)
        self._progress.update(self._task, inputs=f"{self.totals.done}/{self.totals.inputs}", figures=self._figures())

    def on_curve(self, curve: Callable[[], Curve]) -> None:
        """Take note of whom to ask."""
        self.totals.curve = curve

    def _figures(self) -> str:
        if self.totals.curve is not None and time.monotonic() >= self._next:
            self._curve = f" · {self.totals.curve().text()}"
            self._next = time.monotonic() + _CURVE_SECONDS
        return self.totals.text() + self._curve


@contextmanager
def watch(
    inputs: int,
    votes_per_input: int | None,
    *,
    quiet: bool = False,
    decides: bool = False,
    figures: Callable[[], str] = str,
) -> Iterator[RunObserver]:
    """Yield the observer that fits where standard error goes: a bar, lines, or nothing when `quiet`.

    Args:
        inputs: How many inputs there are.
        votes_per_input: What each costs at most; None where there is no cap.
        quiet: Show nothing.
        decides: Whether the estimator decides radii, so that inputs cost less, and how much less is of interest.
        figures: Returns what else a line should say; "" for nothing.
    """
    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        log = LineLog(inputs, votes_per_input, decides=decides, figures=figures)
        try:
            yield log
        finally:
            log.line()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[inputs]} inputs"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}", markup=False),  # figures in square brackets are no markup
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield LiveBar(progress, inputs, votes_per_input, decides=decides, figures=figures)


def clock(seconds: float) -> str:
    """Return a duration as people write it: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
