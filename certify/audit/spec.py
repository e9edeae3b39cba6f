"""What `run.json` promises of every certificate of a run, read strictly."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from certify.audit import fields
from certify.audit.findings import AuditError
from certify.audit.folder import RawRun


@dataclass(frozen=True)
class RunSpec:
    """The parts of a run's identity that its certificates are derived from.

    Attributes:
        kind: Kind of the run, "smoothing".
        estimator: The estimator's name and parameters.
        law: The law's description: name, shape, sigma, parameters.
        norm: Norm of the certificates.
        convert_from: Norm in which radii are proved, where they are converted to `norm`; None otherwise.
        num_classes: K.
        alpha: One-sided error probability per input.
        seed: The run's seed.
        noise_version: How noise follows from the seed.
        precision: Arithmetic of the forward pass.
        planned: Inputs that the latest command asked for.
        data_size: Number of inputs of the data set.
        folder: The run folder, where the boundaries of a sequential run are.
        noise: Parameters of the noise beside its version; empty for versions without any.
        slack: How much the drawn noise may differ from the law, in probability: what every certificate has to allow for.
        extended_from: The estimators that a continued run had before, the first one first.
    """

    kind: str
    estimator: dict[str, Any]
    law: dict[str, Any]
    norm: str
    convert_from: str | None
    num_classes: int
    alpha: float
    seed: int
    noise_version: str
    precision: str
    planned: tuple[int, ...]
    data_size: int | None
    folder: Path
    noise: dict[str, Any]
    slack: float
    extended_from: tuple[Any, ...] = ()

    @property
    def estimator_name(self) -> str:
        """Name of the estimator."""
        return str(self.estimator["name"])

    @property
    def law_name(self) -> str:
        """Name of the law."""
        return str(self.law["name"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.law["shape"])

    @property
    def dimension(self) -> int:
        """d, the number of coordinates."""
        return math.prod(self.shape)

    @property
    def proved_in(self) -> str:
        """Norm of the theorem that the radii come from."""
        return self.convert_from or self.norm

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, estimator, law): which checker is responsible."""
        return self.kind, self.estimator_name, self.law_name


def read_spec(run: RawRun) -> RunSpec:
    """Read the identity of a run.

    Raises:
        AuditError: If something is missing, of a wrong type or out of range: without it nothing can be derived.
    """
    reader = _Reader(run)
    identity, settings = reader.mapping(run.config, "identity"), reader.mapping(run.config, "settings")
    kind = reader.text(run.config, "kind")
    if kind != run.kind:
        raise AuditError(f"run.json and the journal must be of one kind, got {kind!r} and {run.kind!r}")
    estimator, law = reader.mapping(identity, "estimator"), reader.mapping(identity, "law")
    reader.text(estimator, "name")
    reader.text(law, "name")
    reader.mapping(law, "parameters")
    shape = fields.integers(law.get("shape"))
    if not shape or min(shape) < 1:
        reader.refuse("law.shape", "a list of positive integers", law.get("shape"))
    if fields.integers(identity.get("input_shape")) != shape:
        reader.refuse("input_shape", f"the law's shape, {shape}", identity.get("input_shape"))
    alpha = fields.number(estimator.get("alpha"))
    if alpha is None or not 0.0 < alpha < 1.0:
        reader.refuse("estimator.alpha", "a number in (0, 1)", estimator.get("alpha"))
    num_classes, seed = fields.integer(identity.get("num_classes")), fields.integer(identity.get("seed"))
    if num_classes is None or num_classes < 2:
        reader.refuse("num_classes", "an integer of at least 2", identity.get("num_classes"))
    if seed is None or seed < 0:
        reader.refuse("seed", "an integer of at least 0", identity.get("seed"))
    planned = fields.integers(settings.get("indices"))
    if planned is None:
        reader.refuse("settings.indices", "a list of integers", settings.get("indices"))
    extended_from = settings.get("extended_from", [])
    if not isinstance(extended_from, list):
        reader.refuse("settings.extended_from", "a list of estimators", extended_from)
    for key in ("device_name", "transform"):  # runs of earlier versions have neither
        if identity.get(key) is not None:
            reader.text(identity, key)
    version = reader.text(identity, "noise_version")
    noise = {} if identity.get("noise") is None else reader.mapping(identity, "noise")
    norm = reader.text(identity, "norm")
    source = None if identity.get("convert_from") is None else reader.text(identity, "convert_from")
    return RunSpec(
        kind=kind,
        estimator=estimator,
        law=law,
        norm=norm,
        convert_from=None if source == norm else source,
        num_classes=num_classes,
        alpha=alpha,
        seed=seed,
        noise_version=version,
        precision=reader.text(identity, "precision"),
        planned=planned,
        data_size=fields.integer(settings.get("data_size")),
        folder=run.folder,
        noise=noise,
        slack=_slack(reader, run.config),
        extended_from=tuple(extended_from),
    )


def _slack(reader: "_Reader", config: dict[str, Any]) -> float:
    """The slack that run.json says; whether it is enough is checked with the law (`certify.audit.noise`)."""
    environment = reader.mapping(config, "environment")
    if "probability_slack" not in environment:
        return 0.0  # runs of earlier versions, whose noise claims nothing
    slack = fields.number(environment.get("probability_slack"))
    if slack is None or not 0.0 <= slack < 0.5:
        reader.refuse("environment.probability_slack", "a number in [0, 1/2)", environment.get("probability_slack"))
    return slack


class _Reader:
    """Reads values from `run.json` or says which one is wrong."""

    def __init__(self, run: RawRun) -> None:
        self._path = run.folder / "run.json"

    def text(self, where: dict[str, Any], key: str) -> str:
        value = fields.text(where.get(key))
        if not value:
            self.refuse(key, "text", where.get(key))
        return value

    def mapping(self, where: dict[str, Any], key: str) -> dict[str, Any]:
        value = fields.mapping(where.get(key))
        if value is None:
            self.refuse(key, "a JSON object", where.get(key))
        return value

    def refuse(self, key: str, rule: str, value: Any) -> Never:
        raise AuditError(f"{self._path} cannot be audited: {key} must be {rule}, got {value!r}")
