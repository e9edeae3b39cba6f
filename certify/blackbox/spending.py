"""Questions that are no votes (the one before the first vote, the canaries): foreseen, reserved, counted and kept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from certify.blackbox.answers import Answer
from certify.blackbox.budget import BudgetError, BudgetSpentError
from certify.blackbox.ledger import Ledger, Purpose
from certify.blackbox.pipeline import storable
from certify.blackbox.source import Keep
from certify.blackbox.store import AnswerStore
from certify.blackbox.stored import StoredAnswer
from certify.errors import UsageError
from certify.journal import Journal
from certify.run_plan import RunPlan
from certify.window import window_width
from smoothing.estimators.base import Phase
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.planned import PlannedEstimator
from smoothing.statistics.schedule import capped_looks

AUTOMATIC_CANARIES = 5
"""Known images that are watched where nobody has said how many, and the service shows no version."""

QUESTION_KEY = -2
"""Key under which these questions are kept; those of inputs are not negative."""

UNANSWERED_KEY = -3
"""Key under which images are kept that were sent without an answer, and may have been billed."""


@dataclass(frozen=True)
class Extras:
    """How many questions that are no votes a start of a run will ask, at most.

    Args:
        questions: Images that are asked about before the first vote.
        canaries: Known images of a check.
        looks: Checks of a window of inputs: one follows each look.
        width: Inputs of a window.
        votes_per_check: Votes between two checks by the clock at the rate limit; None: not foreseen, made as far as the
            budget has something left.
    """

    questions: int
    canaries: int
    looks: int
    width: int
    votes_per_check: float | None = None

    def queries(self, inputs: int, votes: int) -> int:
        """Return the number of images for so many inputs with so many votes in all; 0 without an input."""
        if inputs == 0:
            return 0
        checks = 1 + self.looks * math.ceil(inputs / self.width)
        if self.votes_per_check is not None:
            checks += math.floor(votes / self.votes_per_check)
        return self.questions + self.canaries * checks


def extras_of(plan: RunPlan, canaries: int, questions: int | None = None) -> Extras:
    """Return what is asked beside the votes of a run on a service.

    Args:
        plan: With a service.
        canaries: Known images of a check.
        questions: Images that are asked about before the first vote; None: as many as the options say.
    """
    estimator, options = plan.estimator, plan.service.options
    looks = 2  # fixed and planned: a look that chooses, and one that bounds
    if not isinstance(estimator, FixedEstimator | PlannedEstimator):
        # Without a cap nothing is reserved, as there can be no budget; 1e9 votes are for the forecast.
        looks = len(capped_looks(getattr(estimator, "ratio", 2.0), estimator.max_votes or 10**9))
    rate = options.calls.per_second
    per_check = None if rate is None else rate * plan.service.adapter.images_per_call * options.canary_seconds
    width = window_width(estimator, plan.num_classes, plan.forward.batch_size)
    asked = int(asks_first(plan)) if questions is None else questions
    return Extras(asked, canaries, looks, width, per_check)


def asks_first(plan: RunPlan) -> bool:
    """Whether a question is asked before the first vote: unless it costs money that nobody has allowed."""
    budget = plan.service.options.budget
    return not budget.paid or budget.queries is not None


def inputs_within(extras: Extras, votes_per_input: int, limit: int | None, inputs: int) -> int:
    """Return how many of some new inputs, all of them alike, a number of queries suffices for."""
    if limit is None:
        return inputs
    most = min(inputs, limit // votes_per_input)
    while most and most * votes_per_input + extras.queries(most, most * votes_per_input) > limit:
        most -= 1
    return most


def startable(extras: Extras, lacking: Sequence[tuple[int, int]], limit: int | None) -> list[int]:
    """Return the inputs that a number of queries suffices for, each as a whole, with what is asked beside them.

    Args:
        extras: What is asked beside them.
        lacking: Inputs with the votes that each may still take, those first that should come first.
        limit: Queries that are left; None: no limit.
    """
    if limit is None:
        return [index for index, _ in lacking]
    chosen: list[int] = []
    votes = 0
    for index, cost in lacking:
        if votes + cost + extras.queries(len(chosen) + 1, votes + cost) <= limit:
            votes += cost
            chosen.append(index)
    return chosen


def too_small(plan: RunPlan, limit: int, reserved: int) -> BudgetError:
    """Return the error of a budget that does not suffice for one input, with what to do for this estimator.

    Args:
        plan: With a service and a cap.
        limit: Queries of the budget.
        reserved: Queries of it that are no votes.
    """
    estimator = plan.estimator
    beside, option = 0, "--cap"
    if isinstance(estimator, FixedEstimator):
        beside, option = estimator.n0, "--n"
    elif isinstance(estimator, PlannedEstimator):
        beside = estimator.pilot
    lower = limit - reserved - beside
    also = f", and {reserved:,} for questions that are no votes" if reserved else ""
    advice = f", or lower {option} to {lower:,} or less" if lower >= 1 else ""
    return BudgetError(
        f"the budget of {limit:,} queries is too small for one input, which takes up to {plan.votes_per_input:,}{also}; "
        f"raise --max-queries or --max-cost{advice}"
    )


class Spending:
    """Asks questions that are no votes, within what is left for them, and keeps in the journal that they were asked.

    Also takes into the journal what the ledger of a killed process has left: images that were sent without an answer.

    Args:
        journal: Opened for writing.
        store: The answers in that journal.
        ledger: Counts what is sent.

    Attributes:
        versions: What the service has said of its version in answer to such questions, of earlier starts too; None among
            them stands for an answer without one.
    """

    def __init__(self, journal: Journal, store: AnswerStore, ledger: Ledger) -> None:
        self._journal = journal
        self._store = store
        self.ledger = ledger
        there = journal.answers(QUESTION_KEY)
        self._next = max((sample for _, sample, _, _ in there), default=-1) + 1
        self.versions = {version for _, _, _, version in there}
        self._take_in(ledger.read())

    def ask(self, ask: Callable[[Keep | None], Sequence[Answer]], images: int, purpose: Purpose) -> Sequence[Answer]:
        """Ask; see `ServiceVotes`.

        Raises:
            BudgetSpentError: If the budget has nothing left for this.
        """
        if not self.ledger.allows(images, purpose):
            raise BudgetSpentError(
                "the budget is used up: nothing is left of it for the known images that the service is watched by; raise "
                "--max-queries or --max-cost and repeat the command, which goes on with the answers that are there"
            )
        first, self._next = self._next, self._next + images
        rows: list[StoredAnswer] = []

        def keep(answers: Sequence[Answer]) -> None:
            rows.extend(
                StoredAnswer(QUESTION_KEY, Phase.ATTACK, sample, "", version and storable(version))
                for sample, (_, version, _) in enumerate(answers, first)
            )
            self._store.note(rows)

        answers = ask(keep)
        self._store.add(rows)
        self.versions |= {answer.version for answer in answers}
        return answers

    def close(self) -> None:
        """Take what has no answer into the journal; when nothing is asked any more."""
        self._take_in(self.ledger.unanswered)

    def _take_in(self, images: int) -> None:
        if images:
            first = max((sample for _, sample, _, _ in self._journal.answers(UNANSWERED_KEY)), default=-1) + 1
            self._journal.record_answers(
                (UNANSWERED_KEY, Phase.ATTACK, sample, "", None) for sample in range(first, first + images)
            )
        self.ledger.clear()  # only now: killed in between, images count twice, never not at all


def watched(asked: int | None, first: Sequence[object], begun: bool) -> int | None:
    """Return how many known images a folder's run is watched by; None where that follows from the first answer.

    Args:
        asked: What the user asked for; None for no word of it.
        first: Labels of the first check in this folder, empty without one.
        begun: Whether the folder holds votes.

    Raises:
        UsageError: If the folder's run is watched by another number.
    """
    if first and asked not in (None, len(first)):
        raise UsageError(
            f"this run is watched by {len(first)} known images, got --canaries {asked}: repeat that number, or leave the "
            "option out"
        )
    if asked is not None:
        return asked
    if first:
        return len(first)
    # What was asked before anybody watched cannot be vouched for afterwards.
    return 0 if begun else None
