"""Numbers and sentences as reports show them: how they are rounded, and what they claim.

Rounding: one input's radius is a claim and goes down. Shares and means are statistics and go to the nearest digit, as
the field prints them (an ACR of .42888 is published as .4289), except that a share is never shown as 100.0 unless it is
all. Interval ends go outwards. Files for machines (CSV, JSON) hold the unrounded numbers.
"""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from certify.metrics import CertifiedSet, Mean, Share

ENVELOPE_CAVEAT = (
    "The envelope is the best of several smoothed classifiers at each radius: it takes all of these runs, and is not "
    "the certified accuracy of any one classifier. Choosing the noise level per input would spend alpha once per level."
)

LOG_CAVEAT = (
    "alpha is not recorded, because a log holds neither votes nor settings (nor how many inputs were planned); its "
    "columns are taken as they are"
)


_INVALID = "non-finite scores or labels outside the classes"
_SERVICE_INVALID = "no label, labels outside the classes, or answers about void inputs"


def percent(share: Share) -> str:
    """Return a share in percent, to the nearest tenth from the exact fraction; 100.0 only if it is all."""
    return percent_of(share.count, share.total)


def percent_of(count: int, total: int) -> str:
    """Return count / total in percent; see `percent`."""
    tenths = (Decimal(1000 * count) / Decimal(total)).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    return "100.0" if count == total else str(min(tenths, Decimal(999)) / 10 + Decimal("0.0"))


def percent_interval(share: Share) -> str:
    """Return the interval of a share in percent, rounded outwards."""
    return f"{_percent(share.low, ROUND_FLOOR)}–{_percent(share.high, ROUND_CEILING)}"


def percent_bound(value: float) -> str:
    """Return a lower bound in percent, rounded down."""
    return _percent(value, ROUND_FLOOR)


def mean_text(mean: Mean) -> str:
    """Return a mean to the nearest fourth digit."""
    return _fixed(mean.value, 4, ROUND_HALF_EVEN)


def mean_interval(mean: Mean) -> str:
    """Return the interval of a mean to four digits, rounded outwards; "-" where there is none."""
    if mean.low is None or mean.high is None:
        return "-"
    low, high = _fixed(mean.low, 4, ROUND_FLOOR), _fixed(mean.high, 4, ROUND_CEILING)
    return f"{low}–{high}" if mean.low >= 0 else f"{low} to {high}"


def signed(value: float) -> str:
    """Return a difference to the nearest fourth digit, with its sign."""
    return f"{value:+.4f}"


def p_text(p_value: float | None) -> str:
    """Return a p-value in two significant digits; "-" where there is none."""
    return "-" if p_value is None else f"{p_value:.2g}"


def number(value: float) -> str:
    """Return a radius or parameter that the user chose, in its shortest text."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def confidence_text(confidence: float) -> str:
    """Return a confidence in percent."""
    return f"{100 * confidence:g} %"


def marked_name(certified: CertifiedSet) -> str:
    """Return the name, with the notice where the set is not whole: what every table shows."""
    return certified.name if certified.notice is None else f"{certified.name} ({certified.notice})"


def alpha_sentences(sets: Sequence[CertifiedSet]) -> list[str]:
    """Say how likely certificates are to be false, per input and over all inputs: a sentence per run, one for logs."""
    sentences = [_alpha_sentence(certified, certified.alpha) for certified in sets if certified.alpha is not None]
    logs = [certified.name for certified in sets if certified.alpha is None]
    return [*sentences, f"{', '.join(logs)}: {LOG_CAVEAT}."] if logs else sentences


def _alpha_sentence(certified: CertifiedSet, alpha: float) -> str:
    inputs = len(certified)
    expected = (Decimal(repr(alpha)) * inputs).normalize()
    union = f", and the probability that any is false is at most {expected:f}" if expected < 1 else ""
    return (
        f"{certified.name}: per input, a certificate is false with probability at most alpha = {alpha:g}, over the "
        f"noise; over these {inputs} inputs, at most N alpha = {expected:f} false ones are expected{union}."
    )


def inputs_text(certified: CertifiedSet) -> str:
    """Return how many inputs the numbers are over, and of how many."""
    if certified.planned is not None and len(certified) < certified.planned:
        return f"{len(certified)} of {certified.planned}"
    return str(len(certified))


def invalid_sentences(sets: Sequence[CertifiedSet]) -> list[str]:
    """Say how many votes were invalid: a sentence per run that has any, which is a reason to look at its model."""
    return [
        f"{certified.name}: {certified.invalid_votes:,} invalid {'vote' if certified.invalid_votes == 1 else 'votes'} "
        f"({_SERVICE_INVALID if certified.service else _INVALID}), on {certified.invalid_inputs:,} of {len(certified):,} "
        "inputs; each counts against every class."
        for certified in sets
        if certified.invalid_votes
    ]


def grid_sentences(sets: Sequence[CertifiedSet]) -> list[str]:
    """Say of runs that decided a grid of radii what that means for ACR and for inputs without a class."""
    sentences = []
    for certified in sets:
        if certified.grid is None:
            continue
        radii = ", ".join(number(radius) for radius in certified.grid)
        votes = ""
        if certified.votes is not None:
            each = certified.votes / len(certified)
            saved = "" if certified.cap is None else f", {100 * (1 - each / certified.cap):.1f} % fewer than the cap"
            votes = f" {certified.votes:,} votes, {each:,.0f} per input{saved}."
        sentences.append(
            f"{certified.name}: the radii {radii} were decided one by one ({certified.estimator}); each input counts with "
            "the largest that was certified, so that ACR is a lower Riemann sum. Undecided: the votes that were allowed did "
            "not decide the smallest radius; refuted: the tested class was shown not to reach it; neither is abstaining, "
            f"and both count as not certified.{votes}"
        )
    return sentences


def over_text(certified: CertifiedSet) -> str:
    """Return which inputs the numbers are over: all of a data set, or a selection and which one."""
    count = len(certified)
    if certified.data_size is None:
        where = "the log" if certified.kind == "log" else "the run"
        return f"the {count} inputs in {where} (not recorded: how many the data set has)"
    kind = {"test": "test ", "train": "training "}.get(certified.split or "", "")
    remark = certified.selection or ""
    if certified.planned is not None and count < certified.planned:
        remark = f"so far, of {certified.planned} planned{remark and f': {remark}'}"
    if count == certified.data_size:
        return f"all {count} {kind}inputs"
    return f"{count} of the {certified.data_size} {kind}inputs" + (f" ({remark})" if remark else "")


def over_sentence(sets: Sequence[CertifiedSet]) -> str:
    """Return `over_text` of all sets, said once for those that share it."""
    grouped: dict[str, list[str]] = {}
    for certified in sets:
        grouped.setdefault(over_text(certified), []).append(certified.name)
    if len(grouped) == 1:
        return next(iter(grouped))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in grouped.items())


def selection_text(indices: Sequence[int], data_size: int, shard: tuple[int, int] | None = None) -> str | None:
    """Say which of the inputs 0..data_size - 1 the ascending `indices` are; None for all of them."""
    if len(indices) == data_size:
        return None
    if shard is not None:
        return f"shard {shard[0]} of {shard[1]}"
    if list(indices) == list(range(len(indices))):
        return f"the first {len(indices)}" if len(indices) > 1 else "the first"
    step = indices[1] - indices[0] if len(indices) > 1 else 0
    # Only if it goes on to both ends: every 20th of a part is more than "every 20th".
    if step > 1 and indices[0] < step and list(indices) == list(range(indices[0], data_size, step)):
        return f"every {_ordinal(step)}"
    return "the selection asked for"


def norm_text(sets: Sequence[CertifiedSet]) -> str:
    """Return the norm that the sets share, or "" where none records one."""
    return next((certified.norm for certified in sets if certified.norm is not None), "")


def table_caption(sets: Sequence[CertifiedSet]) -> str:
    """Say what the cells of the table are."""
    norm = norm_text(sets)
    radius = f"{norm} radius" if norm else "radius (the logs name no norm)"
    return (
        f"Certified accuracy in % at r: the share of inputs with the right class and a certified {radius} of at least "
        f"r (input units). An input that is {_reasons(sets)} counts as not certified. ACR is the mean radius over the "
        f"same inputs, 0 where {_reasons(sets)}. The inputs: {over_sentence(sets)}."
    )


def _reasons(sets: Sequence[CertifiedSet]) -> str:
    """Why an input may not count: undecided and refuted only where that can be."""
    graded = any(c.grid is not None or bool((c.undecided | c.refuted).any()) for c in sets)
    return "wrong, abstained, undecided or refuted" if graded else "wrong or abstained"


def interval_caption(confidence: float) -> str:
    """Say what the intervals are."""
    return (
        f"{confidence_text(confidence)} confidence intervals over the inputs, each by itself: exact (Clopper-Pearson) "
        "for shares, Student's t for ACR. They take the certificates as true; alpha is stated apart."
    )


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _percent(value: float, rounding: str) -> str:
    return str((Decimal(value) * 100).quantize(Decimal("0.1"), rounding=rounding))


def _fixed(value: float, digits: int, rounding: str) -> str:
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=rounding))
