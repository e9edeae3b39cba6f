"""Two runs on the same inputs: where one certifies and the other does not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from certify.errors import CertifyError
from certify.metrics import CONFIDENCE, CertifiedSet, Mean, check_radii, mean_with_interval
from certify.report.tables import check_norms, markdown_escape, markdown_table
from certify.report.wording import confidence_text, marked_name, mean_interval, number, p_text, signed


@dataclass(frozen=True)
class PairedRadius:
    """The inputs at one radius: certified by both, by one alone, by neither; and McNemar's exact two-sided p."""

    radius: float
    both: int
    first_only: int
    second_only: int
    neither: int
    p_value: float

    @property
    def difference(self) -> float:
        """Certified accuracy of the second minus that of the first, on the common inputs."""
        total = self.both + self.first_only + self.second_only + self.neither
        return (self.second_only - self.first_only) / total


@dataclass(frozen=True)
class PairedComparison:
    """The second set against the first, on the inputs that both have.

    Attributes:
        first: Name of the first set, marked where it is not whole.
        second: Name of the second.
        common: Inputs that both have; everything here is over these.
        left_out_first: Inputs that only the first has.
        left_out_second: Inputs that only the second has.
        at_radii: Certified accuracies, radius by radius.
        radius_difference: Mean of (second - first) of the radius, 0 where wrong or abstained, with its interval.
        p_value: Two-sided p of the paired t-test of that mean against 0; None where it is not defined.
        confidence: Of the interval.
    """

    first: str
    second: str
    common: int
    left_out_first: int
    left_out_second: int
    at_radii: tuple[PairedRadius, ...]
    radius_difference: Mean
    p_value: float | None
    confidence: float

    def header(self) -> list[str]:
        """Return the column heads of `cells`."""
        return ["r", "both", "first only", "second only", "neither", "difference (points)", "McNemar p"]

    def cells(self) -> list[list[str]]:
        """Return one line per radius."""
        return [
            [
                number(at.radius),
                *(str(count) for count in (at.both, at.first_only, at.second_only, at.neither)),
                f"{100 * at.difference:+.1f}",
                p_text(at.p_value),
            ]
            for at in self.at_radii
        ]

    def sentences(self) -> list[str]:
        """Say what is compared, what was left out, and what came out for the mean radius."""
        left_out = (
            f"; left out: {self.left_out_first} inputs of the first alone, {self.left_out_second} of the second alone"
        )
        left = left_out if self.left_out_first or self.left_out_second else ", all that either has"
        return [
            f"First: {self.first}. Second: {self.second}.",
            f"Over the {self.common} inputs that both have{left}.",
            f"Mean radius (0 where wrong or abstained), second minus first: {signed(self.radius_difference.value)}, "
            f"{confidence_text(self.confidence)} interval {mean_interval(self.radius_difference)}, paired t-test "
            f"p = {p_text(self.p_value)}.",
            "McNemar's exact test, two-sided, at each radius; the p-values are not corrected for the number of radii. "
            "They take the certificates as they are and are about these two sets, not about training again.",
        ]

    def to_markdown(self) -> str:
        """Return the comparison as Markdown."""
        lines = [markdown_escape(sentence) for sentence in self.sentences()]
        return "\n".join(["Comparison", "", *lines, "", *markdown_table(self.header(), self.cells()), ""])

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison, unrounded, as JSON-ready data."""
        at_radii = [{**asdict(at), "difference": at.difference} for at in self.at_radii]
        return {**asdict(self), "at_radii": at_radii}


def compare_paired(
    first: CertifiedSet, second: CertifiedSet, radii: Sequence[float | int], *, confidence: float = CONFIDENCE
) -> PairedComparison:
    """Compare two sets of certificates input by input.

    Args:
        first: The set to compare with.
        second: The set that is compared.
        radii: Radii for McNemar's test.
        confidence: Of the interval for the mean difference of the radii.

    Raises:
        CertifyError: If they have no input in common, or the same index means different inputs in them.
        UsageError: If their norms differ, or a radius is out of range.

    Reference: McNemar 1947; the exact form conditions on the inputs that only one of the two certifies.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    check_radii(radii)
    check_norms([first, second])
    _, at_first, at_second = np.intersect1d(first.idx, second.idx, assume_unique=True, return_indices=True)
    if len(at_first) == 0:
        raise CertifyError(
            f"{first.name} and {second.name} have no input in common: a paired comparison needs the same inputs of the "
            "same data set in both"
        )
    _check_same_inputs(first, second, first.label[at_first] == second.label[at_second])
    at_radii = []
    for radius in radii:
        a = first.correct[at_first] & (first.radius[at_first] >= radius)
        b = second.correct[at_second] & (second.radius[at_second] >= radius)
        both, only_a, only_b = (int(np.count_nonzero(mask)) for mask in (a & b, a & ~b, ~a & b))
        neither = len(a) - both - only_a - only_b
        p = float(mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue)
        at_radii.append(PairedRadius(float(radius), both, only_a, only_b, neither, p))
    difference = second.credited[at_second] - first.credited[at_first]
    return PairedComparison(
        first=marked_name(first),
        second=marked_name(second),
        common=len(at_first),
        left_out_first=len(first) - len(at_first),
        left_out_second=len(second) - len(at_second),
        at_radii=tuple(at_radii),
        radius_difference=mean_with_interval(difference, confidence=confidence),
        p_value=_paired_t(difference),
        confidence=confidence,
    )


def _check_same_inputs(first: CertifiedSet, second: CertifiedSet, same_label: Bool[ndarray, " common"]) -> None:
    a, b = first.data_digest, second.data_digest
    if a is not None and b is not None and a != b:
        raise CertifyError(
            f"{first.name} and {second.name} are over different data sets (digests {a[:12]} and {b[:12]}): the same "
            "index means different inputs"
        )
    if not bool(np.all(same_label)):
        raise CertifyError(
            f"{first.name} and {second.name} give different labels to the same index ({int(np.sum(~same_label))} "
            "times): they are not over the same data set"
        )


def _paired_t(difference: Float64[ndarray, " common"]) -> float | None:
    from statsmodels.stats.weightstats import DescrStatsW

    if len(difference) < 2:
        return None
    if np.ptp(difference) == 0:
        # Without variance there is no t statistic; a difference of exactly 0 everywhere speaks against nothing.
        return 1.0 if difference[0] == 0 else None
    return float(DescrStatsW(difference).ttest_mean(0.0)[1])
