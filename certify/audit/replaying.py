"""Replay: draw the votes of some inputs again, from the recorded seed, model and data, and compare them look by look.

Whatever the votes depend on is compared first, and a difference there is an error: votes that were counted on another
machine's noise, another model or other data say nothing about the recorded ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from certify.audit import fields
from certify.audit.findings import AuditError, Findings, Mismatch
from certify.audit.folder import RawRow, RawRun
from certify.audit.identity import check_digest, check_inputs, check_machine, check_transform
from certify.audit.neartie import NearTie, explained
from certify.audit.recount import Recount, recount
from certify.audit.spec import RunSpec
from certify.datasets import load_dataset
from certify.denoising.wrap import with_denoiser
from certify.models import load_model
from certify.models.base import transform_text
from smoothing.distributions.table import rebuild_law
from smoothing.estimators.base import Phase
from smoothing.forward import Forward, ForwardSettings
from smoothing.noise_table import rebuild_noise


@dataclass(frozen=True)
class ReplayOptions:
    """Where model and data are found; None means where the run found them. Other places need the same content.

    Attributes:
        model: MODEL, as on the command line.
        data: Data set name or path.
        data_root: Folder of the data sets.
        trust_pickle: Unpickle model files that need it; that the run did is no reason to do so here.
    """

    model: str | None = None
    data: str | None = None
    data_root: Path | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class ReplayedLook:
    """One look, counted again.

    Attributes:
        index: The input.
        phase: The look's phase.
        n: Number of samples.
        recorded: Counts in the journal.
        counted: Counts of the replay.
        verdict: "equal"; "near-ties", if the difference can be due to them; or "different".
        near_ties: Samples whose two best scores nearly agree.
    """

    index: int
    phase: str
    n: int
    recorded: tuple[int, ...]
    counted: tuple[int, ...]
    verdict: str
    near_ties: tuple[NearTie, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "index": self.index,
            "phase": self.phase,
            "n": self.n,
            "recorded": list(self.recorded),
            "counted": list(self.counted),
            "verdict": self.verdict,
            "near_ties": [tie.to_dict() for tie in self.near_ties],
        }


@dataclass(frozen=True)
class ReplayReport:
    """What was drawn again, and how it compares.

    Attributes:
        indices: The replayed inputs.
        looks: Their looks, in order.
        mismatches: Looks whose counts differ by more than near-ties can explain, and inputs that could not be replayed.
    """

    indices: tuple[int, ...]
    looks: tuple[ReplayedLook, ...]
    mismatches: tuple[Mismatch, ...]

    @property
    def votes(self) -> int:
        """Number of votes that were drawn again: a look is a prefix, and contains those before it."""
        return sum({(look.index, look.phase): look.n for look in self.looks}.values())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "indices": list(self.indices),
            "votes": self.votes,
            "looks": [look.to_dict() for look in self.looks],
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
        }


def replay(
    run: RawRun,
    spec: RunSpec,
    indices: Sequence[int],
    options: ReplayOptions,
    on_votes: Callable[[int], None] | None = None,
) -> ReplayReport:
    """Draw the votes of `indices` again and compare them with the journal's.

    Args:
        run: The run folder.
        spec: What `run.json` promises.
        indices: Inputs with a row in the journal.
        options: Where model and data are.
        on_votes: Called with the number of votes after every batch.

    Raises:
        AuditError: If the noise cannot be drawn again here, or model, data or an input are not the recorded ones.
        ModelError: If the model cannot be loaded.
        DatasetError: If the data cannot be loaded.
    """
    identity, settings = run.config["identity"], run.config["settings"]
    device = check_machine(identity)
    forward_settings = _forward_settings(identity)
    model = load_model(
        options.model or _required(settings, "model"),
        num_classes=settings.get("num_classes"),
        input_shape=tuple(spec.shape),
        architecture=settings.get("architecture"),
        normalisation=settings.get("normalisation"),
        trust_pickle=options.trust_pickle,
    )
    if settings.get("denoiser") is not None:
        model = with_denoiser(
            model, str(settings["denoiser"]), sigma=rebuild_law(spec.law).sigma, input_shape=tuple(spec.shape)
        )
    check_digest("model", identity.get("model_digest"), model.digest, "--model")
    check_transform(identity, transform_text(model.transform))
    data = load_dataset(
        options.data or _required(settings, "data"),
        root=options.data_root or settings.get("data_root"),
        split=_required(identity, "split"),
        transform=model.transform,
    )
    check_digest("data", identity.get("data_digest"), data.digest(), "--data and --data-root")
    rows = {row.index: row for row in run.rows if row.index in set(indices)}
    inputs = check_inputs([rows[index] for index in indices], data, spec.shape)

    found = Findings()
    forward = Forward(model.classifier, forward_settings, device)
    noise = rebuild_noise(spec.noise or {"version": spec.noise_version}, rebuild_law(spec.law), spec.seed, device)

    def count(index: int, phase: Phase, prefixes: list[int], x: Tensor) -> list[Recount]:
        draw = noise.bind(x, index)
        return recount(
            forward,
            draw,
            spec.shape,
            phase=phase,
            prefixes=prefixes,
            num_classes=spec.num_classes,
            on_votes=on_votes,
        )

    looks = [look for index in indices for look in _replay_row(rows[index], inputs[index], count, spec, found)]
    return ReplayReport(tuple(indices), tuple(looks), tuple(found.mismatches))


def _replay_row(
    row: RawRow,
    x: Tensor,
    count: Callable[[int, Phase, list[int], Tensor], list[Recount]],
    spec: RunSpec,
    found: Findings,
) -> list[ReplayedLook]:
    usable: dict[Phase, dict[int, tuple[int, ...]]] = {}
    for raw in row.looks:
        recorded, n = fields.integers(raw.counts), fields.integer(raw.n)
        try:
            phase = Phase(raw.phase)
        except ValueError:
            phase = None
        if phase is None or n is None or n < 1 or recorded is None or len(recorded) != spec.num_classes + 1:
            found.add(
                row.index,
                "votes",
                f"{raw.phase} n={raw.n}: {raw.counts!r}",
                "a look that can be counted again",
                "replay",
            )
            continue
        usable.setdefault(phase, {})[n] = recorded
    looks = []
    for phase, counts in usable.items():
        prefixes = sorted(counts)
        for n, again in zip(prefixes, count(row.index, phase, prefixes, x), strict=True):
            looks.append(_compare(row.index, phase, n, counts[n], again, found))
    if not row.looks:
        found.add(row.index, "votes", "no look", "a look that can be counted again", "replay")
    return looks


def _compare(
    index: int, phase: Phase, n: int, recorded: tuple[int, ...], again: Recount, found: Findings
) -> ReplayedLook:
    verdict = "equal"
    if again.counts != recorded:
        verdict = "near-ties" if explained(recorded, again.counts, again.near_ties) else "different"
    if verdict == "different":
        found.add(
            index,
            "votes",
            f"{phase} n={n}: {list(recorded)}",
            f"{list(again.counts)} when drawn again; {len(again.near_ties)} near-ties do not explain that",
            "replay",
        )
    return ReplayedLook(index, str(phase), n, recorded, again.counts, verdict, again.near_ties)


def choose_evenly(indices: Sequence[int], count: int) -> list[int]:
    """Return `count` of the indices, evenly spread over them; all if there are fewer."""
    ordered = sorted(set(indices))
    if count >= len(ordered):
        return ordered
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


def _forward_settings(identity: dict[str, Any]) -> ForwardSettings:
    batch_size, precision = fields.integer(identity.get("batch_size")), fields.text(identity.get("precision"))
    if batch_size is None or precision is None:
        raise AuditError(
            "run.json must give batch_size and precision for a replay, got "
            f"batch_size={identity.get('batch_size')!r}, precision={identity.get('precision')!r}"
        )
    return ForwardSettings(
        batch_size, precision, identity.get("channels_last") is True, identity.get("compile") is True
    )


def _required(where: dict[str, Any], key: str) -> str:
    value = fields.text(where.get(key))
    if not value:
        raise AuditError(f"run.json must say {key} for a replay, got {where.get(key)!r}")
    return value
