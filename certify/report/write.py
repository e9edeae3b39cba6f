"""From run folders and logs to a folder of tables, pictures and one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify.errors import UsageError
from certify.files import make_folder, write_atomically
from certify.metrics import CONFIDENCE
from certify.report.limits import LIMIT_CAVEAT, impossible_radii
from certify.report.paired import PairedComparison, compare_paired
from certify.report.plots import curve_figure, render
from certify.report.sources import Source, read_sources
from certify.report.tables import CertifiedTable, certified_table, markdown_escape
from certify.report.wording import ENVELOPE_CAVEAT

DEFAULT_FOLDER = "certify-report"


@dataclass(frozen=True)
class Report:
    """What was computed and where it was written.

    Attributes:
        sources: What was read.
        table: The numbers.
        comparisons: Paired comparisons, each with the first source.
        files: The files that were written, in the order in which a reader wants them.
        envelope: Whether the plot has the envelope over the sources.
        limited: Whether the plot has the limit of every additive noise.
    """

    sources: tuple[Source, ...]
    table: CertifiedTable
    comparisons: tuple[PairedComparison, ...]
    files: tuple[Path, ...]
    envelope: bool = False
    limited: bool = False

    @property
    def notices(self) -> list[str]:
        """What must be said because a source is not whole."""
        return [f"{c.name}: {c.notice}" for c in self.table.sets if c.notice is not None]

    def service_texts(self) -> list[str]:
        """Return a paragraph for each source whose votes a prediction service gave: its name, and the rules."""
        return [
            f"{source.certified.name}: {' '.join(source.service.sentences())}"
            for source in self.sources
            if source.service is not None
        ]

    def to_markdown(self) -> str:
        """Return table, comparisons, and the rules of services, as Markdown."""
        parts = [self.table.to_markdown(), *(comparison.to_markdown() for comparison in self.comparisons)]
        parts += [f"**Service.** {markdown_escape(text)}\n" for text in self.service_texts()]
        parts += [f"{ENVELOPE_CAVEAT}\n"] if self.envelope else []
        parts += [f"{LIMIT_CAVEAT}\n"] if self.limited else []
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, unrounded, and the files as JSON-ready data."""
        return {
            **self.table.to_dict(),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "services": [
                {"name": s.certified.name, **s.service.to_dict()} for s in self.sources if s.service is not None
            ],
            "notices": self.notices,
            "files": [str(path) for path in self.files],
        }


def write_report(
    paths: Sequence[Path | str] | Path | str,
    out: Path | str | None = None,
    *,
    radii: Sequence[float | int] | None = None,
    names: Sequence[str] = (),
    compare: bool = False,
    envelope: bool = False,
    limit: bool = False,
    html: bool = True,
    confidence: float = CONFIDENCE,
) -> Report:
    """Report run folders and published logs side by side.

    Writes `table.md`, `table.csv`, `table.tex`, `certified_accuracy.png`, `certified_accuracy.pdf` and `report.html`.
    Everything is computed before the first file is written.

    Args:
        paths: Run folders, or logs with the columns of the published codes.
        out: Where to write; default: the run folder if there is one run alone, else `certify-report` here.
        radii: Columns of the table; default: 0, 0.25, 0.5, ... up to the largest radius.
        names: One name per source; default: the names of folders and files.
        compare: Compare each source with the first on the inputs that both have. The page compares two whenever they
            have inputs of one data set in common; with `compare`, having none is an error.
        envelope: Draw the best of all sources at each radius too.
        limit: Draw what no additive noise of a run's sigma could exceed with the same bounds on p, where that is known.
        html: Write the page.
        confidence: Of the intervals over the inputs.

    Raises:
        CertifyError: If a source cannot be read, sources cannot be compared, or the folder cannot be written.
        UsageError: If an argument is out of range.
    """
    sources = read_sources([paths] if isinstance(paths, str | Path) else list(paths), names)
    folder = default_folder(sources) if out is None else Path(out)
    table = certified_table([source.certified for source in sources], radii, confidence=confidence)
    comparisons = _compare(table, compare)
    contents: dict[str, str | bytes] = {}
    limits = [impossible_radii(source) for source in sources] if limit else []
    limited = any(values is not None for values in limits)
    curve = curve_figure(table.sets, envelope=envelope, limits=limits, confidence=confidence)
    pictures: dict[str, str | bytes] = {f"certified_accuracy.{form}": render(curve, form) for form in ("png", "pdf")}
    if html:
        from certify.report.page import render_page

        contents["report.html"] = render_page(sources, table, comparisons, envelope=envelope, limits=limits)
    contents |= {"table.csv": table.to_csv(), "table.tex": table.to_latex(), **pictures}
    report = Report(
        tuple(sources),
        table,
        tuple(comparisons),
        tuple(folder / name for name in ("table.md", *sorted(contents))),
        envelope,
        limited,
    )
    make_folder(folder)
    for name, content in {"table.md": report.to_markdown(), **contents}.items():
        write_atomically(folder / name, content)
    return report


def default_folder(sources: Sequence[Source]) -> Path:
    """Return where a report goes when nobody says: the run folder if there is one run alone, else `certify-report`."""
    if len(sources) == 1 and sources[0].run is not None:
        return sources[0].path
    return Path(DEFAULT_FOLDER)


def _compare(table: CertifiedTable, required: bool) -> list[PairedComparison]:
    sets = table.sets
    if required and len(sets) < 2:
        raise UsageError("a comparison needs two sources or more, got one")
    if not required and len(sets) != 2:
        return []
    if not required and not _comparable(table):
        return []
    return [compare_paired(sets[0], other, table.radii, confidence=table.confidence) for other in sets[1:]]


def _comparable(table: CertifiedTable) -> bool:
    """Whether two sources that nobody asked to compare are over one data set, as far as can be told."""
    from certify.errors import CertifyError

    first, second = table.sets
    try:
        compare_paired(first, second, table.radii[:1], confidence=table.confidence)
    except CertifyError:
        return False
    return True
