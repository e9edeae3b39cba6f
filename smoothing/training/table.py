"""Names on the command line -> objectives. A new objective is one file, one import line and one row here."""

from dataclasses import fields
from typing import Any

from smoothing.errors import InvalidArgumentError
from smoothing.training.augmentation import NoiseAugmentation
from smoothing.training.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in (NoiseAugmentation,)}


def make_objective(name: str, **parameters: Any) -> Objective:
    """Build the objective that `name` names.

    Args:
        name: A key of `OBJECTIVES`.
        **parameters: Its hyper-parameters; None counts as not given.

    Raises:
        InvalidArgumentError: If the name or a parameter is unknown, or a value is out of range.
    """
    if name not in OBJECTIVES:
        raise InvalidArgumentError(f"objective must be one of {', '.join(OBJECTIVES)}, got objective={name!r}")
    objective = OBJECTIVES[name]
    given = {key: value for key, value in parameters.items() if value is not None}
    known = [field.name for field in fields(objective)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidArgumentError(
            f"objective {name} takes {', '.join(known) or 'no parameters'}, "
            f"got {', '.join(f'{key}={given[key]!r}' for key in unknown)}"
        )
    return objective(**given)
