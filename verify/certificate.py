"""What a bound was derived from, so that somebody else can derive it again.

A certificate is a list of stages for one input. Each stage bounds some values of one node by one backward pass: its rows
are walked towards the input, each activation being replaced by lines. Which line is a number in [0, 1] per row and
neuron, and *any* number there gives a valid bound: an optimiser, a linear program or a rule may have found it, and none of
them has to be trusted. Values are not part of the certificate; a checker computes its own (`verify.checker`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from smoothing.errors import InvalidArgumentError

RULES = ("adaptive", "same-slope")
"""How a neuron without a slope of its own is relaxed: CROWN's choice by area, or parallel to the chord."""


TARGETS = ("box", "specification", "conjunction")
"""What a stage bounds."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """Positions in [0, 1] of the relaxing lines of some neurons of one activation, one set per row.

    For a (leaky) ReLU the lower line has the slope c + (1 - c) * value; for sigmoid and tanh see `verify.relaxation`.

    Attributes:
        columns: Flat neuron indices.
        values: [rows, columns]; NaN means "by the stage's rule".
    """

    columns: Int[ndarray, " columns"]
    values: Float[ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Stage:
    """Bounds on some values of one node.

    Attributes:
        node: The node whose values are bounded; the graph's output for the specification's rows.
        rows: Flat coordinates of the node; for `target == "specification"`, row numbers of the specification.
        signs: +1 for a lower bound, -1 for an upper bound of each row (always +1 for the specification).
        target: "box", "specification", or "conjunction": convex combinations of the specification's rows, which are lower
            bounds of the largest row of a group; `rows` are group numbers then.
        relaxed: True: activations are replaced by lines and the input set is reached. False: rows stop at the boxes of
            the activations (interval propagation, exact through consecutive affine nodes).
        rule: One of `RULES`, for neurons that `slopes` does not name.
        slopes: Per activation node.
        weights: For conjunctions, the combinations: entry j of a row is the share of the j-th row of its group, at least 0,
            adding up to 1; groups of fewer rows than there are columns have zeros behind. *Any* such weights give a valid
            bound. None for other targets.
    """

    node: int
    rows: Int[ndarray, " rows"]
    signs: Int[ndarray, " rows"]
    target: str = "box"
    relaxed: bool = True
    rule: str = "adaptive"
    slopes: Mapping[int, Slopes] = field(default_factory=dict)
    weights: Float[ndarray, "rows width"] | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InvalidArgumentError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}")
        shape = None if self.weights is None else self.weights.shape
        if (shape is not None) is not (self.target == "conjunction") or (
            shape is not None and (len(shape) != 2 or shape[0] != len(self.rows))
        ):
            raise InvalidArgumentError(
                f"weights must be [rows, width] for conjunctions and None elsewhere, got the shape {shape} for "
                f"{self.target!r} with {len(self.rows)} rows"
            )
        if self.rule not in RULES:
            raise InvalidArgumentError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        if self.rows.shape != self.signs.shape:
            raise InvalidArgumentError(f"rows and signs must match, got {self.rows.shape} and {self.signs.shape}")
        for slopes in self.slopes.values():
            if slopes.values.shape != (len(self.rows), len(slopes.columns)):
                raise InvalidArgumentError(f"slopes must be [rows, columns], got the shape {slopes.values.shape}")


@dataclass(frozen=True, eq=False)
class Certificate:
    """The derivation of one input's bounds.

    Attributes:
        stages: In the order in which they are to be evaluated; stages on one node are intersected.
        intervals: Whether each box starts from interval propagation. If not ("pure" columns of published tables),
            interval propagation only fills the coordinates that no stage bounds.
    """

    stages: tuple[Stage, ...]
    intervals: bool = True

    def to_arrays(self) -> dict[str, ndarray]:
        """Return the certificate as named arrays, for `numpy.savez`."""
        arrays: dict[str, ndarray] = {"intervals": np.array(self.intervals), "stages": np.array(len(self.stages))}
        for k, stage in enumerate(self.stages):
            words = [stage.target, "relaxed" if stage.relaxed else "boxes", stage.rule]
            arrays[f"{k}/words"] = np.array(words)
            arrays[f"{k}/node"] = np.array(stage.node)
            arrays[f"{k}/rows"], arrays[f"{k}/signs"] = stage.rows, stage.signs.astype(np.int8)
            if stage.weights is not None:
                arrays[f"{k}/weights"] = stage.weights
            for node, slopes in stage.slopes.items():
                arrays[f"{k}/slopes/{node}/columns"], arrays[f"{k}/slopes/{node}/values"] = (
                    slopes.columns,
                    slopes.values,
                )
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Certificate":
        """Return the certificate that `to_arrays` wrote.

        Raises:
            InvalidArgumentError: If an array is missing or misshapen.
        """
        try:
            stages = []
            for k in range(int(arrays["stages"])):
                prefix = f"{k}/slopes/"
                nodes = sorted({int(key[len(prefix) :].split("/")[0]) for key in arrays if key.startswith(prefix)})
                slopes = {
                    node: Slopes(
                        np.asarray(arrays[f"{prefix}{node}/columns"], dtype=np.int64),
                        np.asarray(arrays[f"{prefix}{node}/values"]),
                    )
                    for node in nodes
                }
                target, relaxed, rule = (str(word) for word in arrays[f"{k}/words"])
                rows = np.asarray(arrays[f"{k}/rows"], dtype=np.int64)
                signs = np.asarray(arrays[f"{k}/signs"], dtype=np.int64)
                node = int(arrays[f"{k}/node"])
                given = arrays.get(f"{k}/weights")
                weights = None if given is None else np.asarray(given, dtype=np.float64)
                stages.append(Stage(node, rows, signs, target, relaxed == "relaxed", rule, slopes, weights))
            return cls(tuple(stages), bool(arrays["intervals"]))
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidArgumentError(f"a certificate must hold the arrays of to_arrays, got: {error}") from error


def specification_stage(
    output: int,
    num_rows: int,
    slopes: Mapping[int, Slopes],
    *,
    rule: str = "adaptive",
    rows: Sequence[int] | None = None,
) -> Stage:
    """Return the last stage of a certificate: (some of) the specification's rows with given slopes."""
    chosen = np.arange(num_rows) if rows is None else np.asarray(rows, dtype=np.int64)
    return Stage(output, chosen, np.ones(len(chosen), dtype=np.int64), "specification", True, rule, slopes)
