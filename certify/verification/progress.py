"""What people see while a verification is going on: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from certify.progress import clock
from certify.verification.row import VerifyRow
from certify.verification.summary import STATUSES

OnRow = Callable[[VerifyRow], None]


class _Totals:
    def __init__(self, inputs: int, resumed: int) -> None:
        self.inputs, self.resumed, self.done = inputs, resumed, 0
        self.counts = dict.fromkeys(STATUSES, 0)
        self.began = time.monotonic()

    def add(self, row: VerifyRow) -> None:
        self.done += 1
        self.counts[row.status] = self.counts.get(row.status, 0) + 1

    def text(self) -> str:
        fresh, spent = self.done - self.resumed, max(time.monotonic() - self.began, 1e-9)
        parts = [f"{count} {status}" for status, count in self.counts.items() if count]
        if fresh > 0:
            parts.append(f"{fresh / spent:.2g} inputs/s")
            if self.done < self.inputs:
                parts.append(f"{clock((self.inputs - self.done) * spent / fresh)} left")
        return " · ".join(parts)


@contextmanager
def watch(inputs: int, resumed: int = 0, *, quiet: bool = False, interval: float = 10.0) -> Iterator[OnRow]:
    """Yield what is told about finished inputs.

    Args:
        inputs: How many there are.
        resumed: How many of them are finished already, and tell nothing about the rate.
        quiet: Show nothing.
        interval: Seconds between two lines of a log.
    """
    totals = _Totals(inputs, resumed)
    if quiet:
        yield totals.add
        return
    if not sys.stderr.isatty():
        last = time.monotonic()

        def log(row: VerifyRow) -> None:
            nonlocal last
            totals.add(row)
            if time.monotonic() - last >= interval or totals.done == inputs:
                last = time.monotonic()
                print(f"{totals.done}/{inputs} inputs · {totals.text()}", file=sys.stderr, flush=True)

        yield log
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=inputs, figures="")

        def show(row: VerifyRow) -> None:
            totals.add(row)
            progress.update(task, advance=1, figures=totals.text())

        yield show
