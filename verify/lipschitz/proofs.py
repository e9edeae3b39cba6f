"""Global Lipschitz proofs of one network, and the l2 radii that follow from them for every input.

For a class y the margins y - t have constants L_yt, and the label wins in the l2 ball of radius min_t m_t(x) / L_yt. A
proof is a handful of multipliers (none for the spectral product); `constants_of` evaluates them again, without a solver,
and so does whoever does not want to believe a recorded radius. Margins at the input are bounded from below by the checker
(`verify.checker`), in real arithmetic: nothing is assumed of the precision of the logits.

    spectral       L_yt = |(e_y - e_t)^T W_K| times the constant of what W_K reads
    lipsdp         L_yt = sqrt(2) L, L by LipSDP for all outputs together
    lipsdp-pairs   L_yt by LipSDP for the row (e_y - e_t)^T W_K, one program per pair

Each is never above the spectral one. References: Tsuzuku, Sato, Sugiyama 2018; Fazlyab et al. 2019.
"""

import math
import time
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from verify.ball import Ball
from verify.certificate import Certificate, Stage
from verify.checker import check
from verify.errors import VerificationError
from verify.graph import Graph, Linear
from verify.lipschitz.lipsdp import SIZE_LIMITS, lipsdp, prove_lipschitz
from verify.lipschitz.network import Chain, chain_sizes, dense_chain, spectral_constants, up
from verify.specification import Specification

NAMES = ("spectral", "lipsdp", "lipsdp-pairs")
"""The three bounds, cheapest first."""

SOLVER_OPTIONS = {"SCS": {"eps": 1e-4, "max_iters": 10_000}}
"""How far a first-order solver goes: any multipliers give a proof, so that this is about time and tightness alone."""


class ProgramTooLongError(VerificationError):
    """A semidefinite program is larger than what its solver does in about a minute."""


@dataclass(frozen=True, eq=False)
class MarginProof:
    """Lipschitz constants of one class's margins.

    Attributes:
        method: One of `NAMES`.
        constants: L_yt for the other classes t, in their order.
        multipliers: What they follow from: [0, 0] for spectral, [1, hidden] for lipsdp, [classes - 1, hidden] for
            lipsdp-pairs; a row of NaN proves nothing by itself, and the spectral constant stands there.
    """

    method: str
    constants: Float[ndarray, " rivals"]
    multipliers: Float[ndarray, "programs hidden"]


def constants_of(
    graph: Graph, label: int, method: str, multipliers: Float[ndarray, "programs hidden"]
) -> Float[ndarray, " rivals"]:
    """Evaluate a proof: Lipschitz constants of the margins of `label`, rounded up, from multipliers that anybody chose.

    Raises:
        InvalidArgumentError: If the method is unknown, the label no class, or the multipliers are not of its shape.
        UnsupportedOperatorError: If LipSDP cannot take the network.
    """
    if method not in NAMES:
        raise InvalidArgumentError(f"method must be one of {', '.join(NAMES)}, got {method!r}")
    classes = graph.num_outputs
    rivals = _rivals(classes, label)
    spectral = _spectral(graph, label, rivals)
    if method == "spectral":
        return spectral
    hidden = sum(chain_sizes(graph)[1:])
    programs = 1 if method == "lipsdp" else len(rivals)
    if multipliers.shape != (programs, hidden):
        raise InvalidArgumentError(f"multipliers must have the shape {(programs, hidden)}, got {multipliers.shape}")
    chain = dense_chain(graph)
    if method == "lipsdp":
        whole = _prove(chain, chain.layers[-1], chain.errors[-1], multipliers[0])
        return np.asarray(np.minimum(spectral, up(math.sqrt(2.0) * whole)))
    pairs = [_pair(chain, label, t) for t in rivals]
    proved = [_prove(chain, row, error, t) for (row, error), t in zip(pairs, multipliers, strict=True)]
    return np.asarray(np.minimum(spectral, np.array(proved)))


def margin_floor(graph: Graph, x: Float[ndarray, "*shape"], label: int) -> Float[ndarray, " rivals"]:
    """Return lower bounds of y_label - y_t at one input, in real arithmetic, for the other classes t in their order."""
    import torch

    region = Ball("l2", 0.0, clip=None).at(torch.from_numpy(np.array(x, dtype=np.float64))[None])
    specification = Specification.margins([label], graph.num_outputs)
    rows = np.arange(specification.num_rows)
    stage = Stage(graph.output, rows, np.ones_like(rows), "specification", relaxed=False)
    return np.asarray(check(graph, region, specification, (Certificate((stage,)),)).lower[0])


def radius_of(margins: Float[ndarray, " rivals"], constants: Float[ndarray, " rivals"]) -> float:
    """Return min_t m_t / L_yt, rounded down; 0.0 where a margin is not positive or a number is not finite.

    Example:
        >>> radius_of(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
        1.4999999999999996
    """
    usable = np.isfinite(margins) & np.isfinite(constants) & (margins > 0) & (constants >= 0)
    if not usable.all():
        return 0.0
    ratios = margins / np.maximum(constants, 1e-300)
    return float(np.nextafter(np.nextafter(ratios.min(), 0.0), 0.0))


def margin_at(margins: Float[ndarray, " rivals"], constants: Float[ndarray, " rivals"], radius: float) -> float:
    """Return a lower bound of the smallest margin in the ball: min_t m_t - L_yt R, rounded down."""
    reach = np.nextafter(constants * radius, np.inf)
    return float(np.nextafter((margins - reach).min(), -np.inf))


def program_size(graph: Graph) -> int:
    """Return the side of LipSDP's matrix: the input (after the reduction to the first layer's size) and all hidden units.

    Raises:
        UnsupportedOperatorError: If LipSDP cannot take the network.
    """
    sizes = chain_sizes(graph)
    first = sizes[1] if len(sizes) > 1 else graph.num_outputs
    return min(sizes[0], first) + sum(sizes[1:])


def choose_solver(graph: Graph, solver: str | None = None) -> str:
    """Return a solver that does the network's program in about a minute: CLARABEL where it is small, else SCS.

    Args:
        graph: The network.
        solver: cvxpy's name of a solver, taken as it is where its limits are not known.

    Raises:
        ProgramTooLongError: With the size and an estimate of the time.
    """
    size = program_size(graph)
    for name in (solver,) if solver is not None else tuple(SIZE_LIMITS):
        if size <= SIZE_LIMITS.get(name, size):
            return name
    name = solver or max(SIZE_LIMITS, key=lambda known: SIZE_LIMITS[known])
    # Interior points cost about n^6, a first-order step n^3 (one eigenvalue decomposition).
    power = 6 if name == "CLARABEL" else 3
    minutes = (size / SIZE_LIMITS[name]) ** power
    raise ProgramTooLongError(
        f"LipSDP must have a matrix of side {SIZE_LIMITS[name]} at most for {name} to finish in about a minute, got side "
        f"{size}, which would take about {minutes:,.0f} minutes; use the spectral bound, or local bounds such as crown"
    )


@dataclass(eq=False)
class LipschitzProofs:
    """All proofs of one network that were asked for, each found once.

    Attributes:
        graph: The network.
        solver: cvxpy's name of the solver for LipSDP; None: `choose_solver`.
        notes: By method, what a reader should know: solvers that failed, and what was used instead.
        seconds: Time spent.
    """

    graph: Graph
    solver: str | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    _found: dict[tuple[str, int, int], Float[ndarray, " hidden"]] = field(default_factory=dict)
    _proofs: dict[tuple[str, int], MarginProof] = field(default_factory=dict)

    def of(self, method: str, label: int) -> MarginProof:
        """Return a proof for the margins of a class.

        Raises:
            UnsupportedOperatorError: If LipSDP cannot take the network.
            ProgramTooLongError: If its program is too large.
        """
        if (method, label) in self._proofs:
            return self._proofs[method, label]
        began = time.perf_counter()
        multipliers = np.zeros((0, 0))
        if method == "lipsdp":
            multipliers = self._whole()[None]
        elif method == "lipsdp-pairs":
            multipliers = np.stack([self._of_pair(label, t) for t in _rivals(self.graph.num_outputs, label)])
        proof = MarginProof(method, constants_of(self.graph, label, method, multipliers), multipliers)
        self.seconds += time.perf_counter() - began
        self._proofs[method, label] = proof
        return proof

    def _whole(self) -> Float[ndarray, " hidden"]:
        key = ("lipsdp", -1, -1)
        if key not in self._found:
            chain = self._chain()
            self._found[key] = self._ask(chain, chain.layers[-1], "lipsdp", "all outputs")
        return self._found[key]

    def _of_pair(self, label: int, rival: int) -> Float[ndarray, " hidden"]:
        key = ("pair", min(label, rival), max(label, rival))
        if key not in self._found:
            chain = self._chain()
            row, _ = _pair(chain, key[1], key[2])
            self._found[key] = self._ask(chain, row, "lipsdp-pairs", f"classes {key[1]} and {key[2]}")
        return self._found[key]

    def _chain(self) -> Chain:
        choose_solver(self.graph, self.solver)  # refuses before a matrix is built
        return dense_chain(self.graph)

    def _ask(self, chain: Chain, last: Float[ndarray, "_ _"], method: str, what: str) -> Float[ndarray, " hidden"]:
        solver = choose_solver(self.graph, self.solver)
        bound = lipsdp(
            [*chain.layers[:-1], last],
            solver=solver,
            slopes=chain.slopes,
            solver_options=SOLVER_OPTIONS.get(solver),
        )
        if bound.method == "lipsdp":
            return bound.multipliers
        if bound.note:
            self.notes.setdefault(method, []).append(f"LipSDP for {what}: {bound.note}")
        return np.full(sum(layer.shape[0] for layer in chain.layers[:-1]), np.nan)


def _rivals(classes: int, label: int) -> list[int]:
    if not 0 <= label < classes:
        raise InvalidArgumentError(f"label must be in [0, {classes}), got {label}")
    return [t for t in range(classes) if t != label]


def _spectral(graph: Graph, label: int, rivals: list[int]) -> Float[ndarray, " rivals"]:
    constants, last = spectral_constants(graph), graph[graph.output]
    if not isinstance(last.op, Linear):
        return np.full(len(rivals), up(math.sqrt(2.0) * constants[graph.output]))
    rows, before = last.op.weight, constants[last.inputs[0]]
    differences = [float(np.linalg.norm(rows[label] - rows[t])) for t in rivals]
    # Each entry of a difference, and the sum of their squares, is rounded.
    spare = 1.0 + (rows.shape[1] + 8) * 2.0**-52
    return np.array([up(value * spare * before) for value in differences])


def _pair(chain: Chain, label: int, rival: int) -> tuple[Float[ndarray, "1 _"], float]:
    """Return (e_y - e_t)^T W_K, and how far it may be from the exact one."""
    first, second = chain.layers[-1][label], chain.layers[-1][rival]
    rounding = 2.0**-52 * float(np.linalg.norm(np.abs(first) + np.abs(second)))
    return (first - second)[None, :], up(rounding + math.sqrt(2.0) * chain.errors[-1])


def _prove(chain: Chain, last: Float[ndarray, "_ _"], error: float, multipliers: Float[ndarray, " hidden"]) -> float:
    if not np.isfinite(multipliers).all() or len(chain.layers) == 1:
        return math.inf
    return prove_lipschitz([*chain.layers[:-1], last], multipliers, chain.slopes, (*chain.errors[:-1], error))
