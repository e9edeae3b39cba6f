"""The errors of deterministic verification: what cannot be verified, and why, in one message."""

from collections.abc import Sequence

from smoothing.errors import InvalidArgumentError, SmoothingError


class VerificationError(SmoothingError):
    """Base class of the errors that only verification raises."""


class UnsupportedOperatorError(VerificationError):
    """The network contains operators that no relaxation here covers. All of them are named at once.

    Attributes:
        operators: One text per offending place, "where: what, and what is supported instead".
    """

    def __init__(self, operators: Sequence[str], supported: str = "") -> None:
        self.operators = tuple(operators)
        listed = "\n  - ".join(self.operators)
        known = f"\nsupported: {supported}" if supported else ""
        super().__init__(
            f"the network must consist of supported operators only, got {len(self.operators)} others:\n  - {listed}{known}"
        )


class GraphError(VerificationError):
    """The network could not be translated faithfully (shapes do not fit, or the translation computes something else)."""


class FileFormatError(VerificationError, InvalidArgumentError):
    """A VNN-LIB or ONNX file does not say what it must; the message names the place and the reason."""
