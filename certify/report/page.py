"""`report.html`: one file that needs nothing else, no network and no script, and stays under a megabyte."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jaxtyping import Float64
from numpy import ndarray

from certify import __version__
from certify.metrics import CertifiedSet
from certify.report.limits import LIMIT_CAVEAT
from certify.report.paired import PairedComparison
from certify.report.plots import curve_figure, outcome_bars, radius_histogram, render, unproved_counts
from certify.report.sources import Source
from certify.report.strips import Strips, make_strips
from certify.report.tables import CertifiedTable, TableRow
from certify.report.wording import (
    ENVELOPE_CAVEAT,
    alpha_sentences,
    confidence_text,
    grid_sentences,
    inputs_text,
    interval_caption,
    invalid_sentences,
    marked_name,
    mean_interval,
    mean_text,
    norm_text,
    number,
    over_sentence,
    over_text,
    percent,
    percent_bound,
    percent_interval,
    table_caption,
)
from certify.rundir import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Limits = Sequence[Float64[ndarray, " inputs"] | None]

LARGEST_BYTES = 1_000_000
STRIPS = 12
"""Inputs shown, over all runs of a report."""

_LARGEST_SVG = 150_000
_LARGEST_PLAIN_DATA = 300_000
_SOURCES_WITH_HISTOGRAMS = 8


@dataclass(frozen=True)
class InlineFigure:
    """A picture as a data URI, with the words that stand for it where it cannot be seen."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Embedded:
    """The certificates of one source inside the page: as text, or packed where that would be too long."""

    name: str
    text: str | None
    packed: str | None


def render_page(
    sources: Sequence[Source],
    table: CertifiedTable,
    comparisons: Sequence[PairedComparison],
    *,
    envelope: bool = False,
    limits: Limits = (),
    strips: int = STRIPS,
) -> str:
    """Return the report as HTML.

    Every text that comes from a file is escaped. Where the page would exceed `LARGEST_BYTES` it gives up, in this
    order: the embedded certificates as text, the embedded certificates, half of the strips, all strips; and says so.
    """
    from jinja2 import Environment, StrictUndefined

    text = files("certify.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(text)
    context = _context(sources, table, comparisons, envelope, limits)
    shown = {source.path: make_strips(source.run, _per_run(strips, sources)) for source in sources if source.run}
    page = ""
    for data, kept in (("text", 1.0), ("packed", 1.0), ("none", 1.0), ("none", 0.5), ("none", 0.0)):
        page = template.render(
            **context,
            embedded=_embed(sources, data),
            strips=[(s.certified.name, _fewer(shown[s.path], kept)) for s in sources if s.path in shown],
        )
        if len(page.encode()) < LARGEST_BYTES:
            break
    return page


def _context(
    sources: Sequence[Source],
    table: CertifiedTable,
    comparisons: Sequence[PairedComparison],
    envelope: bool,
    limits: Limits,
) -> dict[str, Any]:
    sets = table.sets
    return {
        "version": __version__,
        "names": [certified.name for certified in sets],
        "notices": [marked_name(certified) for certified in sets if certified.notice],
        "invalid": invalid_sentences(sets),
        "caption": table_caption(sets),
        "interval_caption": interval_caption(table.confidence),
        "confidence": confidence_text(table.confidence),
        "radii": [number(r) for r in table.radii],
        "rows": [_row(row, table) for row in table.rows],
        "reasons": ["abstain %", *(["undecided %", "refuted %"] if table.three_valued else [])],
        "grids": grid_sentences(sets),
        "population": [_population(row) for row in table.rows if row.population is not None],
        "alpha": alpha_sentences(sets),
        "claims": _claims(sources),
        "services": [
            {"name": source.certified.name, "sentences": source.service.sentences()}
            for source in sources
            if source.service is not None
        ],
        "figures": _figures(table, envelope, limits),
        "envelope": ENVELOPE_CAVEAT if envelope else "",
        "comparisons": [{"sentences": c.sentences(), "header": c.header(), "rows": c.cells()} for c in comparisons],
        "settings": [(source.certified.name, _settings(source)) for source in sources],
        "norm": norm_text(sets),
    }


def _row(row: TableRow, table: CertifiedTable) -> dict[str, Any]:
    certified = row.certified
    # ACR and abstention before the radii, of which there may be more than a screen is wide.
    cells = [(mean_text(row.acr), mean_interval(row.acr))]
    cells += [(percent(share), percent_interval(share)) for share in table.outcomes(row)]
    cells += [(percent(share), percent_interval(share)) for share in row.accuracies]
    return {"name": certified.name, "notice": certified.notice, "inputs": inputs_text(certified), "cells": cells}


def _population(row: TableRow) -> dict[str, Any]:
    return {"name": marked_name(row.certified), "cells": [percent_bound(bound) for bound in row.population or ()]}


def _claims(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The exact statements of the certificates and what they leave out, each with the sources that make it."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for source in sources:
        if source.run is None:
            statement = (
                "A published log states what its publication says; the file holds no evidence from which its radii "
                "could be derived again."
            )
            grouped.setdefault((statement, ""), []).append(f"{source.certified.name}: {len(source.certified)} inputs.")
            continue
        certificates = [row.certificate for row in source.run.rows]
        guarantee = " / ".join(sorted({certificate.guarantee for certificate in certificates}))
        covers = " / ".join(sorted({certificate.covers for certificate in certificates}))
        statement = f"For each input x by itself for which a class is proved: {guarantee}."
        slack = max(certificate.probability_slack for certificate in certificates)
        if slack > 0.0:
            statement += (
                f" The drawn noise may differ from the law by {slack:.2g} in probability; the bounds allow for it."
            )
        grouped.setdefault((statement, covers), []).append(_claim_details(source, source.run))
    return [{"statement": s, "covers": covers, "details": details} for (s, covers), details in grouped.items()]


def _claim_details(source: Source, run: Run) -> str:
    """What the letters of the statement stand for in one run."""
    certified, identity = source.certified, run.identity
    converted = f", converted from {identity['convert_from']}" if identity.get("convert_from") else ""
    if source.service is None:
        classifier = (
            f"{run.config['settings'].get('model')} at precision {identity['precision']}, model digest "
            f"{str(identity['model_digest'])[:16]}"
        )
    else:
        classifier = f"{source.service.classifier}, digest of this description {str(identity['model_digest'])[:16]}"
    return (
        f"{marked_name(certified)}: {over_text(certified)} of {run.config['settings']['data']} ({identity['split']}); "
        f"alpha = {certified.alpha:g}; norm {certified.norm}{converted}; law {certified.law}; f = {classifier}; "
        f"{_votes_text(source.certified)}."
    )


def _votes_text(certified: CertifiedSet) -> str:
    if certified.grid is None and certified.n is not None:
        return f"n0 = {certified.n0} selection votes, n = {certified.n} estimation votes"
    most = "no cap" if certified.cap is None else f"at most {certified.cap} votes per input"
    return f"estimator {certified.estimator}, {most}"


def _settings(source: Source) -> list[tuple[str, str]]:
    """What the run was, line by line; the long list of indices is left to `run.json`."""
    certified, run = source.certified, source.run
    lines = [
        ("source", str(source.path)),
        ("inputs", str(len(certified))),
        ("planned", "not recorded" if certified.planned is None else str(certified.planned)),
        ("time", f"{certified.seconds.sum():.1f} s, {certified.seconds.mean():.3g} s per input"),
    ]
    if run is None:
        return lines
    lines.append(("configuration", f"SHA-256 {source.configuration_digest()}"))
    settings = {key: value for key, value in run.config["settings"].items() if key not in ("indices", "class_names")}
    settings["command"] = " ".join(map(str, settings.get("command") or []))
    for part, values in (
        ("identity", run.identity),
        ("settings", settings),
        ("environment", run.config["environment"]),
    ):
        lines += [(f"{part}.{key}", value) for key, value in _flatten(values)]
    return lines


def _flatten(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(values, dict) and values:
        return [
            line for key, value in values.items() for line in _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    text = "-" if values is None else ", ".join(map(str, values)) if isinstance(values, list) else str(values)
    return [(prefix, text if len(text) <= 400 else f"{text[:399]}…")]


def _figures(table: CertifiedTable, envelope: bool, limits: Limits) -> list[InlineFigure]:
    sets = table.sets
    curve = "; ".join(
        f"{marked_name(row.certified)}: "
        + ", ".join(f"{percent(s)} % at r = {number(r)}" for r, s in zip(table.radii, row.accuracies, strict=True))
        for row in table.rows
    )
    outcomes = "; ".join(
        f"{marked_name(row.certified)}: {row.certified.correct.sum()} right, "
        f"{(~row.certified.correct & ~row.certified.unproved).sum()} wrong, "
        f"{', '.join(f'{count} {name}' for name, count in unproved_counts(row.certified).items())} of {len(row.certified)}"
        for row in table.rows
    )
    figures = [
        _inline(
            curve_figure(sets, envelope=envelope, limits=limits, confidence=table.confidence),
            f"Certified accuracy falling with the radius. {curve}.",
            "Certified accuracy against radius: it falls exactly at the certified radii, and ends where none is left. "
            f"The inputs: {over_sentence(sets)}."
            + (f" {LIMIT_CAVEAT}" if any(limit is not None for limit in limits) else ""),
        ),
        _inline(
            outcome_bars(sets),
            f"Outcomes. {outcomes}.",
            "Right and wrong predictions of the smoothed classifier, and inputs for which no class is proved.",
        ),
    ]
    if len(sets) <= _SOURCES_WITH_HISTOGRAMS:
        caption = "Certified radii of right and of wrong predictions. A wrong prediction can have a radius too."
        figures.append(_inline(radius_histogram(sets), f"Histograms of certified radii. {outcomes}.", caption))
    return figures


def _inline(figure: "Figure", alt: str, caption: str) -> InlineFigure:
    kind, data = "svg+xml", render(figure, "svg")
    if len(data) > _LARGEST_SVG:
        kind, data = "png", render(figure, "png", dpi=130)
    return InlineFigure(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", alt, caption)


def _embed(sources: Sequence[Source], form: str) -> list[Embedded]:
    """The certificates as TSV, written anew from the numbers, so that no text of a log reaches the page unread."""
    texts = {source.certified.name: source.to_tsv() for source in sources}
    if form == "text" and sum(map(len, texts.values())) <= _LARGEST_PLAIN_DATA:
        return [Embedded(name, text, None) for name, text in texts.items()]
    if form == "none":
        return [Embedded(name, None, None) for name in texts]
    packed = {name: base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode() for name, text in texts.items()}
    return [Embedded(name, None, f"data:application/gzip;base64,{data}") for name, data in packed.items()]


def _per_run(strips: int, sources: Sequence[Source]) -> int:
    return max(1, strips // max(1, sum(source.run is not None for source in sources))) if strips else 0


def _fewer(strips: Strips, kept: float) -> Strips:
    count = int(len(strips.strips) * kept)
    if count == len(strips.strips):
        return strips
    return Strips(strips.strips[:count], f"{strips.note} Some were left out to keep this file under 1 MB.")
