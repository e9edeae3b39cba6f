"""Names on the command line -> laws. A new law is one file, one import line and one row here."""

from dataclasses import MISSING, fields
from typing import Any

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.exp_inf import ExpInf
from smoothing.distributions.exp_one import Exp1
from smoothing.distributions.exp_p import Expp
from smoothing.distributions.exp_two import Exp2
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.pareto import Pareto
from smoothing.distributions.pow_inf import PowInf
from smoothing.distributions.pow_two import Pow2
from smoothing.distributions.uniform import Uniform
from smoothing.distributions.uniform_ball import UniformBall
from smoothing.errors import InvalidArgumentError

LAWS: dict[str, type[SmoothingDistribution]] = {
    law.name: law for law in (Gaussian, Laplace, Uniform, ExpInf, Exp1, Expp, Pareto, PowInf, UniformBall, Exp2, Pow2)
}


def make_law(name: str, shape: tuple[int, ...], **parameters: Any) -> SmoothingDistribution:
    """Build the law that `name` names.

    Args:
        name: A key of `LAWS`.
        shape: Event shape.
        **parameters: `sigma` or the law's own scale, and its shape parameters; None counts as not given.

    Raises:
        InvalidArgumentError: If the name or a parameter is unknown, a shape parameter without default is missing, or a
            value is out of range.
    """
    law = find_law(name)
    given = {key: value for key, value in parameters.items() if value is not None}
    _check_names(law, given)
    return law(shape, **given)


def find_law(name: str) -> type[SmoothingDistribution]:
    """Return the class of the law that `name` names.

    Raises:
        InvalidArgumentError: If it names none; the message lists all.
    """
    if name not in LAWS:
        raise InvalidArgumentError(f"noise must be one of {', '.join(sorted(LAWS))}, got noise={name!r}")
    return LAWS[name]


def try_law(name: str, **parameters: Any) -> SmoothingDistribution | None:
    """Check a law before its shape is known, as far as that goes, so that a typo is not found after a minute of loading.

    Returns:
        The law in one dimension; None for a law with shape parameters, whose allowed values may depend on the dimension:
        only the names are checked then.

    Raises:
        InvalidArgumentError: As `make_law`.
    """
    law = find_law(name)
    given = {key: value for key, value in parameters.items() if value is not None}
    if not _shape_parameters(law):
        return make_law(name, (1,), **given)
    _check_names(law, given)
    return None


def rebuild_law(description: dict[str, Any]) -> SmoothingDistribution:
    """Build the law that `SmoothingDistribution.describe` wrote down, exactly."""
    return make_law(description["name"], tuple(description["shape"]), **description["parameters"])


def _check_names(law: type[SmoothingDistribution], given: dict[str, Any]) -> None:
    unknown = sorted(set(given) - set(law.parameter_names()))
    if unknown:
        raise InvalidArgumentError(
            f"{law.name} noise takes {_what_it_takes(law)}, got {', '.join(f'{key}={given[key]}' for key in unknown)}"
        )
    missing = [key for key, default in _shape_parameters(law).items() if default is None and key not in given]
    if missing:
        raise InvalidArgumentError(f"{law.name} noise takes {_what_it_takes(law)}, got no {' and no '.join(missing)}")


def _shape_parameters(law: type[SmoothingDistribution]) -> dict[str, float | None]:
    """The parameters beside sigma and the scale, each with its default, None where it has to be given."""
    scales = ("shape", "sigma", law.scale_name)
    given = {field.name: field.default for field in fields(law) if field.name not in scales}
    return {name: None if default is MISSING else default for name, default in given.items()}


def _what_it_takes(law: type[SmoothingDistribution]) -> str:
    shapes = _shape_parameters(law)
    scales = " or ".join(name for name in law.parameter_names() if name not in shapes)
    texts = [name if default is None else f"{name} (default {default:g})" for name, default in shapes.items()]
    return ", ".join((scales, *texts))
