"""Names on the command line -> objectives. A new objective is one file, one import line and one row here."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from smoothing.errors import InvalidArgumentError
from smoothing.training.augmentation import NoiseAugmentation
from smoothing.training.catrs import CatRS
from smoothing.training.consistency import Consistency
from smoothing.training.direct import Direct
from smoothing.training.macer import Macer
from smoothing.training.objective import Objective
from smoothing.training.smoothadv import SmoothAdv
from smoothing.training.smoothmix import SmoothMix
from smoothing.training.stability import Stability

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (NoiseAugmentation, Stability, SmoothAdv, Macer, Consistency, SmoothMix, CatRS, Direct)
}


def make_objective(name: str, **parameters: Any) -> Objective:
    """Build the objective that `name` names.

    Args:
        name: A key of `OBJECTIVES`.
        **parameters: Its hyper-parameters; None counts as not given.

    Raises:
        InvalidArgumentError: If the name or a parameter is unknown, or a value is out of range.
    """
    objective = find_objective(name)
    given = {key: value for key, value in parameters.items() if value is not None}
    unknown = sorted(set(given) - {field.name for field in fields(objective)})
    if unknown:
        raise InvalidArgumentError(
            f"objective {name} takes {describe_parameters(name)}, "
            f"got {', '.join(f'{key}={given[key]!r}' for key in unknown)}"
        )
    # A whole number is a number: recipes and command lines write 1 for 1.0.
    floats = {field.name for field in fields(objective) if type(field.default) is float}
    return objective(**{k: float(v) if k in floats and type(v) is int else v for k, v in given.items()})


def find_objective(name: str) -> type[Objective]:
    """Return the class that `name` names.

    Raises:
        InvalidArgumentError: If it names none.
    """
    if name not in OBJECTIVES:
        raise InvalidArgumentError(f"objective must be one of {', '.join(OBJECTIVES)}, got objective={name!r}")
    return OBJECTIVES[name]


def describe_parameters(name: str) -> str:
    """Return what an objective takes, with its defaults: "m=2, weight=10.0, entropy=0.5", or "no parameters"."""
    return ", ".join(f"{f.name}={_text(f.default)}" for f in fields(find_objective(name))) or "no parameters"


def parse_parameters(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the hyper-parameters of an objective as values of the right types, from the texts of a command line.

    Args:
        name: A key of `OBJECTIVES`.
        texts: Parameter -> text; "true" and "false" for switches.

    Raises:
        InvalidArgumentError: If the objective takes no such parameter, or the text is not such a value.
    """
    types = {field.name: type(field.default) for field in fields(find_objective(name)) if field.default is not MISSING}
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in types:
            raise InvalidArgumentError(f"objective {name} takes {describe_parameters(name)}, got {key}={text}")
        values[key] = _read(name, key, text, types[key])
    return values


def _read(name: str, key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InvalidArgumentError(f"{key} of {name} must be true or false, got {key}={text}")
    try:
        return kind(text)
    except ValueError:
        expected = {int: "an integer", float: "a number"}[kind]
        raise InvalidArgumentError(f"{key} of {name} must be {expected}, got {key}={text}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
