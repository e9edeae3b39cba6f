"""The words of a certificate, written once more: what it proves, and what its proof leaves out, by the kind of run.

A reader decides by these words how far to trust a radius, so that each must be the text that goes with the run's noise.
"""

import math
from fractions import Fraction

from certify.audit import fields
from certify.audit.noise import FLOATING, INTEGER
from certify.audit.spec import RunSpec

GUARANTEE = (
    "with probability at least 1 - alpha over the noise, g(x + v) = prediction for every v with ||v|| <= radius, where "
    "g(x) = argmax_c P(f(x + z) = c), z follows the law, and f is the base classifier at the recorded precision"
)

_FLOATING = (
    "noise is drawn and added in floating point: the rounding of x + noise, the finite resolution of the generator and "
    "the truncation of its tails are not covered by the proof"
)

_LEAD = 24
"""Characters that are shown before two texts part."""


def covers_text(spec: RunSpec) -> str | None:
    """Return what every certificate of a run has to say that it leaves out; None where run.json does not tell.

    It depends on the noise, and on whether radii are converted; estimator, model and where votes come from have no part.
    """
    if spec.noise_version == FLOATING:
        text = _FLOATING
    elif spec.noise_version == INTEGER and (grid := fields.integer(spec.noise.get("grid"))) is not None:
        text = (
            f"f is the base classifier after rounding to multiples of 1/{grid}, and the input is exactly on that grid; "
            "noise is drawn in whole steps, with the law of the theorem up to a total variation of "
            f"{two_digits_up(spec.slack)} per copy, which the bounds allow for; it is assumed that the words of "
            "Philox4x64-10 under the recorded key are independent and uniform"
        )
    else:
        return None  # the noise itself is reported
    if spec.convert_from is not None:
        text += (
            f"; the {spec.norm} radius is converted from {spec.convert_from}, by the inclusion of one ball in the other"
        )
    return text


def two_digits_up(value: float) -> str:
    """Return a decimal number of two digits, the smallest at or above `value`; "0.0e+1" for zero."""
    if value == 0.0:
        return "0.0e+1"
    exact, exponent = Fraction(value), 0
    while exact >= 10:
        exact, exponent = exact / 10, exponent + 1
    while exact < 1:
        exact, exponent = exact * 10, exponent - 1
    digits = math.ceil(10 * exact)
    if digits == 100:
        digits, exponent = 10, exponent + 1
    tens, ones = divmod(digits, 10)
    return f"{tens}.{ones}e{exponent:+d}"


def from_parting(recorded: str, expected: str) -> tuple[str, str]:
    """Return two texts from shortly before their first difference on, so that a table which cuts them still shows it."""
    same = next(
        (k for k, (a, b) in enumerate(zip(recorded, expected, strict=False)) if a != b),
        min(len(recorded), len(expected)),
    )
    if same <= 2 * _LEAD:
        return recorded, expected
    return "... " + recorded[same - _LEAD :], "... " + expected[same - _LEAD :]
