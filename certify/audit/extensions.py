"""What a continued run may have changed: more of what decides nothing that was decided before.

`settings.extended_from` lists the estimators that a run had, the first one first. Radii chosen freely after votes were seen,
a larger cap or another level would spend alpha twice; a larger futility would have ended inputs before looks that are
recorded.
"""

from itertools import pairwise
from typing import Any

from certify.audit import fields
from certify.audit.findings import Findings
from certify.audit.spec import RunSpec

_WHERE = "run.json"
_GROWS: dict[str, tuple[str, ...]] = {
    "sequential": ("thresholds", "futility", "boundaries", "refutations"),
    "anytime": ("thresholds", "budget"),
}
"""Estimator -> what a continued run may have changed; estimators that are not here cannot be continued."""

_CLOSE = 1e-9


def check_extensions(spec: RunSpec, found: Findings) -> None:
    """Check every step from the estimator that a run was begun with to the one that it has."""
    if not spec.extended_from:
        return
    if spec.estimator_name not in _GROWS:
        found.add(
            None,
            "extended_from",
            list(spec.extended_from),
            f"nothing: {spec.estimator_name} is never continued",
            _WHERE,
        )
        return
    for before, after in pairwise((*spec.extended_from, spec.estimator)):
        wrong = _wrong(before, after, _GROWS[spec.estimator_name])
        if wrong is not None:
            found.add(None, "extended_from", before, f"a run that may go on as {after!r}, but {wrong}", _WHERE)


def _wrong(before: Any, after: Any, grows: tuple[str, ...]) -> str | None:
    """Return why `after` may not continue `before`, or None."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return "there is no estimator"
    fixed = sorted({*before, *after} - set(grows))
    changed = [key for key in fixed if before.get(key, "nothing") != after.get(key, "nothing")]
    if changed:
        return f"{', '.join(changed)} may not change"
    if "futility" in grows:
        old, new = fields.number(before.get("futility")), fields.number(after.get("futility"))
        if old is None or new is None or new > old:
            return f"futility may only fall, and is {after.get('futility')!r} after {before.get('futility')!r}"
    if "budget" in grows and after.get("budget") is not None:
        old, new = fields.number(before.get("budget")), fields.number(after.get("budget"))
        if old is None or new is None or new < old:
            return f"the budget may only grow, and is {after.get('budget')!r} after {before.get('budget')!r}"
    return _wrong_radii(before.get("thresholds"), after.get("thresholds"))


def _wrong_radii(before: Any, after: Any) -> str | None:
    if not isinstance(before, list) or not isinstance(after, list) or not before or after[: len(before)] != before:
        return "its radii must stay"
    if len(after) == len(before):
        return None
    radii = [fields.number((fields.mapping(entry) or {}).get("radius")) for entry in after]
    known = [radius for radius in radii if radius is not None]
    if len(before) < 2 or len(known) < len(radii):
        return "further radii must continue a grid of at least two"
    step = known[1] - known[0]
    wanted = [known[0] + k * step for k in range(len(known))]
    if any(abs(radius - right) > _CLOSE * abs(right) for radius, right in zip(known, wanted, strict=True)):
        return "further radii must be at the distance of the others"
    return None
