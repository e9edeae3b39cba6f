"""Laws as people write them: "exp_two:k=2:j=10" on a command line, "exp_two, sigma 0.5, k 2, j 10" in a line of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from certify.errors import UsageError
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import find_law, make_law
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.threat import Norm


@dataclass(frozen=True)
class LawChoice:
    """A law that was asked for by name, with the parameters that stood beside its name.

    Attributes:
        name: A key of `smoothing.distributions.table.LAWS`.
        own: Parameters of this law alone, by name.
    """

    name: str
    own: tuple[tuple[str, float], ...] = ()

    @property
    def text(self) -> str:
        """The choice as it is written on the command line."""
        return ":".join((self.name, *(f"{key}={value:g}" for key, value in self.own)))


def parse_laws(texts: Sequence[str]) -> tuple[LawChoice, ...]:
    """Read laws: several texts, several names in a text joined by commas, each with parameters after colons.

    Raises:
        UsageError: If a parameter is not NAME=NUMBER or is given twice, or there is no law at all.
        InvalidArgumentError: If a law is unknown.
    """
    choices = tuple(_parse(part.strip()) for text in texts for part in text.split(",") if part.strip())
    if not choices:
        raise UsageError("noise must name at least one law, got none")
    return choices


def _parse(text: str) -> LawChoice:
    name, *rest = text.split(":")
    find_law(name)
    own: dict[str, float] = {}
    for part in rest:
        key, sign, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = None
        if not sign or value is None:
            raise UsageError(
                f"a law's parameters must be written NAME:KEY=NUMBER, for instance {name}:k=2, got {text!r}"
            )
        if key in own:
            raise UsageError(f"each parameter of a law must be given once, got {key} twice in {text!r}")
        own[key] = value
    return LawChoice(name, tuple(own.items()))


def build_laws(
    choices: Sequence[LawChoice], shape: tuple[int, ...], shared: Mapping[str, float]
) -> tuple[SmoothingDistribution, ...]:
    """Build the chosen laws; every law takes those of the shared parameters that it knows, its own ones first.

    Raises:
        UsageError: If a shared parameter is taken by none of the laws.
        InvalidArgumentError: If a law lacks a parameter, does not know one, or a value is out of range.
    """
    known = {name for choice in choices for name in find_law(choice.name).parameter_names()}
    for key, value in shared.items():
        if key not in known and len(choices) > 1:
            raise UsageError(
                f"none of {', '.join(choice.name for choice in choices)} takes {key}, got {key}={value}: they take "
                f"{', '.join(sorted(known))}"
            )
    return tuple(_build(choice, shape, shared, alone=len(choices) == 1) for choice in choices)


def _build(
    choice: LawChoice, shape: tuple[int, ...], shared: Mapping[str, float], *, alone: bool
) -> SmoothingDistribution:
    own = dict(choice.own)
    twice = sorted(set(own) & set(shared)) if alone else []
    if twice:
        raise UsageError(f"each parameter of a law must be given once, got {twice[0]} beside the law and as an option")
    # One law gets all options, so that it can refuse those it does not know; of several, each takes its part.
    takes = set(shared) if alone else set(find_law(choice.name).parameter_names())
    return make_law(choice.name, shape, **{**{key: shared[key] for key in shared if key in takes}, **own})


def law_text(law: SmoothingDistribution) -> str:
    """Return the law in one line for people: name, sigma (its scale where sigma is infinite), shape parameters."""
    scale = f"{law.scale_name} {law.parameters[law.scale_name]:g}" if law.sigma is None else f"sigma {law.sigma:g}"
    shapes = [f"{name} {value:g}" for name, value in law.parameters.items() if name not in ("sigma", law.scale_name)]
    return ", ".join((law.name, scale, *shapes))


def best_norm(law: SmoothingDistribution) -> Norm:
    """Return the norm in which the law comes nearest to what any additive noise can certify; l2 where several do.

    Compared at p = 0.9, where the curves of the usual laws still have their order.
    """
    norms = sorted(law.norms, key=lambda norm: (norm is not Norm.L2, norm.value))
    if len(norms) == 1 or law.sigma is None:
        return norms[0]
    limits = {
        norm: radius_upper_bound(0.9, norm, sigma=law.sigma, dimension=law.dimension)
        for norm in norms
        if norm is not Norm.L0
    }
    shares = {norm: law.radius(0.9, norm) / limit for norm, limit in limits.items()}
    # Equal up to rounding is equal: a Gaussian is as good in every norm.
    return next(norm for norm, share in shares.items() if share >= max(shares.values()) * (1 - 1e-6))
