"""Runs a ladder over inputs into a journal: interruptible at any moment, resumed by asking for the same again."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from certify.errors import RunMismatchError
from certify.files import make_folder
from certify.journal import Journal
from certify.rundir import claim_folder
from certify.verification.alone import decide_alone
from certify.verification.arrays import write_arrays
from certify.verification.deciding import Found, decide, misclassified
from certify.verification.exports import export
from certify.verification.plan import KIND, VerifyPlan
from certify.verification.row import FALSIFIED, VerifyRow
from certify.verification.searching import search
from certify.verification.subject import Balls

_INPUTS_COMPARED = 16
"""Finished inputs whose content is compared when a run is resumed."""


def execute(plan: VerifyPlan, *, on_row: Callable[[VerifyRow], None] | None = None) -> list[VerifyRow]:
    """Answer every planned question that the journal does not hold yet, then write the exports.

    An input's file of arrays is written before its row, and the row before `on_row` sees it. A VNN-LIB file is refuted by
    one box: the others are not looked at then.

    Args:
        plan: The run.
        on_row: Called with every finished input, those of earlier calls first.

    Returns:
        All rows in the journal, by index.

    Raises:
        RunMismatchError: If the folder holds another run.
        JournalError: If the journal cannot be written.
    """
    make_folder(plan.out)
    with Journal(plan.out, kind=KIND, write=True) as journal:
        rows = {entry.index: VerifyRow.from_entry(entry) for entry in journal.entries()}
        claim_folder(plan.out, plan.config(), has_rows=bool(rows))
        _check_resumed(plan, rows)
        for index in plan.indices:
            if index in rows and on_row is not None:
                on_row(rows[index])
        refuted = plan.is_file and any(row.status == FALSIFIED for row in rows.values())
        todo = [] if refuted else [index for index in plan.indices if index not in rows]
        try:
            for first in range(0, len(todo), plan.batch):
                finished = _answer(_within(plan, rows.values()), todo[first : first + plan.batch])
                journal.record_inputs([(row.index, row.payload(), ()) for row in finished])
                rows |= {row.index: row for row in finished}
                for row in finished:
                    if on_row is not None:
                        on_row(row)
                if plan.is_file and any(row.status == FALSIFIED for row in finished):
                    break
        finally:
            # On an interruption too: what is exported is what is in the journal.
            everything = [rows[index] for index in sorted(rows)]
            export(plan.out, plan.config(), everything)
    return everything


def _within(plan: VerifyPlan, rows: Iterable[VerifyRow]) -> VerifyPlan:
    """Return the plan with what may be spent on the next questions.

    The boxes of a file share its seconds: one gets half of what is left, so that a hard one leaves something to those behind
    it, and the last one gets all.
    """
    if plan.budget is None or not plan.is_file:
        return plan
    done = list(rows)
    left = plan.budget - sum(row.seconds for row in done)
    last = len(done) + 1 == len(plan.indices)
    return replace(plan, budget=max(left if last else left / 2, 1e-3))


def _answer(plan: VerifyPlan, indices: Sequence[int]) -> list[VerifyRow]:
    began = time.perf_counter()
    predictions = {index: plan.subject.predict(index) for index in indices}
    labels = {index: plan.subject.label(index) for index in indices}
    right = [index for index in indices if predictions[index] == labels[index] != -1]
    found = {index: misclassified(index, plan.methods.ordered) for index in indices if index not in right}
    before = (time.perf_counter() - began) / len(indices)
    if right:
        if plan.search and isinstance(plan.subject, Balls):
            answers = search(plan, plan.subject, right)
        elif plan.methods.pure:
            answers = decide_alone(plan, right)
        else:
            answers = decide(plan, right)
        found |= {answer.index: answer for answer in answers}
    return [_row(plan, found[index], labels[index], predictions[index], before) for index in indices]


def _row(plan: VerifyPlan, found: Found, label: int | None, prediction: int | None, seconds: float) -> VerifyRow:
    return VerifyRow(
        index=found.index,
        label=label,
        predict=prediction,
        status=found.status,
        claims=tuple(found.claims),
        attack_radius=found.attack_radius,
        attack=found.attack,
        seconds=found.seconds + seconds,
        input_sha256=plan.subject.digest(found.index),
        arrays_sha256=write_arrays(plan.out, found.index, found.certificates, found.counterexample, found.lipschitz),
        device=str(plan.device),
        notes=tuple(found.notes),
    )


def _check_resumed(plan: VerifyPlan, rows: dict[int, VerifyRow]) -> None:
    """Check that finished inputs are those of this data set, as far as the digest of the data cannot see it."""
    indices = sorted(rows)
    for index in indices[:: max(1, len(indices) // _INPUTS_COMPARED)]:
        if not 0 <= index < len(plan.subject) or plan.subject.digest(index) != rows[index].input_sha256:
            raise RunMismatchError(
                f"{plan.out}: input {index} is not the one that was verified in this folder; use another --out"
            )
