"""From the names after `--method` to the rungs of a ladder, in the order in which they are worth running."""

from dataclasses import asdict, dataclass
from typing import Any

from certify.errors import UsageError
from smoothing.threat import Norm
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack, Original
from verify.errors import UnsupportedOperatorError
from verify.graph import Graph, Sigmoid, Tanh
from verify.ladder import LADDER
from verify.lipschitz.proofs import NAMES
from verify.lp import LPAll, LPLast
from verify.lp.solve import SolverOptions
from verify.method import Method
from verify.milp import MILP

LIPSCHITZ = NAMES
"""Methods that are no rungs of the ladder: a global constant, and l2 radii from it."""

ORDER = (*LIPSCHITZ, "ibp", "crown-ibp", "same-slope", "crown", "pgd", "alpha", "lp-last", "lp-all", "milp")
"""Cheapest first; the attack stands before everything that takes longer than it does. A global Lipschitz constant is found
once for all inputs, whatever it takes, and costs nothing per input."""


@dataclass(frozen=True)
class MethodOptions:
    """Which rungs, and what they may spend.

    Attributes:
        names: Keys of `ORDER`.
        steps: Gradient steps of the attack from each start.
        restarts: Random starts of the attack.
        alpha_steps: Gradient steps of alpha-CROWN, for boxes and for the property.
        seed: Seed of the attack's random starts.
        sdp_solver: cvxpy's name of the solver for LipSDP; None: CLARABEL where the program is small, else SCS.
        pure: Every method alone, as published: no box intersected with another method's, nothing handed on.

    Raises:
        UsageError: If a name is unknown, comes twice, or there is none; or a number is out of range.
    """

    names: tuple[str, ...]
    steps: int = 100
    restarts: int = 10
    alpha_steps: int = 20
    seed: int = 0
    pure: bool = False
    sdp_solver: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in ORDER]
        if unknown or not self.names or len(set(self.names)) < len(self.names):
            got = ",".join(self.names) or "nothing"
            raise UsageError(f"method must be some of {', '.join(ORDER)}, each once, separated by commas, got {got}")
        for name, least in (("steps", 1), ("restarts", 0), ("alpha_steps", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {name}={getattr(self, name)}")

    @property
    def ordered(self) -> tuple[str, ...]:
        """The names in the order in which they run."""
        return tuple(name for name in ORDER if name in self.names)

    def describe(self) -> dict[str, Any]:
        """Return JSON-ready data for the identity of a run: only what the chosen rungs depend on."""
        known = asdict(self)
        relevant = {"pgd": ("steps", "restarts", "seed"), "alpha": ("alpha_steps",)}
        relevant |= {name: ("sdp_solver",) for name in LIPSCHITZ if name != "spectral"}
        used = {key: known[key] for name in self.ordered for key in relevant.get(name, ())}
        # Runs of the ladder keep the identity that they had before there was another mode.
        return {"names": list(self.ordered), **used, **({"pure": True} if self.pure else {})}


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the names in a list such as "ibp,crown,alpha"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def build_method(
    name: str, options: MethodOptions, *, original: Original | None = None, until_sign: bool = False, jobs: int = 1
) -> Method:
    """Return one rung.

    Args:
        name: A key of `ORDER`.
        options: What it may spend.
        original: The network that confirms counterexamples.
        until_sign: Let linear and mixed-integer programs stop once the verdict is known.
        jobs: Processes for linear programs.
    """
    if name == "pgd":
        return Attack(options.steps, options.restarts, seed=options.seed, original=original)
    if name == "alpha":
        return AlphaCrown(options.alpha_steps, options.alpha_steps)
    if name == "lp-last":
        return LPLast(SolverOptions(jobs=jobs), until_sign)
    if name == "lp-all":
        return LPAll(SolverOptions(jobs=jobs), until_sign)
    if name == "milp":
        return MILP(until_sign=until_sign)
    return LADDER[name]()


def check_solver(name: str | None) -> None:
    """Refuse a solver for LipSDP that is not there: a run must not fall back to another bound because of a misspelling.

    Raises:
        UsageError: If no such solver of semidefinite programs is installed; lists those that are.
    """
    if name is None:
        return
    from verify.lipschitz.solvers import semidefinite_solvers

    known = semidefinite_solvers()
    if name not in known:
        raise UsageError(
            f"sdp-solver must be one of the installed solvers of semidefinite programs, {', '.join(known)}, got "
            f"sdp-solver={name!r}"
        )


def check_methods(options: MethodOptions, graph: Graph, norm: Norm | None, *, search: bool = False) -> None:
    """Refuse rungs that cannot take this network or these sets, before any work.

    Raises:
        UsageError: If MILP is asked for l2 balls, or a Lipschitz bound for anything but l2 radii.
        UnsupportedOperatorError: If MILP is asked for a network that is not piecewise linear; names all such operators.
    """
    from_constants = [name for name in options.names if name in LIPSCHITZ]
    if from_constants and not (norm is Norm.L2 and search):
        raise UsageError(
            f"{', '.join(from_constants)} must be used with --norm l2 and --radius, for a Lipschitz constant gives l2 "
            f"radii, got {'boxes of a file' if norm is None else f'norm={norm}'}{'' if search else ' without --radius'}"
        )
    if "milp" not in options.names:
        return
    if norm is Norm.L2:
        raise UsageError("milp must be used with linf, l1 or a box, got norm=l2; leave milp out of --method")
    curved = [
        f"{node.name or index}: {type(node.op).__name__}, which milp cannot encode"
        for index, node in enumerate(graph)
        if isinstance(node.op, Sigmoid | Tanh)
    ]
    if curved:
        raise UnsupportedOperatorError(curved, "piecewise linear activations; or leave milp out of --method")
