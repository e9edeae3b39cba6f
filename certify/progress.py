"""What people see while a run is going on: a live bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from certify.rundir import Row


@runtime_checkable
class RunObserver(Protocol):
    """Told about votes and finished inputs as they come."""

    def on_votes(self, votes: int) -> None:
        """`votes` more have been counted."""
        ...

    def on_row(self, row: Row) -> None:
        """An input is finished and in the journal."""
        ...


class _Totals:
    """Running figures: rates over the votes of this process, shares over all finished inputs."""

    def __init__(self, inputs: int, votes_per_input: int) -> None:
        self.inputs = inputs
        self.votes_per_input = votes_per_input
        self.started = time.monotonic()
        self.votes = self.done = self.correct = self.abstained = self.invalid = 0
        self.resumed = 0

    def add(self, row: Row) -> None:
        if self.votes == 0:
            self.resumed += 1
        self.done += 1
        self.correct += row.correct
        self.abstained += row.predict == -1
        self.invalid += row.certificate.invalid

    @property
    def rate(self) -> float:
        return self.votes / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        missing = (self.inputs - self.resumed) * self.votes_per_input - self.votes
        return missing / self.rate if self.votes else None

    def text(self) -> str:
        done = max(self.done, 1)
        parts = [
            f"{self.rate:,.0f} samples/s",
            f"certified accuracy {self.correct / done:.1%}",
            f"abstained {self.abstained / done:.1%}",
        ]
        if self.invalid:
            parts.append(f"[invalid votes {self.invalid:,}]")
        return " · ".join(parts)


class Silent:
    """No progress at all."""

    def on_votes(self, votes: int) -> None:
        """Nothing."""

    def on_row(self, row: Row) -> None:
        """Nothing."""


class LineLog:
    """One plain line every few seconds and one at the end, for logs."""

    def __init__(self, inputs: int, votes_per_input: int, interval: float = 10.0) -> None:
        self.totals = _Totals(inputs, votes_per_input)
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

    def line(self) -> None:
        """Print where the run stands."""
        totals = self.totals
        left = totals.seconds_left
        rest = "" if left is None else f" · {clock(left)} left"
        print(f"{totals.done}/{totals.inputs} inputs · {totals.text()}{rest}", file=sys.stderr, flush=True)


class LiveBar:
    """A rich progress bar that counts votes, so that it moves within an input too."""

    def __init__(self, progress: Any, inputs: int, votes_per_input: int) -> None:
        self.totals = _Totals(inputs, votes_per_input)
        self._progress = progress
        self._task = progress.add_task("", total=inputs * votes_per_input, inputs=f"0/{inputs}", figures="")

    def on_votes(self, votes: int) -> None:
        """Advance the bar."""
        self.totals.votes += votes
        self._progress.update(self._task, advance=votes, figures=self.totals.text())

    def on_row(self, row: Row) -> None:
        """Count; inputs of an earlier call advance the bar at once."""
        resumed = self.totals.resumed
        self.totals.add(row)
        if self.totals.resumed > resumed:
            self._progress.update(self._task, advance=self.totals.votes_per_input)
        self._progress.update(self._task, inputs=f"{self.totals.done}/{self.totals.inputs}", figures=self.totals.text())


@contextmanager
def watch(inputs: int, votes_per_input: int, *, quiet: bool = False) -> Iterator[RunObserver]:
    """Yield the observer that fits where standard error goes: a bar, lines, or nothing when `quiet`."""
    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        log = LineLog(inputs, votes_per_input)
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
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield LiveBar(progress, inputs, votes_per_input)


def clock(seconds: float) -> str:
    """Return a duration as people write it: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
