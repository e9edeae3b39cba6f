"""What a run may cost, and what money buys."""

import datetime
import math
from dataclasses import dataclass
from typing import Any

from certify.errors import CertifyError, UsageError


class BudgetError(CertifyError):
    """The budget does not suffice for even one input."""


class BudgetSpentError(BudgetError):
    """Nothing more may be sent: calls without an answer have used up what the inputs under way would have needed."""


@dataclass(frozen=True)
class Budget:
    """Limits on queries and money. A query is one image that was sent, unless the service cannot have taken it.

    A limit is applied before an input starts, never within one: whether votes are there may not depend on what the votes
    before them said.

    Args:
        max_queries: Queries at most; None: no limit.
        max_cost: Money at most, in the currency of the price; None: no limit.
        price_per_1000: Price of 1,000 queries; None: unknown or free.
        price_date: Day of that price, ISO format: prices change.

    Raises:
        UsageError: If a value is not positive, a date is none, or a cost limit has no price.
    """

    max_queries: int | None = None
    max_cost: float | int | None = None
    price_per_1000: float | int | None = None
    price_date: str | None = None

    def __post_init__(self) -> None:
        for key in ("max_queries", "max_cost"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{key} must be positive, got {key}={value}")
        if self.price_per_1000 is not None and not 0 <= self.price_per_1000 < math.inf:
            raise UsageError(f"price_per_1000 must be at least 0, got price_per_1000={self.price_per_1000}")
        if self.max_cost is not None and not self.price_per_1000:
            raise UsageError("max_cost needs the price: give price_per_1000")
        if self.price_date is not None:
            try:
                datetime.date.fromisoformat(self.price_date)
            except ValueError:
                raise UsageError(f"price_date must be a day such as 2026-11-27, got {self.price_date!r}") from None

    @property
    def paid(self) -> bool:
        """Whether a query costs money."""
        return bool(self.price_per_1000)

    def cost(self, queries: int) -> float | None:
        """Return the price of so many queries; None where it is unknown."""
        return None if self.price_per_1000 is None else queries * self.price_per_1000 / 1000.0

    @property
    def queries(self) -> int | None:
        """Queries that may be made in all; None without a limit."""
        limits = [] if self.max_queries is None else [self.max_queries]
        if self.max_cost is not None and self.price_per_1000:
            # A whole number of queries whose price, computed the same way, is within the limit.
            count = math.floor(self.max_cost / self.price_per_1000 * 1000.0) + 1
            while count > 0 and count * self.price_per_1000 / 1000.0 > self.max_cost:
                count -= 1
            limits.append(count)
        return min(limits) if limits else None

    def affordable(self, votes_per_input: int, *, spent: int = 0) -> int | None:
        """Return how many further inputs may be started; None without a limit.

        Args:
            votes_per_input: Votes that an input may take at most.
            spent: Queries that were made already.

        Raises:
            BudgetError: If the whole budget does not suffice for one input.
        """
        limit = self.queries
        if limit is None:
            return None
        if limit < votes_per_input:
            raise BudgetError(
                f"the budget of {limit:,} queries is too small for one input, which takes up to {votes_per_input:,}; "
                "raise max_queries or max_cost, or take fewer votes an input"
            )
        return max(limit - spent, 0) // votes_per_input

    def describe(self) -> dict[str, Any]:
        """Return the budget as JSON-ready data."""
        return {
            "max_queries": self.max_queries,
            "max_cost": self.max_cost,
            "price_per_1000": self.price_per_1000,
            "price_date": self.price_date,
        }
