"""A run whose votes come from a prediction service, or from a log of one."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from certify.blackbox.canary import Canaries
from certify.blackbox.ledger import FILE_NAME as LEDGER_FILE
from certify.blackbox.ledger import Ledger, Purpose
from certify.blackbox.preflight import PREFLIGHT_KEY, ask_before, findings_of, missing_images, refuse_pointless, wanted
from certify.blackbox.record import Record, RecordedVotes, write_record
from certify.blackbox.source import VOID, ServiceVotes, is_void
from certify.blackbox.spec import Service, canary_images
from certify.blackbox.spending import (
    AUTOMATIC_CANARIES,
    QUESTION_KEY,
    UNANSWERED_KEY,
    Spending,
    asks_first,
    extras_of,
    startable,
    too_small,
    watched,
)
from certify.blackbox.store import JournalStore, StoredAnswer, missing
from certify.errors import CertifyError, UsageError
from certify.files import write_atomically
from certify.journal import Journal
from certify.run_plan import RunPlan
from certify.rundir import KIND, RUN_FILE, Row, read_config
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
    limit = service.options.budget.queries
    if limit is None:
        return
    if plan.votes_per_input is None:
        raise UsageError("a budget needs an estimator with a cap: give --cap")
    wanted(plan)  # says so where it was asked for and cannot be had
    reserved = extras_of(plan, service.canaries or 0).queries(1, plan.votes_per_input)
    if service.options.from_record is None and limit < plan.votes_per_input + reserved:
        raise too_small(plan, limit, reserved)


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

    How the run is watched, and what people should know of it, goes into `run.json` ("canaries", "warnings" and "preflight"
    of its settings' "service") and the service's remarks.

    Args:
        plan: With a service.
        journal: Opened for writing.
        todo: Inputs that are not finished.
        on_votes: Called with the number of votes after every call.
        stack: Closes the connections, and writes the record.

    Raises:
        ServiceError: If the service cannot be used.
        BudgetError: If the budget does not suffice for one input.
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
            # The journal must hold what its certificates are counted from, whatever becomes of the log: all of it, and
            # nothing else. A run that asked the service itself may have left a part.
            told = record.find(index)
            if not set(store.find(index)) <= set(told):
                raise CertifyError(
                    f"{plan.out} holds answers about input {index} that are not those of the log {record.path}: repeat the "
                    "line without --from-record, which goes on with these, or give another --out"
                )
            fresh = missing(store, told)
            if fresh:
                store.add(fresh)
        return RecordedVotes(record, service.labels, noise), todo
    ledger = Ledger(journal.path.parent / LEDGER_FILE)
    spending = Spending(journal, store, ledger)
    stack.callback(spending.close)
    service.remarks.figures = lambda: f"[sent without an answer {ledger.lost:,}]" if ledger.lost else ""
    ledger.left = None if options.budget.queries is None else options.budget.queries - journal.count_answers()
    first = tuple(row.label or None for row in store.find(_CANARY_KEY))
    asked = None if service.canaries is None else min(service.canaries, len(plan.data))
    known = watched(asked, first, begun=journal.count_answers(votes=True) > 0)
    unchecked: list[int] = []
    if first and known and todo:
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
            before=service.before,
            progress=on_votes,
            unchecked=unchecked,
            asking=spending.ask,
            ledger=ledger,
            named=journal.names_version(apart_from=(VOID,)),
        )
    )

    def tell_void() -> None:
        if source.unnamed:
            service.remarks.tell(
                f"the service has named a version, and names none any more: {len(source.unnamed):,} inputs are void; for "
                f"those that are left repeat the line with --canaries {AUTOMATIC_CANARIES}, or start a new run"
            )

    stack.callback(tell_void)
    if options.record is not None:
        path = options.record

        def keep() -> None:
            # Of inputs that an interrupt or the budget has left unfinished the log would have gaps: nobody could read it.
            finished = {entry.index for entry in journal.entries()}
            answers = (row for index in plan.indices if index in finished for row in store.find(index))
            write_record(path, header_of(plan), answers)

        stack.callback(keep)
    count, chosen = _begin(plan, journal, todo, source, spending, known, first)
    _tell(plan, count, spending.versions, store, begun=known is not None)
    return source, sorted(chosen)


def _begin(
    plan: RunPlan,
    journal: Journal,
    todo: list[int],
    source: ServiceVotes,
    spending: Spending,
    known: int | None,
    first: tuple[str | None, ...],
) -> tuple[int, list[int]]:
    """Choose the inputs that the budget suffices for, ask what is asked before votes, and begin to watch the service.

    Args:
        plan: With a service.
        journal: Opened for writing.
        todo: Inputs that are not finished.
        source: Without canaries yet.
        spending: What asks.
        known: Canaries of this run; None where that follows from the first answer.
        first: Their labels at the first check of an earlier start; empty without one.

    Returns:
        The number of canaries, and the inputs.

    Raises:
        ServiceError: If the service cannot be used.
        PreflightError: If its answers about clean images have nothing to do with their labels.
        BudgetError: If the budget does not suffice for one input, or is used up by calls without an answer.
    """
    service: Service = plan.service
    limit, count, questions = service.options.budget.queries, known or 0, int(asks_first(plan))
    ledger = spending.ledger
    lacking = _lacking(plan, journal, todo)

    def choose(canaries: int, before: int) -> tuple[list[int], int]:
        """Return the inputs, and their votes; reserve what is asked beside them for certain."""
        extras = extras_of(plan, canaries, before)
        inputs = startable(extras, lacking, ledger.left)
        begun = set(inputs)
        votes = sum(cost for index, cost in lacking if index in begun)
        ledger.reserved, ledger.due = replace(extras, votes_per_check=None).queries(len(inputs), votes), votes
        return inputs, votes

    begun = journal.count_answers(votes=True) > 0
    answered = list(source.store.find(PREFLIGHT_KEY))
    clean = missing_images(plan, answered, begun=begun) if todo else ()
    if todo and not clean:
        refuse_pointless(plan, findings_of(plan, answered), begun=begun)  # known before anything is asked again
    chosen, votes = choose(count, questions + len(clean))
    if clean and not chosen:
        clean = ()  # of what earlier starts have left, votes come first
        if service.options.preflight:
            service.remarks.tell(
                "what is left of the budget has no room for clean images beside an input: none are asked about"
            )
        chosen, votes = choose(count, questions)
    if not count and not votes:
        # All that is asked for was answered before: nothing has to be asked to count it.
        return 0, [index for index, cost in lacking if not cost]
    if not chosen:
        if limit is not None and journal.count_answers() == 0:
            raise too_small(plan, limit, extras_of(plan, count).queries(1, plan.votes_per_input or 0))
        return count, []
    with torch.inference_mode():
        source.check(plan.data.inputs(chosen[:1])[0] if questions else None)
        ask_before(plan, source, clean, begun=begun)
    spending.versions |= {row.version for row in source.store.find(PREFLIGHT_KEY)}
    # Some labels with a version and some without: it cannot be relied on to show a change.
    partly = None in source.store.versions(PREFLIGHT_KEY)
    if known is None and (partly or _says_no_version(service, spending.versions)):
        few = min(AUTOMATIC_CANARIES, len(plan.data))
        count = few if choose(few, 0)[0] else 0
    chosen, _ = choose(count, 0)
    if count and chosen:
        images = canary_images(count, plan.data.inputs, len(plan.data))
        source.canaries = Canaries(
            images,
            every=service.options.canary_seconds,
            expected=first or None,
            room=lambda: ledger.allows(count, Purpose.SPARE),
        )
        if not first:
            source.check_canaries()
            # Numbered from below zero up: that they were asked about is on the account already.
            source.store.add(
                [
                    StoredAnswer(_CANARY_KEY, Phase.ATTACK, k - count, label or "", None)
                    for k, label in enumerate(source.canaries.expected or ())
                ]
            )
    return count, chosen


def _lacking(plan: RunPlan, journal: Journal, todo: list[int]) -> list[tuple[int, int]]:
    """Return the inputs with the votes that each may still take, the furthest first: none that was begun is left behind.

    Void inputs take none.
    """
    most = plan.votes_per_input
    void = {index for index in todo if is_void(journal.answer_versions(index))}
    if plan.service.options.budget.queries is None or most is None:
        return [(index, int(index not in void)) for index in todo]  # no matter how many: all of them are started
    have = {index: sum(1 for _, sample, _, _ in journal.answers(index) if sample >= 0) for index in todo}
    return [(index, 0 if index in void else most - have[index]) for index in sorted(todo, key=lambda i: -have[i])]


def _says_no_version(service: Service, versions: set[str | None]) -> bool:
    """Whether answers come without a version, as far as is known; `versions` are those of the answers so far."""
    return versions == {None} or (not versions and service.shows_no_version)


def _tell(plan: RunPlan, count: int, versions: set[str | None], store: JournalStore, *, begun: bool) -> None:
    """Say, to people and in `run.json`, by how many known images the run is watched, and what is not watched.

    `run.json` also gets what clean images have shown before the votes.
    """
    service: Service = plan.service
    found = findings_of(plan, store.find(PREFLIGHT_KEY))
    if found is not None and found.doubtful:
        service.remarks.add(found.remark())  # at every start: run.json is written anew by each
    versioned = service.shows_version or versions - {None}
    if not count and not service.options.is_random and not versioned:
        says = (
            "reports no version" if _says_no_version(service, versions) else "has not said whether it reports a version"
        )
        if service.options.canaries == 0:
            why = "--canaries 0 has switched off the known images that would show a change"
        elif begun:
            why = "the run in this folder was begun without known images that would show a change"
        elif versions or service.shows_no_version:
            why = "the budget has no room for known images that would show a change, beside the votes of an input"
        else:
            why = f"no known images are watched that would show a change: give --canaries {AUTOMATIC_CANARIES}"
        service.remarks.add(f"the service {says}, and {why}; that it stays the same is assumed, not checked")
    config = read_config(plan.out)
    there = config["settings"].get("service") or {}
    config["settings"]["service"] = {
        **there,
        "canaries": count,
        "warnings": list(service.remarks.texts),
        "preflight": None if found is None else found.to_dict(),
    }
    write_atomically(plan.out / RUN_FILE, json.dumps(config, indent=2, allow_nan=False) + "\n")


def finished_rows(plan: RunPlan) -> list[Row]:
    """Return the certificates that the run folder holds: what is left of a run that ended before its inputs did."""
    with Journal(plan.out, kind=KIND) as journal:
        return [Row.from_entry(entry) for entry in journal.entries()]


def account_of(plan: RunPlan) -> dict[str, int]:
    """Return, of the run folder and all its starts, how many images were sent to the service and what became of them.

    "sent" is what the service may have billed: "answered" (of these: "votes", "preflight", and "questions", which are the
    one before the first vote and known images) and "unanswered".

    Args:
        plan: With a service, at least once executed.
    """
    with Journal(plan.out, kind=KIND) as journal:
        votes = journal.count_answers(votes=True)
        questions, clean, lost = (len(journal.answers(key)) for key in (QUESTION_KEY, PREFLIGHT_KEY, UNANSWERED_KEY))
    answered = votes + questions + clean
    return {
        "sent": answered + lost,
        "answered": answered,
        "unanswered": lost,
        "votes": votes,
        "questions": questions,
        "preflight": clean,
    }


def budget_remark(plan: RunPlan, finished: int) -> str | None:
    """Return what to say of a run that its budget has ended; None where it has not.

    Args:
        plan: The run.
        finished: How many of its inputs are finished.
    """
    service: Service | None = plan.service
    if service is None or service.options.from_record is not None or finished >= len(plan.indices):
        return None
    if service.options.budget.queries is None:
        return None
    option = "--max-queries" if service.options.budget.max_cost is None else "--max-cost"
    return (
        f"the budget sufficed for {finished:,} of {len(plan.indices):,} inputs; repeat the line with a larger {option} "
        "to go on"
    )
