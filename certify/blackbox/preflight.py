"""Clean images that a service is asked about before any votes: is it worth to ask it for thousands?

A label mapping in the wrong order, red and blue exchanged or pixels on another scale cost as many votes as a good
service and certify nothing. A few clean images show that first. They go out exactly as noisy ones do (denoiser, clip,
8 bits, PNG), their answers are in the journal under a key of their own, and none of them is ever a vote.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from certify.blackbox.labels import LabelMap
from certify.blackbox.spec import spread
from certify.blackbox.spending import AUTOMATIC_CANARIES, extras_of, too_small
from certify.blackbox.stored import StoredAnswer
from certify.errors import CertifyError
from certify.run_plan import RunPlan

if TYPE_CHECKING:
    from certify.blackbox.source import ServiceVotes

PREFLIGHT_KEY = -4
"""Key under which these answers are kept, the sample being the number of the input; keys of inputs are not negative."""

MOST = 64
"""Images at most."""

ENOUGH = 20
"""Images from which on a bad result stops the run: with fewer, chance alone might stop a good service."""

LEVEL = 0.05
"""Level of the permutation test."""

_PERMUTATIONS = 9_999

_INSIST = "--preflight asks for it all the same"


class PreflightError(CertifyError):
    """The service's answers about clean images have nothing to do with their labels."""


@dataclass(frozen=True)
class Wanted:
    """How many clean images a new run will ask about.

    Attributes:
        images: Their number; 0 for none.
        why_not: Why there are none, for people; "" where there are some, or nobody has to be told.
    """

    images: int
    why_not: str = ""


def wanted(plan: RunPlan) -> Wanted:
    """Return how many clean images a run on a service asks about, before anything else was asked.

    By default they are asked about where that costs nothing, and where a budget was named that has room for them beside the
    whole run: nobody's money is spent on what was not allowed for. `--preflight` asks wherever the budget has room for them
    beside one input, `--no-preflight` never.

    Args:
        plan: With a service.

    Raises:
        BudgetError: If they were asked for, and the budget has no room for them beside one input.
    """
    options = plan.service.options
    asked, limit, most = options.preflight, options.budget.queries, plan.votes_per_input
    if options.from_record is not None or asked is False:
        return Wanted(0)
    images = min(MOST, len(plan.indices))
    if limit is None or most is None:
        if asked is None and options.budget.paid:
            return Wanted(0, f"it costs money, and no budget was named (--max-queries or --max-cost); {_INSIST}")
        return Wanted(images)
    canaries = plan.service.canaries
    if canaries is None:
        # Should it report no version, it is watched; whoever insists on clean images may lose that to the budget.
        watched = not asked and not plan.service.shows_version
        canaries = min(AUTOMATIC_CANARIES, len(plan.data)) if watched else 0
    extras = extras_of(plan, canaries)
    if asked is None and options.budget.paid:
        inputs = len(plan.indices)
        if inputs * most + extras.queries(inputs, inputs * most) + images > limit:
            return Wanted(0, f"the budget has no room for {images} clean images beside the whole run; {_INSIST}")
        return Wanted(images)
    beside = extras.queries(1, most) + images
    if most + beside <= limit:
        return Wanted(images)
    if asked:
        raise too_small(plan, limit, beside)
    return Wanted(0, f"the budget has no room for {images} clean images beside an input")


@dataclass(frozen=True)
class Findings:
    """What the answers about clean images say.

    Attributes:
        images: How many there are.
        right: How many of them have the label of the data.
        no_class: How many have no label of the mapping: refusals, unreadable answers, unknown labels.
        p_value: Of the permutation test, see `judge`.
        same: Class that all of them got; None where they differ, or there are fewer than two.
        decisive: Whether the test could have told a service that is always right from chance: not where nearly all images
            have one and the same label.
    """

    images: int
    right: int
    no_class: int
    p_value: float
    same: int | None
    decisive: bool

    @property
    def pointless(self) -> bool:
        """Whether certification is pointless, as far as these images show: then the run stops."""
        return self.images >= ENOUGH and self.decisive and self.doubtful

    @property
    def doubtful(self) -> bool:
        """Whether no more than half are right, and the answers might as well be independent of the labels.

        Both, because smoothing lives on majorities: a service that is right more often than not can be certified, even where
        few images or two classes leave its answers within reach of chance.
        """
        return 2 * self.right <= self.images and self.p_value > LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready data."""
        return {"images": self.images, "right": self.right, "no_class": self.no_class, "p_value": self.p_value}

    def text(self) -> str:
        """Return the figures as a line for people."""
        none = f"; {self.no_class} without a label of the mapping" if self.no_class else ""
        return (
            f"clean accuracy {self.right / self.images:.1%} on {self.images} inputs{none} (their answers are no votes)"
        )

    def remark(self) -> str:
        """Return what to say of doubtful answers where the run goes on."""
        if self.pointless:
            return f"{self.trouble()}; the run goes on all the same (--no-preflight, or its votes had begun)"
        return f"{self.trouble()}; on these few images, or labels, that may be chance, and the run goes on"

    def trouble(self) -> str:
        """Return what is wrong, and why that may be."""
        reasons = [
            "labels in another order or spelling (--label-map, --class-names)",
            "channels in another order (RGB and BGR) or layout",
            "pixels on another scale (0 to 1, 0 to 255, normalised twice)",
            "another model, or another task",
        ]
        if self.same is not None:
            reasons.insert(0, f"it says class {self.same} whatever it sees")
        if 2 * self.no_class > self.images:
            reasons.insert(0, f"{self.no_class} of {self.images} answers name no class of the mapping")
        return (
            f"the service is right on {self.right} of {self.images} clean images, no more than answers that do not look at "
            f"them would be (permutation test, p = {self.p_value:.2g}): votes would certify next to nothing. Likely "
            f"reasons: {'; '.join(reasons)}"
        )


def judge(rows: Iterable[StoredAnswer], truth: dict[int, int], labels: LabelMap) -> Findings:
    """Return what answers about clean images say of the service.

    The test is one-sided and exact: if the answers have nothing to do with the images, every assignment of the answers that
    were given to the images is as likely as the one that was seen, whatever shares the classes have. Its p-value is the
    share of those with as many right answers or more, among 9,999 random ones (fixed seed) and the one that was seen.

    Args:
        rows: The answers; the sample is the number of the input.
        truth: Input -> class, of all of them.
        labels: From the service's labels to classes.

    Reference: Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero".
    """
    pairs = sorted((row.sample, labels.outcome_of(row.label or None)) for row in rows)
    said = np.array([outcome for _, outcome in pairs], dtype=np.int64)
    true = np.array([truth[sample] for sample, _ in pairs], dtype=np.int64)
    right = int((said == true).sum())
    shuffled = np.random.default_rng(0).permuted(np.tile(said, (_PERMUTATIONS, 1)), axis=1)
    as_good = int(((shuffled == true).sum(1) >= right).sum())
    classes = set(said.tolist())
    ways = math.lgamma(len(true) + 1) - sum(math.lgamma(count + 1) for count in Counter(true.tolist()).values())
    return Findings(
        images=len(said),
        right=right,
        no_class=int((said == labels.num_classes).sum()),
        p_value=(1 + as_good) / (1 + _PERMUTATIONS),
        decisive=math.exp(-ways) <= LEVEL,
        same=int(said[0]) if len(said) > 1 and len(classes) == 1 and labels.num_classes not in classes else None,
    )


def missing_images(plan: RunPlan, there: Sequence[StoredAnswer], *, begun: bool) -> tuple[int, ...]:
    """Return the inputs that a start of a run still has to ask about without noise.

    Once there are votes, nobody is asked any more without `--preflight`: what it is to prevent has happened.

    Args:
        plan: With a service.
        there: Answers about clean images of earlier starts.
        begun: Whether the folder holds votes.

    Raises:
        BudgetError: See `wanted`.
    """
    if begun and not plan.service.options.preflight:
        return ()
    images = wanted(plan).images
    known = {row.sample for row in there}
    return tuple(index for index in spread(plan.indices, images) if index not in known)[: max(images - len(known), 0)]


def findings_of(plan: RunPlan, there: Sequence[StoredAnswer]) -> Findings | None:
    """Return what the stored answers about clean images say; None without any."""
    if not there:
        return None
    indices = sorted({row.sample for row in there})
    truth = dict(zip(indices, plan.data.labels(indices).tolist(), strict=True))
    return judge(there, truth, plan.service.labels)


def ask_before(plan: RunPlan, source: "ServiceVotes", inputs: Sequence[int], *, begun: bool) -> None:
    """Ask about clean images, say what came out, and stop a run that would certify next to nothing before it costs votes.

    Args:
        plan: With a service.
        source: Asks it.
        inputs: Inputs that have no answer without noise yet.
        begun: Whether the folder holds votes; such a run is not stopped.

    Raises:
        PreflightError: If the answers have nothing to do with the labels.
        ServiceError: If the service cannot be used any more.
        BudgetSpentError: If calls without an answer have used up the budget.
    """
    if not inputs:
        return
    source.ask_clean(PREFLIGHT_KEY, inputs)
    found = findings_of(plan, list(source.store.find(PREFLIGHT_KEY)))
    assert found is not None
    remarks = plan.service.remarks
    remarks.tell(f"before  {found.text()}")
    refuse_pointless(plan, found, begun=begun)
    if found.doubtful:
        remarks.add(found.remark())


def refuse_pointless(plan: RunPlan, found: Findings | None, *, begun: bool) -> None:
    """Stop a run that would certify next to nothing, unless its votes have begun or nobody wants to know.

    Args:
        plan: With a service.
        found: What clean images have shown; None without any.
        begun: Whether the folder holds votes.

    Raises:
        PreflightError: If the answers have nothing to do with the labels.
    """
    if found is not None and found.pointless and not begun and plan.service.options.preflight is not False:
        raise PreflightError(
            f"{found.trouble()}. No votes were asked for. Correct the line and give it another --out, or go on anyway with "
            "--no-preflight"
        )
