"""Runs an estimator over a data set into a journal: interruptible at any moment, resumed by asking for the same again."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify import __version__
from certify.datasets.base import Dataset
from certify.errors import DatasetError, ModelError, RunMismatchError, UsageError
from certify.files import make_folder
from certify.journal import Journal
from certify.models.base import LoadedModel, transform_text
from certify.rundir import KIND, SCHEMA, Row, claim_folder, export
from smoothing.certificate import Certificate, issue_certificate
from smoothing.distributions.base import SmoothingDistribution
from smoothing.driver import drive
from smoothing.estimators.base import State
from smoothing.estimators.fixed import FixedEstimator
from smoothing.forward import ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.statistics.binomial import minimum_votes
from smoothing.threat import Norm
from smoothing.votes import BatchingEngine

_WINDOW_BATCHES = 64
"""Batches' worth of votes whose inputs are in flight together: enough that the padding of the last one is lost in them."""


_LEAST_INPUTS = 8
"""Inputs in flight at least, so that their selection votes share batches where n is large."""

_FLUSH_SECONDS = 0.25
"""Finished inputs wait this long at most for others, to be written to the journal together: a write costs milliseconds."""

_INPUTS_COMPARED = 16
"""Finished inputs whose content is compared when a run is resumed."""


@dataclass(frozen=True)
class RunPlan:
    """One run, fully decided: what is certified, how, and where it goes.

    Attributes:
        model: The base classifier.
        data: The data set.
        indices: Inputs to certify, ascending.
        law: The law of the noise.
        norm: Norm of the certificates.
        convert_from: Norm in which the radius is proved if it is converted to `norm`, else None.
        estimator: Policy over votes.
        seed: Seed of the noise.
        forward: Batch shape and arithmetic.
        device: Where to run.
        out: Run folder.
        settings: How the run was called; recorded, not part of the identity.
    """

    model: LoadedModel
    data: Dataset
    indices: tuple[int, ...]
    law: SmoothingDistribution
    norm: Norm
    convert_from: Norm | None
    estimator: FixedEstimator
    seed: int
    forward: ForwardSettings
    device: torch.device
    out: Path
    settings: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """K: the model's, which the data set's labels must fit into."""
        return self.model.num_classes or self.data.num_classes

    def identity(self) -> dict[str, Any]:
        """Return what defines the run; a repeat with another identity in the same folder is refused."""
        return {
            "model_digest": self.model.digest,
            "data_digest": self.data.digest(),
            "split": self.data.split,
            "input_shape": list(self.law.shape),
            "num_classes": self.num_classes,
            "law": self.law.describe(),
            "norm": str(self.norm),
            "convert_from": None if self.convert_from is None else str(self.convert_from),
            "estimator": self.estimator.describe(),
            "seed": self.seed,
            "noise_version": NOISE_VERSION,
            "precision": self.forward.precision,
            "channels_last": self.forward.channels_last,
            "compile": self.forward.compile,
            "batch_size": self.forward.batch_size,
            "transform": transform_text(self.model.transform),
            "device_kind": self.device.type,
            # torch's streams on a GPU depend on how many multiprocessors it has, hence on the model of the GPU.
            "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
            "torch_version": torch.__version__,
        }

    def config(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        import scipy

        return {
            "schema": SCHEMA,
            "kind": KIND,
            "identity": self.identity(),
            "settings": self.settings,
            "environment": {
                "tool": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "platform": platform.platform(),
                "threads": torch.get_num_threads(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        }

    def check(self) -> None:
        """Check that the parts fit together, before anything is run or written.

        Raises:
            UsageError: If n and alpha can certify nothing.
            UnsupportedNormError: If no radius is proved for the norm.
            ModelError: If the model does not take the data's inputs.
            DatasetError: If a label is outside the model's classes.
        """
        self.law.require_norm(self.norm if self.convert_from is None else self.convert_from)
        if self.largest_radius() <= 0.0:
            needed = minimum_votes(float(np.nextafter(0.5, 0.0)), self.estimator.alpha)
            raise UsageError(
                f"n={self.estimator.n} votes at alpha={self.estimator.alpha} can certify nothing, even if all agree; "
                f"n must be at least {needed}, and 10,000 or more is usual"
            )
        if self.model.input_shape is not None and tuple(self.model.input_shape) != self.law.shape:
            raise ModelError(
                f"the model takes inputs of shape {tuple(self.model.input_shape)}, but {self.data.name} has {self.law.shape}"
            )
        labels = self.data.labels(self.indices)
        wrong = [(i, int(y)) for i, y in zip(self.indices, labels, strict=True) if not 0 <= y < self.num_classes]
        if wrong:
            index, label = wrong[0]
            raise DatasetError(
                f"labels must be in 0..{self.num_classes - 1}, the classes of the model; input {index} has label {label} "
                f"({len(wrong)} such inputs)"
            )

    def largest_radius(self) -> float:
        """Return the radius when all n votes agree: nothing larger can come out of this run."""
        q = self.estimator.best_q_upper
        if q >= 0.5:
            return 0.0
        estimate = self.law.radius(1.0 - q, self.convert_from or self.norm, q_upper=q)
        if self.convert_from is None:
            return estimate
        from smoothing.threat import convert_radius

        return convert_radius(estimate, self.convert_from, self.norm, self.law.dimension)

    @property
    def votes_per_input(self) -> int:
        """Forward passes that one input costs."""
        return self.estimator.n0 + self.estimator.n


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


def input_digest(x: Tensor) -> str:
    """Return the SHA-256 of an input's float32 values, little-endian."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().astype("<f4").tobytes()).hexdigest()


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
    generator = torch.Generator(device=engine.forward.device)
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
            batch.copy_(plan.law.sample(len(batch), generator=generator, device=engine.forward.device))
            read_outcomes(engine.forward(batch), len(batch), plan.num_classes).cpu()
            if passes:  # the first pass also warms up
                seconds += time.perf_counter() - start
            passes += 1
    return Preflight(right / len(chosen), len(chosen), (passes - 1) * len(batch) / max(seconds, 1e-9))


def execute(
    plan: RunPlan, *, on_votes: Callable[[int], None] | None = None, on_row: Callable[[Row], None] | None = None
) -> list[Row]:
    """Certify every planned input that the journal does not hold yet, then write the exports.

    A finished input is in the journal before `on_row` sees it. Whatever stops this function, the next call with the same
    plan goes on from there, and ends with the same votes as an undisturbed run.

    Args:
        plan: The run; `plan.check()` should have passed.
        on_votes: Called with the number of new votes after every batch.
        on_row: Called with every finished input, those of earlier calls first.

    Returns:
        All rows in the journal, by index.

    Raises:
        RunMismatchError: If the folder holds another run.
        JournalError: If the journal cannot be written (full disk, read-only folder, another process).
    """
    make_folder(plan.out)
    with Journal(plan.out, kind=KIND, write=True) as journal:
        rows = {entry.index: Row.from_entry(entry) for entry in journal.entries()}
        claim_folder(plan.out, plan.config(), has_rows=bool(rows))
        _check_resumed(plan, rows)
        wanted = set(plan.indices)
        for row in rows.values():
            if on_row is not None and row.index in wanted:
                on_row(row)
        todo = [index for index in plan.indices if index not in rows]
        engine = make_engine(plan, on_votes)
        if todo:
            engine.check_classifier(plan.data.inputs(todo[:1])[0])
        width = max(_LEAST_INPUTS, math.ceil(_WINDOW_BATCHES * plan.forward.batch_size / plan.votes_per_input))
        try:
            for first in range(0, len(todo), width):
                _certify_window(plan, engine, journal, todo[first : first + width], rows, on_row)
        finally:
            # On an interruption too: what is exported is what is in the journal.
            everything = [rows[index] for index in sorted(rows)]
            export(plan.out, everything)
    return everything


def _check_resumed(plan: RunPlan, rows: dict[int, Row]) -> None:
    """Check that rows of earlier calls belong to this run: parameters of all of them, inputs of a few, evenly chosen.

    The identity in run.json has been compared already; this notices a folder whose files were put together by hand, and
    inputs that have changed where the digest of the data cannot see it (image folders are known by names and sizes).
    """
    estimator = plan.estimator
    expected = (plan.law.describe(), plan.norm, plan.seed, estimator.alpha, estimator.n0, estimator.n, NOISE_VERSION)
    for row in rows.values():
        c = row.certificate
        if (c.law, c.norm, c.seed, c.alpha, c.n0, c.n, c.noise_version) != expected:
            raise RunMismatchError(f"{plan.out}: the certificate of input {row.index} belongs to another run")
    indices = sorted(rows)
    for index in indices[:: max(1, len(indices) // _INPUTS_COMPARED)]:
        if not 0 <= index < len(plan.data) or input_digest(plan.data.inputs([index])[0]) != rows[index].input_sha256:
            raise RunMismatchError(
                f"{plan.out}: input {index} is not the one that was certified in this folder; use another --out"
            )


def _certify_window(
    plan: RunPlan,
    engine: BatchingEngine,
    journal: Journal,
    indices: Sequence[int],
    rows: dict[int, Row],
    on_row: Callable[[Row], None] | None,
) -> None:
    states: dict[int, State] = {index: plan.estimator.start() for index in indices}
    labels = dict(zip(indices, plan.data.labels(indices), strict=True))
    started = flushed = time.perf_counter()
    waiting: list[Row] = []

    def flush() -> None:
        journal.record_inputs((row.index, _payload(row), row.certificate.looks) for row in waiting)
        for row in waiting:
            rows[row.index] = row
            if on_row is not None:
                on_row(row)
        waiting.clear()

    for index in drive(engine, states):
        if states[index].next_look() is not None:
            continue
        now = time.perf_counter()
        certificate = issue_certificate(
            states[index].result(),
            plan.law,
            plan.norm,
            index=index,
            seed=plan.seed,
            noise_version=NOISE_VERSION,
            precision=plan.forward.precision,
            convert_from=plan.convert_from,
        )
        # The inputs of a window are worked on together, one finishing after the other: the time since the last one.
        waiting.append(_row(plan, index, int(labels[index]), certificate, now - started))
        started = now
        if now - flushed >= _FLUSH_SECONDS:
            flush()
            flushed = time.perf_counter()
    flush()


def _row(plan: RunPlan, index: int, label: int, certificate: Certificate, seconds: float) -> Row:
    predict = -1 if certificate.prediction is None else certificate.prediction
    digest = input_digest(plan.data.inputs([index])[0])
    return Row(index, label, predict, certificate.radius, predict == label, seconds, digest, certificate)


def _payload(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "certificate": row.certificate.to_dict(),
        "seconds": row.seconds,
        "input_sha256": row.input_sha256,
    }
