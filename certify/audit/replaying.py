"""Replay: draw the votes of some inputs again, from the recorded seed, model and data, and compare them look by look.

All recorded samples of an input, or a range of them: `certify.audit.ranges` says what the journal then tells. Whatever the
votes depend on is compared first, and a difference there is an error: votes that were counted on another machine's noise,
another model or other data say nothing about the recorded ones. Labels and hashes of all other inputs are compared with the
data as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from certify.audit import fields
from certify.audit.findings import AuditError, Findings, Mismatch
from certify.audit.folder import RawRow, RawRun
from certify.audit.identity import (
    check_data_settings,
    check_digest,
    check_inputs,
    check_machine,
    check_rows,
    check_transform,
)
from certify.audit.neartie import NearTie, explained
from certify.audit.ranges import JudgedPiece, SampleRange, cut, judge
from certify.audit.recount import Recount, Redrawn, recount, redraw
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
class ReplayedRange:
    """A range of samples of one phase of one input, drawn and counted again.

    Attributes:
        index: The input.
        phase: The phase.
        start: First sample.
        stop: The sample after the last.
        counted: Counts over the range, K + 1 outcomes.
        pieces: The range, cut at the recorded looks, each compared with what the journal says of it.
        near_ties: Samples whose two best scores nearly agree.
        votes_sha256: Of the outcomes in order (0..K, little-endian 64-bit integers).
        copies_sha256: Of the noisy copies in order (little-endian float32): what the classifier was shown.
    """

    index: int
    phase: str
    start: int
    stop: int
    counted: tuple[int, ...]
    pieces: tuple[JudgedPiece, ...]
    near_ties: tuple[NearTie, ...]
    votes_sha256: str
    copies_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "index": self.index,
            "phase": self.phase,
            "start": self.start,
            "stop": self.stop,
            "counted": list(self.counted),
            "pieces": [piece.to_dict() for piece in self.pieces],
            "near_ties": [tie.to_dict() for tie in self.near_ties],
            "votes_sha256": self.votes_sha256,
            "copies_sha256": self.copies_sha256,
        }


@dataclass(frozen=True)
class ReplayReport:
    """What was drawn again, and how it compares.

    Attributes:
        indices: The replayed inputs.
        looks: Their looks, in order, where all samples were drawn again; else empty.
        mismatches: Votes that differ by more than near-ties can explain, inputs that could not be replayed, and labels and
            hashes of any inputs that are not those of the data.
        ranges: What was drawn again, where a range of samples was asked for; else empty.
    """

    indices: tuple[int, ...]
    looks: tuple[ReplayedLook, ...]
    mismatches: tuple[Mismatch, ...]
    ranges: tuple[ReplayedRange, ...] = ()

    @property
    def votes(self) -> int:
        """Number of votes that were drawn again: a look is a prefix, and contains those before it."""
        looks = sum({(look.index, look.phase): look.n for look in self.looks}.values())
        return looks + sum(part.stop - part.start for part in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "indices": list(self.indices),
            "votes": self.votes,
            "looks": [look.to_dict() for look in self.looks],
            "ranges": [part.to_dict() for part in self.ranges],
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
        }


def replay(
    run: RawRun,
    spec: RunSpec,
    indices: Sequence[int],
    options: ReplayOptions,
    on_votes: Callable[[int], None] | None = None,
    samples: SampleRange | None = None,
) -> ReplayReport:
    """Draw the votes of `indices` again and compare them with the journal's.

    Args:
        run: The run folder.
        spec: What `run.json` promises.
        indices: Inputs with a row in the journal.
        options: Where model and data are.
        on_votes: Called with the number of votes after every batch.
        samples: Draw this part of the recorded samples only; default: all of them.

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
    check_data_settings(settings, data, found)
    check_rows((row for row in run.rows if row.index not in rows), data, found)
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

    def again(index: int, phase: Phase, start: int, stop: int, x: Tensor) -> Redrawn:
        draw = noise.bind(x, index)
        return redraw(
            forward,
            draw,
            spec.shape,
            phase=phase,
            start=start,
            stop=stop,
            num_classes=spec.num_classes,
            on_votes=on_votes,
            digest=True,
        )

    looks: list[ReplayedLook] = []
    ranges: list[ReplayedRange] = []
    for index in indices:
        recorded = _recorded(rows[index], spec, found)
        if samples is None:
            looks += _replay_looks(index, recorded, inputs[index], count, found)
        else:
            ranges += _replay_range(index, recorded, inputs[index], samples, again, found)
    return ReplayReport(tuple(indices), tuple(looks), tuple(found.mismatches), tuple(ranges))


def _recorded(row: RawRow, spec: RunSpec, found: Findings) -> dict[Phase, dict[int, tuple[int, ...]]]:
    """Return phase -> samples of a look -> counts, for the looks that can be counted again; report the others."""
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
    if not row.looks:
        found.add(row.index, "votes", "no look", "a look that can be counted again", "replay")
    return usable


def _replay_looks(
    index: int,
    recorded: dict[Phase, dict[int, tuple[int, ...]]],
    x: Tensor,
    count: Callable[[int, Phase, list[int], Tensor], list[Recount]],
    found: Findings,
) -> list[ReplayedLook]:
    looks = []
    for phase, counts in recorded.items():
        prefixes = sorted(counts)
        for n, again in zip(prefixes, count(index, phase, prefixes, x), strict=True):
            looks.append(_compare(index, phase, n, counts[n], again, found))
    return looks


def _replay_range(
    index: int,
    recorded: dict[Phase, dict[int, tuple[int, ...]]],
    x: Tensor,
    samples: SampleRange,
    again: Callable[[int, Phase, int, int, Tensor], Redrawn],
    found: Findings,
) -> list[ReplayedRange]:
    ranges = []
    for phase, counts in recorded.items():
        part = samples.within(str(phase), max(counts))
        if part is None:
            continue
        redrawn = again(index, phase, *part, x)
        pieces = []
        for piece in cut(*part, counts):
            votes = redrawn.count(piece.start, piece.stop)
            judged = judge(piece, votes.counts, votes.near_ties)
            pieces.append(judged)
            if not judged.passed:
                bound = "" if piece.whole else "at most "
                found.add(
                    index,
                    "votes",
                    f"{phase} samples [{piece.start}, {piece.stop}): {bound}{list(piece.recorded)}",
                    f"{list(votes.counts)} when drawn again; {len(votes.near_ties)} near-ties do not explain that",
                    "replay",
                )
        whole = redrawn.count(*part)
        assert redrawn.copies_sha256 is not None  # it was asked for
        ranges.append(
            ReplayedRange(
                index,
                str(phase),
                *part,
                whole.counts,
                tuple(pieces),
                whole.near_ties,
                redrawn.votes_sha256,
                redrawn.copies_sha256,
            )
        )
    return ranges


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
