"""One side of a comparison: a run folder of either kind, as radii of one classifier on numbered inputs in one norm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from certify.errors import CertifyError
from certify.journal import Journal
from certify.outcomes import ABSTAINED, NAMES
from certify.report.service import read_service
from certify.report.sources import estimator_facts
from certify.rundir import KIND as SMOOTHING
from certify.rundir import Row, read_config, read_run
from certify.verification.exports import clip_text
from certify.verification.plan import KIND as VERIFY
from certify.verification.row import CERTIFICATE, SOLVER, VERIFIED, VerifyRow
from smoothing.threat import Norm, convert_radius


@dataclass(frozen=True)
class Point:
    """One input.

    Attributes:
        label: The data's label.
        predict: What this side's classifier says; negative where it says nothing.
        method: What the radius comes from.
        status: What its own run says: "certified", "misclassified", "abstain" (all votes were counted and prove no class),
            "undecided" (the votes that were allowed did not decide the smallest radius) or "refuted" (the tested class was
            shown not to reach it) for g; "certified", "misclassified", "falsified", "unknown" or "timeout" for f.
        radius: Certified radius, input units; 0.0 where the prediction is wrong or absent, or nothing is proved.
        margin: Lower bound on the smallest margin there; None where there is none.
        attack_radius: Distance of the nearest successful attack on this classifier; None where none is known.
        attack: Name of the attack.
        seconds: Time that the certificate took.
        device: Where.
        certificate_path: Where its derivation lies.
        input_sha256: Digest of the input.
    """

    label: int
    predict: int
    method: str
    status: str
    radius: float
    margin: float | None
    attack_radius: float | None
    attack: str | None
    seconds: float
    device: str
    certificate_path: str | None
    input_sha256: str


@dataclass(frozen=True)
class Side:
    """All inputs of one run.

    Attributes:
        folder: The run folder.
        kind: "verify" or "smoothing".
        name: Short text for tables.
        classifier: "f" (the network itself) or "g" (its smoothed version): two different classifiers.
        guarantee: "deterministic" or "probabilistic".
        alpha: Failure probability per input; 0 where deterministic.
        norm: Norm of the radii.
        clip: Whether the certified set is cut by the pixels' interval, in words.
        converted_from: How radii got into this norm, in words; None where they were proved in it.
        model_digest: Digest of the network.
        data_digest: Digest of the data set.
        split: Part of the data set.
        points: By index.
        dimension: Number of coordinates.
        settings: Estimator, cap, n0, n, sigma, seed, methods: what the row of a report must say.
        notes: What a reader should know.
        config: Content of `run.json`.
        decides: Whether the run decided radii, so that inputs can be undecided or refuted, which is no abstaining.
    """

    folder: Path
    kind: str
    name: str
    classifier: str
    guarantee: str
    alpha: float
    norm: Norm
    clip: str
    converted_from: str | None
    model_digest: str
    data_digest: str
    split: str
    points: Mapping[int, Point]
    dimension: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    decides: bool = False

    @property
    def of_service(self) -> bool:
        """Whether a prediction service gave the votes, so that there is no network here."""
        return self.config["identity"].get("service") is not None

    @property
    def alpha_all(self) -> float:
        """Failure probability over all inputs together."""
        return min(1.0, self.alpha * len(self.points))

    def with_attacks(self, distances: Mapping[int, float | None], name: str) -> "Side":
        """Return the side with the results of an attack on its classifier."""
        points = {
            index: replace(point, attack_radius=distances[index], attack=name) if index in distances else point
            for index, point in self.points.items()
        }
        return replace(self, points=points)

    def converted(self, norm: Norm) -> "Side":
        """Return the side with radii of inscribed balls in another norm; never larger than what was proved.

        Attack distances were measured in the old norm and say nothing in the new one: they are dropped.
        """
        if norm is self.norm:
            return self
        points = {
            index: replace(
                point,
                radius=convert_radius(point.radius, self.norm, norm, self.dimension),
                margin=None,
                attack_radius=None,
                attack=None,
            )
            for index, point in self.points.items()
        }
        factor = convert_radius(1.0, self.norm, norm, self.dimension)
        said = f"{self.norm} via inscribed ball (x {factor:.6g})"
        if self.converted_from is not None:
            said = f"{self.converted_from}, then {said}"
        return replace(self, norm=norm, points=points, converted_from=said)


def read_side(folder: Path) -> Side:
    """Read a finished run folder.

    Raises:
        CertifyError: If it is no run folder, of another kind, or not finished.
    """
    config = read_config(folder)
    if config["kind"] == VERIFY:
        return _verification(folder, config)
    if config["kind"] == SMOOTHING:
        return _smoothing(folder)
    raise CertifyError(f"{folder} must hold a run of certify run or certify verify, got kind {config['kind']!r}")


def _require_whole(folder: Path, planned: set[int], done: set[int]) -> None:
    missing = planned - done
    if missing or not done:
        raise CertifyError(
            f"{folder} must be finished to be compared, got {len(missing)} of {len(planned)} inputs missing; repeat its "
            "command"
        )


def _verification(folder: Path, config: dict[str, Any]) -> Side:
    identity, settings = config["identity"], config["settings"]
    if "vnnlib_sha256" in identity:
        raise CertifyError(f"{folder} must be a run over a data set to be compared, got a VNN-LIB file")
    with Journal(folder, kind=VERIFY) as journal:
        rows = [VerifyRow.from_entry(entry) for entry in journal.entries()]
    _require_whole(folder, set(settings["indices"]), {row.index for row in rows})
    if identity["against"] != "label":
        raise CertifyError(f"{folder} must be about labels to be compared, got --against {identity['against']}")
    notes = [] if identity["search"] else [f"{folder.name}: radii are 0 or {identity['eps']:g}, none were searched"]
    if identity["methods"].get("pure"):
        notes.append(f"{folder.name}: every method ran alone, as published; the best of them counts")
    beyond = sum(row.radius((SOLVER,)) > row.radius() for row in rows)
    if beyond:
        notes.append(
            f"{folder.name}: for {beyond} inputs a solver claims a larger radius; it cannot be checked and is not used here"
        )
    trained = settings.get("trained_with")
    if trained is not None:
        notes.append(f"{folder.name}: f was trained for smoothing ({trained})")
    dimension = math.prod(settings["shape"])
    methods = identity["methods"]
    return Side(
        folder=folder,
        kind=VERIFY,
        name=f"f {'+'.join(name for name in methods['names'] if name not in ('pgd', 'milp')) or 'attack'}",
        classifier="f",
        guarantee="deterministic",
        alpha=0.0,
        norm=Norm.parse(identity["norm"]),
        clip=clip_text(identity["clip"]),
        converted_from=None,
        model_digest=identity["model_digest"],
        data_digest=identity["data_digest"],
        split=identity["split"],
        points={row.index: _checked_point(row) for row in rows},
        dimension=dimension,
        settings={"methods": methods["names"], "eps": identity["eps"], "seed": methods.get("seed")},
        notes=tuple(notes),
        config=config,
    )


def _checked_point(row: VerifyRow) -> Point:
    """Only claims with a certificate that can be checked count."""
    checked = [c for c in row.claims if c.rests_on == CERTIFICATE and c.status == VERIFIED]
    best = max(checked, key=lambda claim: claim.radius, default=None)
    status = "certified" if best is not None else "unknown" if row.status == VERIFIED else row.status
    return Point(
        label=-1 if row.label is None else row.label,
        predict=-1 if row.predict is None else row.predict,
        method=best.certificate or best.method if best is not None else row.claims[-1].method if row.claims else "",
        status=status,
        radius=0.0 if best is None else best.radius,
        margin=None if best is None else best.margin,
        attack_radius=row.attack_radius,
        attack=row.attack,
        seconds=row.seconds,
        device=row.device,
        certificate_path=None if best is None else f"certificates/{row.index}.npz#{best.certificate}",
        input_sha256=row.input_sha256,
    )


def _smoothing(folder: Path) -> Side:
    run = read_run(folder)
    identity, settings = run.identity, run.config["settings"]
    _require_whole(folder, set(run.planned), {row.index for row in run.rows})
    law = identity["law"]
    source = identity.get("convert_from")
    notes = []
    service = read_service(folder, run.config, (row.index for row in run.rows))
    if service is not None:
        notes.append(f"{folder.name}: the base classifier of g is {service.classifier}; nobody says how it was trained")
    elif settings.get("model_noise") is None:
        notes.append(f"{folder.name}: g's network does not say that it was trained with noise")
    device = str(run.config["environment"].get("device"))
    estimator = identity["estimator"]
    facts = estimator_facts(estimator)
    dimension = math.prod(law["shape"])
    converted = None
    if source is not None:
        converted = f"{source} via inscribed ball (x {convert_radius(1.0, source, identity['norm'], dimension):.6g})"
    return Side(
        folder=folder,
        kind=SMOOTHING,
        name=f"g {law['name']} sigma {law['sigma']:g}" if law.get("sigma") else f"g {law['name']}",
        classifier="g",
        guarantee="probabilistic",
        alpha=float(estimator["alpha"]),
        norm=Norm.parse(identity["norm"]),
        clip="no clip",
        converted_from=converted,
        model_digest=identity["model_digest"],
        data_digest=identity["data_digest"],
        split=identity["split"],
        points={row.index: _certified_point(row, device) for row in run.rows},
        dimension=dimension,
        settings={
            "law": law["name"],
            "sigma": law.get("sigma"),
            "estimator": facts["estimator"],
            "n0": facts["n0"],
            "n": facts["n"],
            "cap": facts["cap"],
            "seed": identity["seed"],
        },
        notes=tuple(notes),
        config=run.config,
        decides=facts["grid"] is not None,
    )


def _certified_point(row: Row, device: str) -> Point:
    right = row.predict == row.label
    status = "certified" if right else "misclassified"
    if row.predict < 0:
        status = "abstain" if row.predict == ABSTAINED else NAMES[row.predict]
    return Point(
        label=row.label,
        predict=row.predict,
        method="smoothing",
        status=status,
        radius=row.radius if right else 0.0,
        margin=None,
        attack_radius=None,
        attack=None,
        seconds=row.seconds,
        device=device,
        certificate_path=f"journal.sqlite#{row.index}",
        input_sha256=row.input_sha256,
    )
