"""Attacks on a certified run: how accurate the smoothed classifier stays under attack, beside what was certified.

The truth lies between: certified accuracy is a lower bound on robust accuracy (up to alpha per input), accuracy under any
attack an upper bound. Both come from the same inputs here. An attack that finds another class *inside* a certified radius
would contradict the certificate: it is an alarm, and means a defect of this program, of the noise, or of the classifier.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from certify.datasets import load_dataset
from certify.errors import CertifyError, ModelError, UsageError
from certify.models import load_model
from certify.models.base import LoadedModel
from certify.rundir import Row, Run, read_run
from certify.setup import pick_device
from smoothing.attacks import Loss, base_loss, evaluating, exact_length, input_gradient, pgd, smoothed_loss
from smoothing.attacks.geometry import check_norm
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import rebuild_law
from smoothing.errors import ClassifierError
from smoothing.smoothed import SmoothedClassifier
from smoothing.statistics.binomial import check_alpha
from smoothing.threat import Norm, ThreatModel
from smoothing.training.randomness import seeded_generator

_ROWS = 1024
"""Noisy rows of a forward pass, about; a single input's m copies stay together."""

DEFAULT_RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class AttackOptions:
    """What a user asks for.

    Attributes:
        folder: The run folder.
        radii: Radii of the attacks, input units; default: `DEFAULT_RADII` for l2, else multiples of the mean radius.
        m: Noise samples that an attack sees; 0 attacks the base classifier.
        steps: Gradient steps.
        restarts: Starts, all but the first random.
        n: Votes that judge an attacked input.
        alpha: Error probability over all judgements of this command together.
        maximum: Attack at most this many inputs, evenly chosen.
        inside: Also attack each certified input at its own radius.
        seed: Seed of the attacks' noise and starts, and of the judging votes.
        model: Where the run's model is now; default: where it was.
        data_root: Folder of the data sets.
        device: Where to run.
        trust_pickle: Unpickle model files that need it.

    Raises:
        UsageError: If a value is out of range.
    """

    folder: Path
    radii: tuple[float, ...] | None = None
    m: int = 32
    steps: int = 20
    restarts: int = 1
    n: int = 1_000
    alpha: float = 0.001
    maximum: int | None = 100
    inside: bool = True
    seed: int = 0
    model: str | None = None
    data_root: Path | None = None
    device: str | None = None
    trust_pickle: bool = False

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        for name, least in (("m", 0), ("steps", 1), ("restarts", 1), ("n", 1), ("maximum", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, got {name}={value}")
        if self.radii is not None and (
            not self.radii
            or any(not 0 < r < float("inf") for r in self.radii)
            or list(self.radii) != sorted(set(self.radii))
        ):
            raise UsageError(f"radii must be positive, finite and increasing, got {list(self.radii)}")


@dataclass(frozen=True)
class Alarm:
    """An attacked input inside its certified radius that was significantly given another class.

    Attributes:
        index: The input.
        certified_class: What was certified.
        certified_radius: How far.
        distance: How far the attack went, exactly.
        found_class: What `predict` returned there.
    """

    index: int
    certified_class: int
    certified_radius: float
    distance: float
    found_class: int


@dataclass(frozen=True)
class RadiusResult:
    """One radius.

    Attributes:
        radius: Of the attack.
        certified: Share of the inputs that are certified right at it: a lower bound on robust accuracy.
        empirical: Share that the attack left standing: an upper bound. An input is counted as broken where `predict`
            significantly returns a wrong class, at this or at a smaller radius; where it abstains it still stands.
        abstained: Share where `predict` abstained at this radius.
    """

    radius: float
    certified: float
    empirical: float
    abstained: float


@dataclass(frozen=True)
class AttackReport:
    """What came out.

    Attributes:
        norm: Norm of the attacks and certificates.
        inputs: How many inputs were attacked.
        results: By radius.
        alarms: Contradictions of certificates; empty where all is well.
        checked: Attacks inside a certified radius that were judged.
        alpha_each: Error probability of each judgement.
        options: What was asked for.
    """

    norm: str
    inputs: int
    results: tuple[RadiusResult, ...]
    alarms: tuple[Alarm, ...]
    checked: int
    alpha_each: float
    options: AttackOptions

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        options = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(self.options).items()}
        return {
            "norm": self.norm,
            "inputs": self.inputs,
            "results": [asdict(result) for result in self.results],
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "checked_inside": self.checked,
            "alpha_each": self.alpha_each,
            **options,
        }


def attack_run(options: AttackOptions, on_progress: Callable[[int, int], None] | None = None) -> AttackReport:
    """Attack inputs of a run at growing radii, judge each attacked input by fresh votes, compare with the certificates.

    Args:
        options: What to do.
        on_progress: Called with the judged attacks so far and how many there will be.

    Raises:
        CertifyError: If the run cannot be read, or model or data are not the run's.
        UnsupportedNormError: If there is no attack for the run's norm.
        ModelError: If the model has no gradients.
    """
    run = read_run(options.folder)
    norm = check_norm(Norm.parse(run.identity["norm"]))
    rows = _choose(run.rows, options.maximum)
    law = rebuild_law(run.identity["law"])
    model, x = _load(run, rows, options)
    device = pick_device(options.device)
    target = _Target(model, law, norm, device, options, run.identity.get("precision", "fp32"))
    target.check_gradients(x[:1])

    radii = options.radii or _default_radii(norm, rows)
    inside = [i for i, row in enumerate(rows) if row.predict >= 0 and 0 < row.radius < float("inf")]
    total = len(rows) * len(radii) + (len(inside) if options.inside else 0)
    alpha_each = options.alpha / total
    # The class that an attack moves away from: the certified one, so that a certificate of a wrong class is tried too.
    y = torch.tensor([row.predict if row.predict >= 0 else row.label for row in rows])
    broken_at = [float("inf") if int(c) == row.label else 0.0 for c, row in zip(y, rows, strict=True)]
    alarms, checked, done = [], 0, 0
    results = []
    trials: list[tuple[float | None, list[int]]] = [(radius, list(range(len(rows)))) for radius in radii]
    if options.inside:
        trials += [(None, [i]) for i in inside]
    abstained: dict[float, int] = {}
    for radius, positions in trials:
        reach = rows[positions[0]].radius if radius is None else radius
        moved = target.attack(x[positions], y[positions], reach, [rows[i].index for i in positions])
        found = target.judge(moved, alpha_each)
        for position, point, label in zip(positions, moved, found, strict=True):
            row = rows[position]
            if label is not None and label != row.label:
                broken_at[position] = min(broken_at[position], reach)
            distance = float(exact_length(point[None], x[position][None], norm)[0])
            if row.predict >= 0 and distance <= row.radius:
                checked += 1
                if label is not None and label != row.predict:
                    alarms.append(Alarm(row.index, row.predict, row.radius, distance, label))
        if radius is not None:
            abstained[radius] = sum(label is None for label in found)
        done += len(positions)
        if on_progress is not None:
            on_progress(done, total)
    count = len(rows)
    for radius in radii:
        certified = sum(row.correct and row.radius >= radius for row in rows) / count
        standing = sum(at > radius for at in broken_at) / count
        results.append(RadiusResult(radius, certified, standing, abstained[radius] / count))
    return AttackReport(str(norm), count, tuple(results), tuple(alarms), checked, alpha_each, options)


def _default_radii(norm: Norm, rows: Sequence[Row]) -> tuple[float, ...]:
    proved = [row.radius for row in rows if 0 < row.radius < float("inf")]
    if norm is Norm.L2 or not proved:
        return DEFAULT_RADII
    mean = float(f"{sum(proved) / len(proved):.2g}")  # a round number, for the table
    return tuple(share * mean for share in (0.5, 1.0, 1.5, 2.0))


class _Target:
    """The smoothed classifier of the run, attacked and judged."""

    def __init__(
        self,
        model: LoadedModel,
        law: SmoothingDistribution,
        norm: Norm,
        device: torch.device,
        options: AttackOptions,
        precision: str,
    ) -> None:
        self._model, self._law, self._norm, self._device, self._options = model, law, norm, device, options
        classes = model.num_classes
        if classes is None:
            raise ModelError("the model does not say how many classes it has")
        self._smoothed = SmoothedClassifier(
            model.classifier, law, classes, batch_size=512, device=device, precision=precision
        )

    def check_gradients(self, x: Tensor) -> None:
        """Refuse a classifier that gradients do not pass through."""
        try:
            with evaluating(self._model.classifier):
                gradient, _ = input_gradient(lambda v: self._scores(v).amax(1), x.to(self._device))
        except (RuntimeError, ClassifierError, IndexError) as error:
            raise ModelError(
                f"an attack needs a classifier that returns scores and lets gradients through; {self._model.spec} does not "
                f"({str(error).strip().splitlines()[0]})"
            ) from error
        if not bool((gradient != 0).any()):
            raise ModelError(
                f"an attack needs gradients, but those of {self._model.spec} are 0: does it return labels?"
            )

    def attack(self, x: Tensor, y: Tensor, radius: float, keys: Sequence[int]) -> Float[Tensor, "batch *shape"]:
        """Return points within the radius that the smoothed classifier is least likely to give their class."""
        options, m = self._options, self._options.m
        size = max(_ROWS // max(m, 1), 1)
        parts = []
        for first in range(0, len(x), size):
            part, labels = x[first : first + size].to(self._device), y[first : first + size].to(self._device)
            with evaluating(self._model.classifier):
                loss: Loss = base_loss(self._scores, labels)
                if m > 0:
                    noise = torch.stack([self._noise(key) for key in keys[first : first + size]], dim=1)
                    loss = smoothed_loss(self._scores, labels, noise)
                starts = seeded_generator(self._device, options.seed, "attack starts", keys[first])
                result = pgd(
                    loss,
                    part,
                    ThreatModel(self._norm, radius),
                    steps=options.steps,
                    restarts=options.restarts,
                    generator=starts,
                )
            parts.append(result.x.cpu())
        return torch.cat(parts)

    def judge(self, x: Tensor, alpha: float) -> list[int | None]:
        """Return the class of each point, or None where the votes do not prove it."""
        # The same point may come twice (an attack that does not move); its votes are then the same.
        return self._smoothed.predict(x, n=self._options.n, alpha=alpha, seed=self._options.seed)

    def _noise(self, key: int) -> Tensor:
        generator = seeded_generator(self._device, self._options.seed, "attack", key)
        return self._law.sample(self._options.m, generator=generator, device=self._device)

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self._model.classifier(x)
        return scores


def _choose(rows: Sequence[Row], maximum: int | None) -> list[Row]:
    if not rows:
        raise CertifyError("the run has no finished input to attack")
    if maximum is None or len(rows) <= maximum:
        return list(rows)
    return [rows[i * len(rows) // maximum] for i in range(maximum)]


def _load(run: Run, rows: Sequence[Row], options: AttackOptions) -> tuple[LoadedModel, Float[Tensor, "batch *shape"]]:
    settings, identity = run.config["settings"], run.identity
    model = load_model(
        options.model or settings["model"],
        num_classes=settings.get("num_classes"),
        input_shape=tuple(identity["law"]["shape"]),
        architecture=settings.get("architecture"),
        normalisation=settings.get("normalisation"),
        trust_pickle=options.trust_pickle,
    )
    root = options.data_root or (None if settings.get("data_root") is None else Path(settings["data_root"]))
    data = load_dataset(settings["data"], root=root, split=identity["split"], transform=model.transform)
    for what, recorded, here in (
        ("model", identity.get("model_digest"), model.digest),
        ("data", identity.get("data_digest"), data.digest()),
    ):
        if recorded != here:
            raise CertifyError(
                f"the {what} must be that of the run: run.json has the digest {recorded}, what was loaded has {here}"
            )
    return model, data.inputs([row.index for row in rows])
