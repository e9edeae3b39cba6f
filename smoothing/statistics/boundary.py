"""A boundary: how many failures each look may show for a claim to be proved. The object that is stored, hashed and audited.

The claim is the rejection of H0: 1 - p >= q0 (side "below"), or of H0: 1 - p <= q0 (side "above", its mirror image). At the
j-th look, after n_j votes with f failures, the first is rejected where f <= limit_j, the second where f >= limit_j. The
error at the worst p is that at q0 itself: with a smaller chance of failure every prefix of the same uniform numbers holds
fewer failures, so that a path which crosses "below" still does. `size` is a proved upper bound on it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.arguments import check_alpha
from smoothing.statistics.tail import MAX_VOTES

Side = Literal["below", "above"]

NEVER_BELOW = -1
"""The limit of a look at which nothing can be rejected, on the side "below"; on the side "above" it is n + 1."""


@dataclass(frozen=True)
class Boundary:
    """The limits of one test, with the error that was computed for them.

    Attributes:
        q0: The failure probability of the hypothesis, in (0, 1).
        alpha: The error that the test was built for.
        side: "below": few failures reject 1 - p >= q0. "above": many failures reject 1 - p <= q0.
        looks: Votes at each look, increasing.
        limits: Failures at each look that reject: at most (below) or at least (above) so many.
        size: Upper bound on the exact error at q0, at most `alpha`.
        method: How the limits were chosen; nothing depends on it.
    """

    q0: float
    alpha: float
    side: Side
    looks: tuple[int, ...]
    limits: tuple[int, ...]
    size: float
    method: str

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not 0.0 < self.q0 < 1.0:
            raise InvalidArgumentError(f"q0 must be in (0, 1), got q0={self.q0}")
        if self.side not in get_args(Side):
            raise InvalidArgumentError(f"side must be one of {', '.join(get_args(Side))}, got side={self.side!r}")
        steps = zip((0, *self.looks), self.looks, strict=False)
        if not self.looks or any(a >= b for a, b in steps) or self.looks[-1] > MAX_VOTES:
            raise InvalidArgumentError(
                f"looks must increase from at least 1 to at most {MAX_VOTES}, got {self.looks[:9]}"
            )
        if len(self.limits) != len(self.looks) or any(
            not NEVER_BELOW <= limit <= n + 1 for n, limit in zip(self.looks, self.limits, strict=False)
        ):
            raise InvalidArgumentError(f"limits must be one per look, in [-1, n + 1], got {self.limits[:9]}")
        if not 0.0 <= self.size <= self.alpha:
            raise InvalidArgumentError(f"the size must be in [0, alpha], got size={self.size} at alpha={self.alpha}")

    @property
    def limit_array(self) -> Int64[ndarray, " looks"]:
        """`limits` as an array."""
        return np.asarray(self.limits, dtype=np.int64)

    @property
    def first_look(self) -> int | None:
        """Votes at the first look that can reject; None where none can."""
        able = (n for n, limit in zip(self.looks, self.limits, strict=True) if 0 <= limit <= n)
        return next(able, None)

    @property
    def sha256(self) -> str:
        """Hash of everything in it: a boundary's name wherever it is recorded."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the boundary as JSON-ready data; floats in hexadecimal, exact."""
        return {
            "q0": self.q0.hex(),
            "alpha": float(self.alpha).hex(),
            "side": self.side,
            "looks": list(self.looks),
            "limits": list(self.limits),
            "size": self.size.hex(),
            "method": self.method,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Boundary":
        """Read what `to_dict` wrote.

        Raises:
            InvalidArgumentError: If it is not a boundary.
        """
        try:
            return cls(
                q0=float.fromhex(data["q0"]),
                alpha=float.fromhex(data["alpha"]),
                side=data["side"],
                looks=tuple(map(int, data["looks"])),
                limits=tuple(map(int, data["limits"])),
                size=float.fromhex(data["size"]),
                method=str(data["method"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"a boundary must be what Boundary.to_dict writes, got {error!r}") from error
