"""The table of certified accuracies: its numbers, and its forms as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certify.errors import UsageError
from certify.metrics import (
    CONFIDENCE,
    CertifiedSet,
    Mean,
    Share,
    abstention,
    accuracy,
    average_certified_radius,
    certified_accuracy,
    check_radii,
    default_radii,
    population_lower_bound,
    share_of,
)
from certify.report.wording import (
    alpha_sentences,
    grid_sentences,
    inputs_text,
    interval_caption,
    invalid_sentences,
    marked_name,
    mean_interval,
    mean_text,
    number,
    percent,
    percent_interval,
    table_caption,
)


@dataclass(frozen=True)
class TableRow:
    """One source's line.

    Attributes:
        certified: The certificates.
        accuracies: Certified accuracy at each radius of the table.
        accuracy: Accuracy of the smoothed classifier on the inputs as they are; abstaining is wrong.
        acr: Mean radius, 0 where wrong or abstained.
        abstention: Share that abstained.
        undecided: Share that is undecided at the smallest radius.
        refuted: Share that is refuted at the smallest radius.
        population: Lower bounds on the certified accuracies of the population; None where alpha is not known.
    """

    certified: CertifiedSet
    accuracies: tuple[Share, ...]
    accuracy: Share
    acr: Mean
    abstention: Share
    undecided: Share
    refuted: Share
    population: tuple[float, ...] | None


@dataclass(frozen=True)
class CertifiedTable:
    """Certified accuracy at radii, ACR and abstention of several sources, one row each."""

    radii: tuple[float, ...]
    rows: tuple[TableRow, ...]
    confidence: float

    @property
    def sets(self) -> tuple[CertifiedSet, ...]:
        """The certificates of every row."""
        return tuple(row.certified for row in self.rows)

    @property
    def three_valued(self) -> bool:
        """Whether any source has inputs that can be undecided or refuted, which is no abstaining."""
        return any(c.grid is not None or bool((c.undecided | c.refuted).any()) for c in self.sets)

    def header(self) -> list[str]:
        """Return the column heads of the main table."""
        more = ["undecided %", "refuted %"] if self.three_valued else []
        return ["source", "inputs", *(f"r={number(r)}" for r in self.radii), "ACR", "abstain %", *more]

    def outcomes(self, row: TableRow) -> list[Share]:
        """Return the shares of inputs without a proved class, one per reason that the table has a column for."""
        return [row.abstention, *([row.undecided, row.refuted] if self.three_valued else [])]

    def cells(self, row: TableRow) -> list[str]:
        """Return one line of the main table; the source is marked where it is not whole."""
        shown = [percent(share) for share in row.accuracies]
        name, inputs = marked_name(row.certified), inputs_text(row.certified)
        return [name, inputs, *shown, mean_text(row.acr), *map(percent, self.outcomes(row))]

    def interval_cells(self, row: TableRow) -> list[str]:
        """Return the intervals that belong to `cells`."""
        shown = [percent_interval(share) for share in row.accuracies]
        none = map(percent_interval, self.outcomes(row))
        return [marked_name(row.certified), "", *shown, mean_interval(row.acr), *none]

    def notes(self) -> list[str]:
        """Return what belongs below the table: the alphas, and invalid votes where there are any."""
        return [*alpha_sentences(self.sets), *grid_sentences(self.sets), *invalid_sentences(self.sets)]

    def to_markdown(self) -> str:
        """Return the table, its intervals and what they do not say, as Markdown."""
        notes = [f"- {markdown_escape(sentence)}" for sentence in self.notes()]
        return "\n".join(
            [
                markdown_escape(table_caption(self.sets)),
                "",
                *markdown_table(self.header(), [self.cells(row) for row in self.rows]),
                "",
                interval_caption(self.confidence),
                "",
                *markdown_table(self.header(), [self.interval_cells(row) for row in self.rows], drop=(1,)),
                "",
                *notes,
                "",
            ]
        )

    def to_csv(self) -> str:
        """Return one line per source with unrounded numbers; shares are fractions of 1."""
        text = io.StringIO()
        lines = [_flat(record) for record in self.to_dict()["sources"]]
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def to_latex(self) -> str:
        """Return two `table` environments for the package booktabs: the numbers, and their intervals."""
        notes = " ".join(self.notes())
        return "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                *latex_table(
                    self.header(),
                    [self.cells(row) for row in self.rows],
                    f"{table_caption(self.sets)} {notes}",
                    "tab:certified-accuracy",
                ),
                "",
                *latex_table(
                    self.header(),
                    [self.interval_cells(row) for row in self.rows],
                    interval_caption(self.confidence),
                    "tab:certified-accuracy-intervals",
                    drop=(1,),
                ),
                "",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything, unrounded, as JSON-ready data."""
        sources = [self._record(row) for row in self.rows]
        return {"radii": list(self.radii), "confidence": self.confidence, "sources": sources}

    def _record(self, row: TableRow) -> dict[str, Any]:
        certified = row.certified
        population = row.population or (None,) * len(self.radii)
        at_radii = [
            {"radius": r, **_share(share), "population_lower_bound": bound}
            for r, share, bound in zip(self.radii, row.accuracies, population, strict=True)
        ]
        return {
            "name": certified.name,
            "kind": certified.kind,
            "inputs": len(certified),
            "planned": certified.planned,
            "data_size": certified.data_size,
            "split": certified.split,
            "selection": certified.selection,
            "complete": certified.complete,
            "notice": certified.notice,
            "law": certified.law,
            "sigma": certified.sigma,
            "norm": certified.norm,
            "n0": certified.n0,
            "n": certified.n,
            "estimator": certified.estimator,
            "grid": None if certified.grid is None else list(certified.grid),
            "cap": certified.cap,
            "votes": certified.votes,
            "alpha": certified.alpha,
            "alpha_over_all_inputs": None if certified.alpha is None else certified.alpha * len(certified),
            "invalid_votes": certified.invalid_votes,
            "invalid_inputs": certified.invalid_inputs,
            "accuracy": _share(row.accuracy),
            "acr": {"value": row.acr.value, "low": row.acr.low, "high": row.acr.high},
            "abstention": _share(row.abstention),
            "undecided": _share(row.undecided),
            "refuted": _share(row.refuted),
            "certified_accuracy": at_radii,
        }


def certified_table(
    sets: CertifiedSet | Sequence[CertifiedSet],
    radii: Sequence[float | int] | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> CertifiedTable:
    """Compute certified accuracies, ACR and abstention of one or several sets side by side.

    Args:
        sets: The certificates.
        radii: Columns of the table; default: 0, 0.25, 0.5, ... up to the largest radius.
        confidence: Of each interval over the inputs.

    Raises:
        UsageError: If there is no set, their norms differ, or a radius is out of range.
    """
    sets = [sets] if isinstance(sets, CertifiedSet) else list(sets)
    if not sets:
        raise UsageError("a table needs at least one source, got none")
    check_norms(sets)
    radii = default_radii(sets) if radii is None else tuple(sorted({float(r) for r in radii}))
    check_radii(radii)
    return CertifiedTable(radii, tuple(_row(certified, radii, confidence) for certified in sets), confidence)


def check_norms(sets: Sequence[CertifiedSet]) -> None:
    """Raise `UsageError` where radii in different norms would stand side by side as if they were alike."""
    norms = {certified.norm: certified.name for certified in sets if certified.norm is not None}
    if len(norms) > 1:
        found = ", ".join(f"{norm} ({name})" for norm, name in sorted(norms.items()))
        raise UsageError(f"sources side by side must have one norm, got {found}; report them apart")


def _row(certified: CertifiedSet, radii: tuple[float, ...], confidence: float) -> TableRow:
    accuracies = certified_accuracy(certified, radii, confidence=confidence)
    population = None
    if certified.alpha is not None:
        population = tuple(
            population_lower_bound(share.count, share.total, certified.alpha, confidence=confidence)
            for share in accuracies
        )
    return TableRow(
        certified,
        accuracies,
        accuracy(certified, confidence=confidence),
        average_certified_radius(certified, confidence=confidence),
        abstention(certified, confidence=confidence),
        share_of(certified.undecided, confidence=confidence),
        share_of(certified.refuted, confidence=confidence),
        population,
    )


def _share(share: Share) -> dict[str, float]:
    return {"value": share.value, "count": share.count, "low": share.low, "high": share.high}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """One record of `to_dict` as one CSV line: a column for each number, named by what it is and at which radius."""
    line = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    for key in ("accuracy", "acr", "abstention", "undecided", "refuted"):
        line |= {key: record[key]["value"], f"{key}_low": record[key]["low"], f"{key}_high": record[key]["high"]}
    for at in record["certified_accuracy"]:
        r = number(at["radius"])
        line |= {f"certified@{r}": at["value"], f"certified_low@{r}": at["low"], f"certified_high@{r}": at["high"]}
        line[f"population_low@{r}"] = at["population_lower_bound"]
    return {key: "" if value is None else value for key, value in line.items()}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], drop: Sequence[int] = ()) -> list[str]:
    """Return the lines of a Markdown table, aligned for the eye too; the first column is text, the others numbers."""
    kept = [[markdown_escape(cell) for i, cell in enumerate(line) if i not in drop] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in kept) for i in range(len(kept[0]))]
    rule = [("-" * w if i == 0 else "-" * (max(w, 2) - 1) + ":") for i, w in enumerate(widths)]
    aligned = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(max(w, 2))
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in kept
    ]
    return [f"| {' | '.join(line)} |" for line in (aligned[0], rule, *aligned[1:])]


def latex_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str, drop: Sequence[int] = ()
) -> list[str]:
    """Return the lines of a booktabs table; all text is escaped."""
    kept = [[latex_escape(cell) for i, cell in enumerate(line) if i not in drop] for line in (header, *rows)]
    # r=0.25 is mathematics, and the only text here that is not data.
    kept[0] = [re.sub(r"^r=(.*)$", r"$r=\1$", cell) for cell in kept[0]]
    body = [f"    {' & '.join(line)} \\\\" for line in kept]
    return [
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{latex_escape(caption)}}}",
        f"  \\label{{{label}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(kept[0]) - 1)}}}",
        "    \\toprule",
        body[0],
        "    \\midrule",
        *body[1:],
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]


_LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "$": "\\$",
    "&": "\\&",
    "#": "\\#",
    "_": "\\_",
    "%": "\\%",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "–": "--",
    "…": "\\ldots{}",
}


def latex_escape(text: str) -> str:
    """Return text that LaTeX prints as it is: no command, no group, no comment."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def markdown_escape(text: str) -> str:
    """Return text that opens no cell, tag, link or code in Markdown."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)
