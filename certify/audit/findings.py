"""What an audit finds: mismatches, each with its row, and notes, which are no faults of any certificate."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from certify.errors import CertifyError


class AuditError(CertifyError):
    """A run folder cannot be audited at all, so that neither "passed" nor a list of mismatches would be true."""


@dataclass(frozen=True)
class Mismatch:
    """One value that does not follow from the recorded votes.

    Attributes:
        index: The input; None where the mismatch concerns the run as a whole.
        where: The record that is wrong: "journal", "run.json", "certificates.tsv", "certificates.csv" or "replay".
        rule: Short name of the rule that was broken, for instance "radius".
        recorded: What the folder says.
        derived: What follows from the votes instead, and why.
    """

    index: int | None
    where: str
    rule: str
    recorded: str
    derived: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "index": self.index,
            "where": self.where,
            "rule": self.rule,
            "recorded": self.recorded,
            "derived": self.derived,
        }


@dataclass
class Findings:
    """Collects what an audit finds, in the order in which it is found."""

    mismatches: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, index: int | None, rule: str, recorded: object, derived: object, where: str = "journal") -> None:
        """Add a mismatch; values that are not text are shown by `repr`, floats therefore in full."""
        self.mismatches.append(Mismatch(index, where, rule, shown(recorded), shown(derived)))

    def require_equal(
        self, index: int | None, rule: str, recorded: object, derived: object, where: str = "journal"
    ) -> bool:
        """Add a mismatch unless both are equal *and of one type* (in JSON, 1, 1.0 and true are three things)."""
        if type(recorded) is type(derived) and recorded == derived:
            return True
        self.add(index, rule, recorded, derived, where)
        return False

    def note(self, text: str) -> None:
        """Add a remark that does not make the audit fail."""
        self.notes.append(text)


def shown(value: object) -> str:
    """Return text for a table: text as it is, everything else by `repr`, long values cut in the middle."""
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 240 else f"{text[:150]} ... {text[-60:]}"


def list_indices(indices: Iterable[int], most: int = 10) -> str:
    """Return "3, 5, 8" for a few indices and "3, 5, 8, ... (200 in all)" for many."""
    known = sorted(indices)
    text = ", ".join(map(str, known[:most]))
    return text if len(known) <= most else f"{text}, ... ({len(known)} in all)"
