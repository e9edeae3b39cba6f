"""A report in a terminal; its table is broken into blocks of columns where it is wider than the screen."""

from typing import TYPE_CHECKING

from certify.report.paired import PairedComparison
from certify.report.tables import CertifiedTable
from certify.report.wording import ENVELOPE_CAVEAT, interval_caption, table_caption

if TYPE_CHECKING:
    from rich.console import Console

    from certify.report.write import Report

_NAME_WIDTH = 40
_GAP = 2


def print_report(console: "Console", report: "Report") -> None:
    """Print the table, the comparisons, the rules of services, and what the envelope means where there is one."""
    from rich.text import Text

    print_table(console, report.table)
    for comparison in report.comparisons:
        _print_comparison(console, comparison)
    for text in report.service_texts():
        console.print("\n[bold]Service[/bold]")
        console.print(Text(text, style="dim"))
    if report.envelope:
        console.print(Text(ENVELOPE_CAVEAT, style="dim"))


def print_table(console: "Console", table: CertifiedTable) -> None:
    """Print certified accuracies with their intervals below them, ACR, abstention, and alpha apart from both."""
    from rich.table import Table
    from rich.text import Text

    header = table.header()
    lines = [(table.cells(row), table.interval_cells(row), row.certified.notice) for row in table.rows]
    widths = {
        i: max(
            len(text)
            for text in (header[i], *(text for cells, intervals, _ in lines for text in (cells[i], intervals[i])))
        )
        for i in range(1, len(header))
    }
    name_width = min(_NAME_WIDTH, max(len(text) for text in (header[0], *(cells[0] for cells, _, _ in lines))))
    for block in _blocks(widths, console.width - name_width - _GAP):
        shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        shown.add_column(header[0], width=name_width, overflow="fold")
        for i in block:
            shown.add_column(header[i], justify="right", no_wrap=True)
        for cells, intervals, notice in lines:
            # Text, not markup: names come from file names, and a bracket in one is no style.
            name = Text(cells[0], style="bold yellow" if notice else "bold")
            shown.add_row(name, *(Text.assemble(cells[i], "\n", (intervals[i], "dim")) for i in block))
        console.print(shown)
        console.print()
    notes = [table_caption(table.sets), f"Below each number: {interval_caption(table.confidence)}"]
    for sentence in [*notes, *table.notes()]:
        console.print(Text(sentence, style="dim"))


def _print_comparison(console: "Console", comparison: PairedComparison) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print("\n[bold]Comparison[/bold]")
    *sentences, last = comparison.sentences()
    for sentence in sentences:
        console.print(Text(sentence))
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for head in comparison.header():
        shown.add_column(head, justify="right")
    for line in comparison.cells():
        shown.add_row(*line)
    console.print(shown)
    console.print(Text(last, style="dim"))


def _blocks(widths: dict[int, int], room: int) -> list[list[int]]:
    """Split columns into runs that fit into `room`, at least one column each."""
    blocks: list[list[int]] = [[]]
    used = 0
    for column, width in widths.items():
        if blocks[-1] and used + width + _GAP > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += width + _GAP
    return blocks
