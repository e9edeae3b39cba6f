"""One verified input, as the journal keeps it and as exports, audits and comparisons see it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from certify.errors import JournalError
from certify.journal import Entry

CERTIFICATE, SOLVER, POINT, NOTHING = "certificate", "solver", "counterexample", "nothing"
"""What a claim rests on: slopes that the checker re-evaluates; a solver's word; a point; nothing was shown."""

VERIFIED, FALSIFIED, UNKNOWN, TIMEOUT, MISCLASSIFIED = "verified", "falsified", "unknown", "timeout", "misclassified"


@dataclass(frozen=True)
class Claim:
    """What one method says about one input.

    Attributes:
        method: Its name.
        rests_on: One of the four words above.
        status: "verified", "falsified", "unknown", "timeout" or "misclassified".
        radius: The label wins in the ball of this radius, input units; 0.0 where nothing is proved. For boxes of a
            file, 0.0.
        margin: Lower bound on the worst row at `radius` (at the radius asked for where nothing was proved); None where
            there is none.
        certificate: Name of the derivation in the input's file of arrays; None where there is none.
    """

    method: str
    rests_on: str
    status: str
    radius: float
    margin: float | None
    certificate: str | None


@dataclass(frozen=True)
class VerifyRow:
    """One input.

    Attributes:
        index: Index in the data set, or number of the box in the file.
        label: The class that is to win; None for boxes of a file.
        predict: The original network's class; None for boxes, -1 where it gives no finite scores.
        status: The verdict: that of the strongest claim.
        claims: One per decision: at a given radius the deciding rung's, in a search for the radius one per method.
        attack_radius: Distance of the nearest counterexample found; None where none was, or none was looked for.
        attack: Name of the attack that was run; None if none was.
        seconds: Its share of the wall time.
        input_sha256: Digest of the input.
        arrays_sha256: Digest of the file with certificates and counterexample; None where there is no file.
        device: Where bounds were computed.
        notes: Rungs that were left out, and why.
    """

    index: int
    label: int | None
    predict: int | None
    status: str
    claims: tuple[Claim, ...]
    attack_radius: float | None
    attack: str | None
    seconds: float
    input_sha256: str
    arrays_sha256: str | None
    device: str
    notes: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        """Whether the network itself is right about the input."""
        return self.status != MISCLASSIFIED

    def radius(self, rests_on: tuple[str, ...] = (CERTIFICATE,)) -> float:
        """The largest radius proved by claims that rest on these; 0.0 where there is none."""
        return max((c.radius for c in self.claims if c.status == VERIFIED and c.rests_on in rests_on), default=0.0)

    def payload(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return {key: value for key, value in asdict(self).items() if key != "index"}

    @classmethod
    def from_entry(cls, entry: Entry) -> "VerifyRow":
        """Read a journal entry.

        Raises:
            JournalError: If the payload lacks something.
        """
        try:
            return cls.from_payload(entry.index, entry.payload)
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(f"the journal's row of input {entry.index} cannot be read: {error!r}") from None

    @classmethod
    def from_payload(cls, index: int, payload: dict[str, Any]) -> "VerifyRow":
        """Read a payload; raises KeyError, TypeError or ValueError where something is missing or of a wrong kind."""
        claims = tuple(_claim(c) for c in payload["claims"])
        return cls(
            index=index,
            label=_whole(payload["label"]),
            predict=_whole(payload["predict"]),
            status=_word(payload["status"]),
            claims=claims,
            attack_radius=_real(payload["attack_radius"]),
            attack=None if payload["attack"] is None else _word(payload["attack"]),
            seconds=float(payload["seconds"]),
            input_sha256=_word(payload["input_sha256"]),
            arrays_sha256=None if payload["arrays_sha256"] is None else _word(payload["arrays_sha256"]),
            device=_word(payload["device"]),
            notes=tuple(str(note) for note in payload["notes"]),
        )


def _claim(raw: dict[str, Any]) -> Claim:
    radius = _real(raw["radius"])
    if radius is None or radius < 0:
        raise ValueError(f"a radius must be at least 0, got {radius!r}")
    name = raw["certificate"]
    return Claim(
        _word(raw["method"]),
        _word(raw["rests_on"]),
        _word(raw["status"]),
        radius,
        _real(raw["margin"]),
        None if name is None else _word(name),
    )


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, got {value!r}")
    return value


def _whole(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"a whole number was expected, got {value!r}")
    return value


def _real(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a finite number was expected, got {value!r}")
    return float(value)
