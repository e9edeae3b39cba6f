"""Runs an estimator over a data set into a journal: interruptible at any moment, resumed by asking for the same again."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from certify.curve import Curve
from certify.errors import RunMismatchError
from certify.files import make_folder, write_atomically
from certify.journal import Journal
from certify.run_plan import RunPlan, input_digest
from certify.rundir import BOUNDARY_FOLDER, KIND, Row, claim_folder, export, extends
from certify.window import Engine, Window, window_width
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator, Look, Phase, replay
from smoothing.estimators.fixed import FixedEstimator
from smoothing.noise_source import NoiseSource
from smoothing.votes import BatchingEngine

__all__ = ["Preflight", "RunPlan", "execute", "input_digest", "make_engine", "preflight"]

_TESTED_VALUES = 2**20
"""Values of noise that the self-test looks at."""

_INPUTS_COMPARED = 16
"""Finished inputs whose content is compared when a run is resumed."""


@dataclass(frozen=True)
class Preflight:
    """What is known before a run starts.

    Attributes:
        clean_accuracy: Share of the checked inputs whose label the base classifier returns without noise.
        checked: How many inputs were checked, at most 64.
        votes_per_second: Measured on a few batches, noise included.
    """

    clean_accuracy: float
    checked: int
    votes_per_second: float


def make_engine(plan: RunPlan, progress: Callable[[int], None] | None = None) -> BatchingEngine:
    """Return the engine that produces the run's votes."""
    return BatchingEngine(
        plan.model.classifier,
        plan.law,
        plan.num_classes,
        lambda index: plan.data.inputs([index])[0],
        settings=plan.forward,
        device=plan.device,
        seed=plan.seed,
        noise=plan.noise_source(),
        progress=progress,
    )


def preflight(plan: RunPlan) -> Preflight:
    """Measure clean accuracy on up to 64 inputs, and the speed on a few batches of noise that no vote is taken from.

    Raises:
        ClassifierError: If the classifier fails, or its output cannot be read as votes over the classes.
    """
    from smoothing.votes import read_outcomes

    engine = make_engine(plan)
    chosen = plan.indices[:: max(1, len(plan.indices) // 64)][:64]
    batch = engine.forward.new_batch(plan.law.shape)
    source, key = plan.noise_source(), chosen[0]
    draw = source.bind(plan.data.inputs([key])[0], key)
    right = 0
    with engine.forward.evaluating(), torch.inference_mode():
        for first in range(0, len(chosen), len(batch)):
            part = chosen[first : first + len(batch)]
            batch[: len(part)].copy_(plan.data.inputs(part))
            outcomes = read_outcomes(engine.forward(batch), len(batch), plan.num_classes)[: len(part)]
            right += int((outcomes.cpu().numpy() == plan.data.labels(part)).sum())
        passes, seconds = 0, 0.0
        while passes < 64 and (seconds < 0.5 or passes < 2):
            start = time.perf_counter()
            # Noise of a phase that no vote of this run is taken from.
            batch.copy_(draw(Phase.ATTACK, passes * len(batch), (passes + 1) * len(batch)))
            read_outcomes(engine.forward(batch), len(batch), plan.num_classes).cpu()
            if passes:  # the first pass also warms up
                seconds += time.perf_counter() - start
            passes += 1
    return Preflight(right / len(chosen), len(chosen), (passes - 1) * len(batch) / max(seconds, 1e-9))


def execute(
    plan: RunPlan,
    *,
    on_votes: Callable[[int], None] | None = None,
    on_row: Callable[[Row], None] | None = None,
    on_curve: Callable[[Callable[[], Curve]], None] | None = None,
) -> list[Row]:
    """Certify every planned input that the journal does not hold yet, then write the exports.

    A finished input is in the journal before `on_row` sees it; the looks of unfinished ones are written every few seconds.
    Whatever stops this function, the next call with the same plan goes on from there, and ends with the same votes as an
    undisturbed run. A plan whose estimator may extend that of the folder continues every input from its recorded looks.

    Args:
        plan: The run; `plan.check()` should have passed.
        on_votes: Called with the number of new votes after every batch.
        on_row: Called with every finished input, those of earlier calls first.
        on_curve: Given, before the votes of a window of inputs are drawn, a function that says how far certified accuracy
            is known by now; for estimators that decide radii.

    Returns:
        All rows in the journal, by index.

    Raises:
        RunMismatchError: If the folder holds another run, or one that must not be continued.
        JournalError: If the journal cannot be written (full disk, read-only folder, another process).
        NoiseSelfTestError: If the noise drawn does not look like its law.
    """
    make_folder(plan.out)
    with Journal(plan.out, kind=KIND, write=True) as journal:
        config = plan.config()
        continued = extends(plan.out, config, plan.estimator)
        rows = {entry.index: Row.from_entry(entry) for entry in journal.entries()}
        unfinished = journal.unfinished()
        spent: dict[int, float] = {}
        if continued:
            unfinished |= {index: row.certificate.looks for index, row in rows.items()}
            _check_continuation(plan, unfinished)
            spent = {index: row.seconds for index, row in rows.items()}

            def reopen() -> None:
                # Certificates follow from looks, and looks stay: killed in between, the folder is still the old run.
                journal.reopen(rows)

            claim_folder(plan.out, config, has_rows=bool(rows), extend=reopen)
            rows = {}
        else:
            claim_folder(plan.out, config, has_rows=bool(rows or unfinished or journal.count_answers()))
        write_boundaries(plan.out, plan.estimator)
        _check_resumed(plan, rows)
        # An extended run continues all of its inputs, not only those that are asked for now.
        wanted = {*plan.indices, *spent}
        for row in rows.values():
            if on_row is not None and row.index in wanted:
                on_row(row)
        todo = [index for index in sorted(wanted) if index not in rows]
        windows: list[Window] = []
        width = window_width(plan.estimator, plan.num_classes, plan.forward.batch_size)
        with ExitStack() as stack:
            engine, todo = _source(plan, journal, todo, on_votes, stack)
            if todo:
                check_drawn_noise(plan, engine.noise, todo[0])
            stack.callback(_export, plan, rows, windows)
            for first in range(0, len(todo), width):
                part = todo[first : first + width]
                window = Window(plan, engine, journal, part, {i: unfinished[i] for i in part if i in unfinished})
                if on_curve is not None:
                    on_curve(window.curve)
                windows.append(window)
                for row in window.run(spent):
                    if on_row is not None:
                        on_row(row)
    return [rows[index] for index in sorted(rows)]


def _source(
    plan: RunPlan, journal: Journal, todo: list[int], on_votes: Callable[[int], None] | None, stack: ExitStack
) -> tuple[Engine, list[int]]:
    """Return who produces the votes, checked, and the inputs that may be started now."""
    if plan.service is not None:
        from certify.blackbox.running import open_source

        return open_source(plan, journal, todo, on_votes, stack)
    engine = make_engine(plan, on_votes)
    if todo:
        engine.check_classifier(plan.data.inputs(todo[:1])[0])
    return engine, todo


def _export(plan: RunPlan, rows: dict[int, Row], windows: list[Window]) -> None:
    """Write the exports; on an interruption too: what is exported is what is in the journal."""
    for window in windows:
        rows |= window.finished
    export(plan.out, [rows[index] for index in sorted(rows)])


def check_drawn_noise(plan: RunPlan, source: NoiseSource, index: int) -> None:
    """Test the first copies that the engine will be shown of an input, where the noise is of integers; a second at most.

    Raises:
        NoiseSelfTestError: If they do not look like the law; with true noise that happens once in 1e9 runs.
    """
    from smoothing.integer.selftest import check_noise, noise_steps
    from smoothing.integer.source import PhiloxIntNoise

    if not isinstance(source, PhiloxIntNoise):
        return
    x = plan.data.inputs([index])[0]
    samples = max(2, _TESTED_VALUES // plan.law.dimension)
    copies = source.draw(x, index, Phase.ESTIMATE, 0, samples)
    check_noise(noise_steps(copies, x, source.grid), source.integer_law)


def write_boundaries(folder: Path, estimator: Estimator) -> None:
    """Write the boundaries that an estimator tests by into the run folder, each under its hash, for the audit."""
    for name in ("boundaries", "refutations"):
        for boundary in getattr(estimator, name, ()):
            path = folder / BOUNDARY_FOLDER / f"{boundary.sha256}.json"
            if not path.exists():
                make_folder(path.parent)
                write_atomically(path, json.dumps(boundary.to_dict()) + "\n")


def _check_continuation(plan: RunPlan, looks: dict[int, tuple[Look, ...]]) -> None:
    """Check that every recorded look is one that the new estimator asks for, before anything is changed."""
    labels = dict(zip(looks, plan.data.labels(list(looks)), strict=True)) if looks else {}
    for index, recorded in looks.items():
        try:
            replay(plan.estimator, recorded, int(labels[index]))
        except InvalidArgumentError as error:
            raise RunMismatchError(f"{plan.out}: input {index} cannot be continued: {error}") from None


def _check_resumed(plan: RunPlan, rows: dict[int, Row]) -> None:
    """Check that rows of earlier calls belong to this run: parameters of all of them, inputs of a few, evenly chosen.

    The identity in run.json has been compared already; this notices a folder whose files were put together by hand, and
    inputs that have changed where the digest of the data cannot see it (image folders are known by names and sizes).
    """
    estimator = plan.estimator
    expected = (plan.law.describe(), plan.norm, plan.seed, estimator.alpha, plan.noise["version"])
    votes = (estimator.n0, estimator.n) if isinstance(estimator, FixedEstimator) else None
    for row in rows.values():
        c = row.certificate
        own = tuple(decision.radius for decision in c.decisions) or None
        if (c.law, c.norm, c.seed, c.alpha, c.noise_version) != expected or own != plan.grid:
            raise RunMismatchError(f"{plan.out}: the certificate of input {row.index} belongs to another run")
        if votes is not None and (c.n0, c.n) != votes:
            raise RunMismatchError(f"{plan.out}: the certificate of input {row.index} belongs to another run")
    indices = sorted(rows)
    for index in indices[:: max(1, len(indices) // _INPUTS_COMPARED)]:
        if not 0 <= index < len(plan.data) or input_digest(plan.data.inputs([index])[0]) != rows[index].input_sha256:
            raise RunMismatchError(
                f"{plan.out}: input {index} is not the one that was certified in this folder; use another --out"
            )
