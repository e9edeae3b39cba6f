"""Who checks what: (kind of run, estimator, law) -> checker. A new kind, estimator or law is one row here."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from certify.audit.findings import AuditError, Findings
from certify.audit.fixed import FixedChecker
from certify.audit.folder import RawRow
from certify.audit.grid import GridChecker
from certify.audit.planned import PlannedChecker
from certify.audit.radii import GAUSSIAN, LAPLACE, UNIFORM
from certify.audit.shaped import EXP_INF, EXP_ONE, EXP_P, EXP_TWO, PARETO, POW_INF, POW_TWO, UNIFORM_BALL, shaped
from certify.audit.spec import RunSpec


@runtime_checkable
class Checker(Protocol):
    """Derives certificates again from their votes, without the code that issued them."""

    @property
    def description(self) -> str:
        """What certificates are checked against, in words."""
        ...

    def check_run(self, spec: RunSpec, found: Findings) -> None:
        """Check what `run.json` says of the estimator and the law."""
        ...

    def check(self, row: RawRow, spec: RunSpec, found: Findings) -> None:
        """Check one row of the journal."""
        ...


LAWS: tuple[FixedChecker, ...] = (
    *(FixedChecker(law) for law in (GAUSSIAN, LAPLACE, UNIFORM)),
    *(shaped(family) for family in (EXP_INF, EXP_ONE, EXP_P, EXP_TWO, PARETO, POW_INF, POW_TWO, UNIFORM_BALL)),
)
"""Who derives the radii of each law. A new law is one entry here."""

ESTIMATORS: dict[str, Callable[[FixedChecker], Checker]] = {
    "fixed": lambda law: law,
    "sequential": lambda law: GridChecker(law, capped=True),
    "anytime": lambda law: GridChecker(law, capped=False),
    "planned": PlannedChecker,
}
"""Who derives the claims of each estimator from the votes. A new estimator is one row here."""

CHECKERS: dict[tuple[str, str, str], Checker] = {
    ("smoothing", estimator, law.law.name): make(law) for estimator, make in ESTIMATORS.items() for law in LAWS
}


def find_checker(spec: RunSpec) -> Checker:
    """Return the checker that is responsible for a run.

    Raises:
        AuditError: If there is none: what nobody can check has not passed.
    """
    checker = CHECKERS.get(spec.key)
    if checker is None:
        kind, estimator, law = spec.key
        known = "; ".join(" / ".join(key) for key in CHECKERS)
        raise AuditError(
            f"nothing can audit kind {kind!r} with estimator {estimator!r} and law {law!r}; what can be audited "
            f"(kind / estimator / law): {known}"
        )
    return checker
