"""What every rung of the ladder is: a name, and bounds for a problem."""

from abc import ABC, abstractmethod
from typing import ClassVar

from verify.problem import Problem
from verify.result import Result


class Method(ABC):
    """One way to bound a specification from below (or, for attacks, from above)."""

    name: ClassVar[str]

    @abstractmethod
    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """Return proved bounds for every input of the problem.

        Args:
            problem: Network, sets of inputs, rows to be proved positive.
            previous: The result of an earlier rung on the same problem: its boxes are intersected with this rung's,
                and its bounds are kept where they are better.
            pure: The published method alone: no intersection of its boxes with cheaper ones, no previous result. The
                bounds of published tables; never better than those of the ladder by more than rounding, for the
                activations of piecewise linear networks with monotone rules.

        Raises:
            InvalidArgumentError: If `previous` is about another problem, or given to a pure run.
        """
