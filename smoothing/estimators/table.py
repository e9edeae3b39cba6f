"""Names on the command line -> estimators. A new estimator is one file, one import line and one row here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.anytime import AnytimeEstimator
from smoothing.estimators.base import Estimator
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.planned import PlannedEstimator
from smoothing.estimators.sequential import SequentialEstimator
from smoothing.estimators.thresholds import Threshold

ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.name: estimator for estimator in (FixedEstimator, SequentialEstimator, AnytimeEstimator, PlannedEstimator)
}


def find_estimator(name: str) -> type[Estimator]:
    """Return the class of the estimator that `name` names.

    Raises:
        InvalidArgumentError: If it names none; the message lists all.
    """
    if name not in ESTIMATORS:
        raise InvalidArgumentError(f"estimator must be one of {', '.join(ESTIMATORS)}, got estimator={name!r}")
    return ESTIMATORS[name]


def rebuild_estimator(description: Mapping[str, Any], *, cache: Path | None = None) -> Estimator:
    """Build the estimator that `Estimator.describe` wrote down, and check that it describes itself so.

    Args:
        description: What `describe` returned.
        cache: Folder that keeps boundaries.

    Raises:
        InvalidArgumentError: If the description is of no estimator, or of one whose boundaries come out differently here
            (another version of numpy or scipy, or of this project): the stored boundaries still say what was tested.
    """
    derived = ("name", "rival_alpha", "boundaries", "refutations")
    arguments: dict[str, Any] = {key: value for key, value in description.items() if key not in derived}
    kind = find_estimator(str(description.get("name")))
    if "thresholds" in arguments:
        arguments["thresholds"] = tuple(Threshold(float(e["radius"]), float(e["q0"])) for e in arguments["thresholds"])
    if kind is SequentialEstimator:
        arguments["cache"] = cache
    try:
        estimator = kind(**arguments)
    except TypeError as error:
        raise InvalidArgumentError(f"the description must be that of an estimator, got {dict(description)}") from error
    if estimator.describe() != dict(description):
        raise InvalidArgumentError(
            f"the estimator must come out as it was described, got {estimator.describe()} from {dict(description)}"
        )
    return estimator
