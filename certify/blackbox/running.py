"""A run whose votes come from a prediction service, or from a log of one."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from certify.blackbox.budget import BudgetError
from certify.blackbox.canary import Canaries
from certify.blackbox.record import Record, RecordedVotes, write_record
from certify.blackbox.source import ServiceVotes
from certify.blackbox.spec import Service, canary_images
from certify.blackbox.store import JournalStore, StoredAnswer
from certify.errors import UsageError
from certify.journal import Journal
from certify.run_plan import RunPlan
from smoothing.estimators.base import Phase

_CANARY_KEY = -1
"""Key under which the labels of the canaries' first check are stored; keys of inputs are not negative."""


def check_service_plan(plan: RunPlan) -> None:
    """Check what only a run on a service has to respect, before anything is asked or written.

    Raises:
        UsageError: If the inputs are no images, or the estimator has no cap while there is a budget.
        BudgetError: If the budget does not suffice for one input.
    """
    service: Service = plan.service
    if len(plan.law.shape) != 3 or plan.law.shape[0] not in (1, 3, 4):
        raise UsageError(
            f"services take images of 1, 3 or 4 channels, but {plan.data.name} has inputs {plan.law.shape}"
        )
    if service.options.budget.queries is None:
        return
    if plan.votes_per_input is None:
        raise UsageError("a budget needs an estimator with a cap: give --cap")
    service.options.budget.affordable(plan.votes_per_input)


def header_of(plan: RunPlan) -> dict[str, Any]:
    """Return what a log of this run's answers says of them."""
    return {
        "law": plan.law.describe(),
        "sigma": plan.law.sigma,
        "seed": plan.seed,
        "noise": plan.noise,
        "data_digest": plan.data.digest(),
        "estimator": plan.estimator.describe(),
        "service": plan.service.describe(),
    }


def open_source(
    plan: RunPlan, journal: Journal, todo: list[int], on_votes: Callable[[int], None] | None, stack: ExitStack
) -> tuple[Any, list[int]]:
    """Return the source of the run's votes, and the inputs that may be started within the budget.

    Args:
        plan: With a service.
        journal: Opened for writing.
        todo: Inputs that are not finished.
        on_votes: Called with the number of votes after every call.
        stack: Closes the connections, and writes the record.

    Raises:
        ServiceError: If the service cannot be used.
        CertifyError: If a log is of another run.
    """
    service: Service = plan.service
    options = service.options
    noise = plan.noise_source()
    store = JournalStore(journal)
    stack.callback(store.close)
    if options.from_record is not None:
        record = Record(options.from_record)
        # The estimator too: choosing n or the bound after the answers are known would spend alpha a second time.
        record.check(header_of(plan))
        for index in todo:
            # The journal must hold what its certificates are counted from, whatever becomes of the log.
            if not store.find(index):
                store.add(record.find(index))
        return RecordedVotes(record, service.labels, noise), todo
    canaries, unchecked = None, []
    if service.canaries and todo:
        images = canary_images(service, plan.data.inputs, len(plan.data))
        first = [row.label or None for row in store.find(_CANARY_KEY)]
        canaries = Canaries(images, every=options.canary_seconds, expected=tuple(first) if first else None)
        if first:
            # Which of them a good check has followed, nobody knows any more; those that are finished, one has.
            finished = {entry.index for entry in journal.entries()}
            unchecked = [index for index in range(len(plan.data)) if index not in finished and store.find(index)]
    source = stack.enter_context(
        ServiceVotes(
            service.adapter,
            noise,
            lambda index: plan.data.inputs([index])[0],
            service.labels,
            store,
            settings=options.calls,
            canaries=canaries,
            before=service.before,
            progress=on_votes,
            unchecked=unchecked,
        )
    )
    if options.record is not None:
        path = options.record

        def keep() -> None:
            answers = (row for index in plan.indices for row in store.find(index))
            write_record(path, header_of(plan), answers)

        stack.callback(keep)
    startable = _within_budget(plan, journal, todo)
    if startable:
        with torch.inference_mode():
            # One question before the first vote, unless it costs money that nobody has allowed.
            free = not options.budget.paid or options.budget.queries is not None
            source.check(plan.data.inputs(startable[:1])[0] if free else None)
        if canaries is not None and canaries.expected is None:
            source.check_canaries()
            labels: tuple[str | None, ...] = canaries.expected or ()
            store.add([StoredAnswer(_CANARY_KEY, Phase.ATTACK, k, label or "", None) for k, label in enumerate(labels)])
    return source, startable


def _within_budget(plan: RunPlan, journal: Journal, todo: list[int]) -> list[int]:
    """Return the inputs that the budget suffices for, each as a whole; none that was begun is left half done first."""
    limit = plan.service.options.budget.queries
    if limit is None or plan.votes_per_input is None:
        return todo
    left = limit - journal.count_answers()
    chosen = []
    have = {index: sum(1 for _, sample, _, _ in journal.answers(index) if sample >= 0) for index in todo}
    for index in sorted(todo, key=lambda i: -have[i]):
        cost = plan.votes_per_input - have[index]
        if cost <= left:
            left -= cost
            chosen.append(index)
    if todo and not chosen and journal.count_answers() == 0:
        raise BudgetError(
            f"the budget of {limit:,} queries is too small for one input of {plan.votes_per_input:,} votes"
        )
    return sorted(chosen)
