"""What people see while a training is going on: a live bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from certify.progress import clock
from certify.training.log import EpochRecord
from smoothing.training import EpochStarted, Event, StepDone


@runtime_checkable
class TrainingObserver(Protocol):
    """Told about what happens in a training."""

    def on_event(self, event: Event) -> None:
        """The trainer has yielded an event."""
        ...

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch is over and in the log."""
        ...

    def on_teacher(self, votes: int, total: int) -> None:
        """The teacher has cast `votes` of `total` votes on every training image."""
        ...


class SilentTraining:
    """No progress at all."""

    def on_event(self, event: Event) -> None:
        """Nothing."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Nothing."""

    def on_teacher(self, votes: int, total: int) -> None:
        """Nothing."""


class _Totals:
    """How far a training is, and how fast it is going, evaluation included."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.epochs = self.epoch = self.images = self.done = 0
        self._first: int | None = None
        self.figures = ""

    def add(self, event: Event) -> None:
        if isinstance(event, EpochStarted):
            self.epoch, self.epochs, self.images = event.epoch + 1, event.epochs, event.images
            if self._first is None:  # a resumed training has done some before
                self._first = self.done = event.epoch * event.images
                self.started = time.monotonic()
        elif isinstance(event, StepDone):
            self.done = event.epoch * self.images + event.images
            self.figures = (
                f"loss {event.loss:.3f} · noisy {event.noisy_accuracy:.1%} · {event.images_per_second:,.0f} images/s"
            )

    @property
    def total(self) -> int:
        return self.epochs * self.images

    @property
    def seconds_left(self) -> float:
        return (self.total - self.done) * (time.monotonic() - self.started) / max(self.done - (self._first or 0), 1)


class TrainingLines:
    """One plain line an epoch, and one every few seconds of a long epoch, for logs."""

    def __init__(self, interval: float = 30.0) -> None:
        self.totals = _Totals()
        self.interval = interval
        self._next = time.monotonic() + interval

    def on_event(self, event: Event) -> None:
        """Count, and print a line when it is time."""
        self.totals.add(event)
        if isinstance(event, StepDone) and event.step < event.steps and time.monotonic() >= self._next:
            self._print(f"step {event.step}/{event.steps} · {self.totals.figures}")

    def on_epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line."""
        self._print(epoch_figures(record))

    def on_teacher(self, votes: int, total: int) -> None:
        """Print a line when it is time."""
        if votes == total or time.monotonic() >= self._next:
            self._next = time.monotonic() + self.interval
            print(f"teacher: {votes}/{total} votes on every training image", file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        self._next = time.monotonic() + self.interval
        totals = self.totals
        left = "" if totals.done == totals.total else f" · {clock(totals.seconds_left)} left"
        print(f"epoch {totals.epoch}/{totals.epochs} · {text}{left}", file=sys.stderr, flush=True)


class TrainingBar:
    """A rich progress bar over all examples of all epochs; 80 columns are enough for it, wider terminals show more."""

    def __init__(self, progress: Any) -> None:
        self.totals = _Totals()
        self._progress = progress
        self._task = progress.add_task("", total=None, epochs="", figures="")
        self._held_out = ""

    def on_event(self, event: Event) -> None:
        """Move the bar."""
        totals = self.totals
        totals.add(event)
        self._progress.update(
            self._task,
            total=totals.total,
            completed=totals.done,
            epochs=f"epoch {totals.epoch}/{totals.epochs}",
            figures=totals.figures + self._held_out,
        )

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the accuracy on the held-out examples from now on."""
        if record.held_out_noisy_accuracy is not None and self._progress.console.width >= 110:
            self._held_out = f" · held out noisy {record.held_out_noisy_accuracy:.1%}"

    def on_teacher(self, votes: int, total: int) -> None:
        """Show how far the teacher is."""
        self._progress.update(self._task, total=total, completed=votes, figures="teacher's votes")


def epoch_figures(record: EpochRecord) -> str:
    """Return what a row of the log says, in words."""
    held_out = "" if record.held_out_noisy_accuracy is None else f" (held out {record.held_out_noisy_accuracy:.1%})"
    score = "" if record.selection_score is None else f" · selection score {record.selection_score:.3f}"
    return (
        f"loss {record.loss:.3f} · noisy accuracy {record.noisy_accuracy:.1%}{held_out}{score} · "
        f"{record.images_per_second:,.0f} images/s"
    )


@contextmanager
def watch_training(*, quiet: bool = False) -> Iterator[TrainingObserver]:
    """Yield the observer that fits where standard error goes: a bar, lines, or nothing when `quiet`."""
    if quiet:
        yield SilentTraining()
        return
    if not sys.stderr.isatty():
        yield TrainingLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[epochs]}"),
        BarColumn(bar_width=8),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield TrainingBar(progress)
