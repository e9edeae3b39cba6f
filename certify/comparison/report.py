"""The comparison itself: one line per input and classifier, and a summary in which every input counts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certify.comparison.sides import Point, Side
from certify.files import make_folder, write_atomically
from certify.summary import radius_grid
from certify.verification.exports import COLUMNS, csv_text

CSV, JSON = "compare.csv", "compare.json"

MORE_COLUMNS = ("run", "alpha_all", "sigma", "n0", "n", "estimator", "cap")
"""n0 and n are empty where inputs get as many votes as they need, `cap` at most."""


def comparison_rows(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Return the lines, by input and then by side."""
    indices = sorted(sides[0].points)
    return [_line(side, index, side.points[index]) for index in indices for side in sides]


def _line(side: Side, index: int, point: Point) -> dict[str, Any]:
    attack = point.attack_radius
    return {
        "image": index,
        "label": point.label,
        "model_sha": side.model_digest,
        "classifier": side.classifier,
        "pred": point.predict,
        "method": point.method,
        "guarantee": side.guarantee,
        "alpha": side.alpha,
        "norm": str(side.norm),
        "clip": side.clip,
        "radius": point.radius,
        "margin": point.margin,
        "converted_from": side.converted_from,
        "attack_radius": attack,
        "attack": point.attack,
        "gap": None if attack is None else attack - point.radius,
        "status": point.status,
        "seconds": point.seconds,
        "device": point.device,
        "seed": side.settings.get("seed"),
        "certificate_path": point.certificate_path,
        "rests_on": {"f": "certificate", "g": "votes"}[side.classifier],
        "run": str(side.folder),
        "alpha_all": side.alpha_all,
        "sigma": side.settings.get("sigma"),
        "n0": side.settings.get("n0"),
        "n": side.settings.get("n"),
        "estimator": side.settings.get("estimator"),
        "cap": side.settings.get("cap"),
    }


def summarize_side(side: Side, radii: Sequence[float]) -> dict[str, Any]:
    """Return the figures of one side over all inputs: wrong, abstained, undecided and refuted count with radius 0.

    "undecided" and "refuted" are None where the run decided no radii.
    """
    points, count = list(side.points.values()), len(side.points)
    gaps = [p.attack_radius - p.radius for p in points if p.attack_radius is not None and p.predict == p.label]
    return {
        "run": str(side.folder),
        "name": side.name,
        "classifier": side.classifier,
        "guarantee": side.guarantee,
        "alpha_per_input": side.alpha,
        "alpha_over_all_inputs": side.alpha_all,
        "norm": str(side.norm),
        "clip": side.clip,
        "converted_from": side.converted_from,
        "model_sha": side.model_digest,
        "inputs": count,
        "accuracy": sum(p.predict == p.label for p in points) / count,
        "abstained": sum(p.status == "abstain" for p in points) / count,
        **{
            name: sum(p.status == name for p in points) / count if side.decides else None
            for name in ("undecided", "refuted")
        },
        "mean_radius": sum(p.radius for p in points) / count,
        "certified_accuracy": {f"{r:g}": sum(_holds(p, r) for p in points) / count for r in radii},
        "under_attack": {f"{r:g}": sum(_stands(p, r) for p in points) / count for r in radii}
        if any(p.attack is not None for p in points)
        else None,
        "mean_gap": sum(gaps) / len(gaps) if gaps else None,
        "inputs_with_gap": len(gaps),
        "seconds_per_input": sum(p.seconds for p in points) / count,
        **{key: value for key, value in side.settings.items() if key not in ("seed",)},
        "seed": side.settings.get("seed"),
    }


def _holds(point: Point, radius: float) -> bool:
    """Certified at r: the right class and a radius of at least r; at 0, the right class."""
    return point.predict == point.label and point.radius >= radius


def _stands(point: Point, radius: float) -> bool:
    """Not broken by the attack within r: right, and no counterexample as near as r is known."""
    return point.predict == point.label and (point.attack_radius is None or point.attack_radius > radius)


def summarize(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the summary of a comparison, JSON-ready."""
    largest = max((p.radius for side in sides for p in side.points.values()), default=0.0)
    radii = radius_grid(largest)
    first, second = sides[0], sides[1]
    pairs = [(first.points[i].radius, second.points[i].radius) for i in sorted(first.points)]
    return {
        "sides": [summarize_side(side, radii) for side in sides],
        "larger_radius": {
            "first": sum(a > b for a, b in pairs),
            "second": sum(b > a for a, b in pairs),
            "equal": sum(a == b for a, b in pairs),
        },
        "same_prediction": sum(first.points[i].predict == second.points[i].predict for i in first.points),
        "same_weights": len({side.model_digest for side in sides}) == 1,
        "notes": notes_of(sides),
        "alarms": alarms_of(sides),
    }


def notes_of(sides: Sequence[Side]) -> list[str]:
    """Return what every reader of the comparison has to know."""
    notes = [note for side in sides for note in side.notes]
    if {side.classifier for side in sides} == {"f", "g"}:
        notes.append("f and g are two classifiers: f is the network, g(x) the class that most noisy copies of x get")
    clips = {side.clip for side in sides}
    if len(clips) > 1:
        notes.append(
            "a clipped ball is a smaller set than a ball: radii of "
            f"{', '.join(side.folder.name for side in sides if side.clip != 'no clip')} claim less than the others"
        )
    for side in sides:
        if side.converted_from is not None:
            notes.append(f"{side.folder.name}: radii are converted from {side.converted_from}")
        if side.alpha > 0:
            count = len(side.points)
            notes.append(
                f"{side.folder.name}: each certificate may fail with probability {side.alpha:g}, any of {count} with at "
                f"most {side.alpha_all:g}; for {side.alpha:g} over all, run with alpha {side.alpha / count:g}"
            )
    return list(dict.fromkeys(notes))


def alarms_of(sides: Sequence[Side]) -> list[str]:
    """Return certificates that an attack contradicts: a defect wherever one shows up."""
    return [
        f"{side.folder.name}: input {index} is certified within {point.radius!r} and broken at {point.attack_radius!r}"
        for side in sides
        for index, point in sorted(side.points.items())
        if point.status == "certified" and point.attack_radius is not None and point.attack_radius <= point.radius
    ]


def write_comparison(folder: Path, sides: Sequence[Side], summary: dict[str, Any]) -> None:
    """Write compare.csv and compare.json."""
    make_folder(folder)
    lines = comparison_rows(sides)
    write_atomically(folder / CSV, csv_text((*COLUMNS, *MORE_COLUMNS), lines))
    content = {"summary": summary, "rows": lines}
    write_atomically(folder / JSON, json.dumps(content, indent=2, allow_nan=False) + "\n")
