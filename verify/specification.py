"""What is claimed about the outputs: linear rows, and how their signs make a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from smoothing.errors import InvalidArgumentError


@dataclass(frozen=True, eq=False)
class Specification:
    """Linear functions of the outputs, `matrix @ y + offset`, one set per input, and the groups in which they count.

    The property holds if in **every group at least one row is positive**. For margins each row is a group: all classes
    must lose. For VNN-LIB each group is one conjunction of the unsafe set, which is empty if at every point one of its
    constraints is violated: the same one everywhere, or different ones. A *joint* bound is about the largest row of a
    group; a convex combination of the rows is never above it, so that a lower bound of any such combination is one.

    Attributes:
        matrix: [batch, rows, outputs].
        offset: [batch, rows].
        groups: Row indices of each group; together they name every row.
        targets: For margins, the class that each row compares with, [batch, rows]; None otherwise.
        strict: Rows that only a value *below* zero violates: the unsafe set has a strict comparison there. Proofs ask the
            same of all rows.
    """

    matrix: Float[ndarray, "batch rows outputs"]
    offset: Float[ndarray, "batch rows"]
    groups: tuple[tuple[int, ...], ...]
    targets: Int[ndarray, "batch rows"] | None = None
    strict: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rows = self.matrix.shape[1]
        if self.offset.shape != self.matrix.shape[:2]:
            raise InvalidArgumentError(f"offset must have the shape {self.matrix.shape[:2]}, got {self.offset.shape}")
        if not self.groups or not all(self.groups) or {r for g in self.groups for r in g} != set(range(rows)):
            raise InvalidArgumentError(f"groups must be non-empty and name every one of {rows} rows, got {self.groups}")
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise InvalidArgumentError("the rows of a specification must be finite, got others")
        if not set(self.strict) <= set(range(rows)):
            raise InvalidArgumentError(f"strict must name some of {rows} rows, got {self.strict}")

    @classmethod
    def margins(cls, labels: Sequence[int] | Int[ndarray, " batch"], num_classes: int) -> "Specification":
        """Return the margins y[label] - y[t] against all other classes t, in the order of the classes.

        Raises:
            InvalidArgumentError: If a label is no class, or there are fewer than two classes.

        Example:
            >>> Specification.margins([1], 3).matrix.tolist()
            [[[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]]
        """
        given = np.asarray(labels, dtype=np.int64).reshape(-1)
        if num_classes < 2:
            raise InvalidArgumentError(f"margins need at least 2 classes, got num_classes={num_classes}")
        if len(given) == 0 or given.min() < 0 or given.max() >= num_classes:
            raise InvalidArgumentError(f"labels must be in [0, {num_classes}), got {given.tolist()}")
        classes = np.broadcast_to(np.arange(num_classes), (len(given), num_classes))
        targets = classes[classes != given[:, None]].reshape(len(given), num_classes - 1)
        matrix = np.zeros((len(given), num_classes - 1, num_classes))
        image, row = np.ogrid[: len(given), : num_classes - 1]
        matrix[image, row, targets] = -1.0
        matrix[image, row, given[:, None]] = 1.0
        groups = tuple((r,) for r in range(num_classes - 1))
        return cls(matrix, np.zeros(matrix.shape[:2]), groups, targets)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, images: slice) -> "Specification":
        targets = None if self.targets is None else self.targets[images]
        return Specification(self.matrix[images], self.offset[images], self.groups, targets, self.strict)

    @property
    def num_rows(self) -> int:
        """Rows per input."""
        return int(self.matrix.shape[1])

    @property
    def conjunctions(self) -> tuple[int, ...]:
        """Numbers of the groups of several rows, which have something to gain from a joint bound."""
        return tuple(number for number, group in enumerate(self.groups) if len(group) > 1)

    def values(self, outputs: Float[ndarray, "batch outputs"]) -> Float[ndarray, "batch rows"]:
        """Return the rows' values at given outputs, one output vector per input."""
        return np.asarray((self.matrix @ outputs[:, :, None])[..., 0] + self.offset)

    def worst(
        self, rows: Float[ndarray, "batch rows"], joint: Float[ndarray, "batch groups"] | None = None
    ) -> Float[ndarray, " batch"]:
        """Return the smallest over groups of the largest over a group's rows: positive where the property is proved.

        NaN anywhere in a deciding place stays NaN, which is not positive.

        Args:
            rows: Values of the rows, or lower bounds.
            joint: Lower bounds of each group's largest row; what is not finite says nothing. None for none.
        """
        largest = np.stack([rows[:, list(group)].max(axis=1) for group in self.groups], axis=1)
        if joint is not None:
            largest = np.where(np.isfinite(joint), np.fmax(largest, joint), largest)
        return np.asarray(largest.min(axis=1))

    def proved_groups(
        self, lower: Float[ndarray, "batch rows"], joint: Float[ndarray, "batch groups"] | None = None
    ) -> Bool[ndarray, "batch groups"]:
        """Return which groups lower bounds prove, of rows or of the largest row. NaN and infinity prove nothing."""
        positive = np.isfinite(lower) & (lower > 0)
        found = np.stack([positive[:, list(group)].any(axis=1) for group in self.groups], axis=1)
        return found if joint is None else found | (np.isfinite(joint) & (joint > 0))

    def proved(
        self, lower: Float[ndarray, "batch rows"], joint: Float[ndarray, "batch groups"] | None = None
    ) -> Bool[ndarray, " batch"]:
        """Return where lower bounds prove the property: all of its groups."""
        return np.asarray(self.proved_groups(lower, joint).all(axis=1))

    def violated(self, values: Float[ndarray, "batch rows"]) -> Bool[ndarray, " batch"]:
        """Return where the rows' values at one point disprove the property: some group has no positive row."""
        broken = values <= 0
        broken[:, list(self.strict)] = values[:, list(self.strict)] < 0
        return np.asarray(np.stack([broken[:, list(group)].all(axis=1) for group in self.groups]).any(axis=0))
