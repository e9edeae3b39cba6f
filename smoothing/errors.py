"""The errors that this project raises on purpose: one base class, few kinds, messages that say what to do.

Every message states the rule first and then the value that broke it: "alpha must be in (0, 1), got alpha=2.0".
"""


class SmoothingError(Exception):
    """Base class of every error raised on purpose by this project."""


class InvalidArgumentError(SmoothingError, ValueError):
    """An argument is outside what is allowed; the caller has to change the call."""


class UnsupportedNormError(InvalidArgumentError):
    """No radius is proved for this law in the norm that was asked for."""


class ClassifierError(SmoothingError):
    """The base classifier returned something that cannot be read as votes (wrong shape, wrong number of classes)."""


class ClassCountError(ClassifierError):
    """The base classifier scores another number of classes than it was said to have.

    Attributes:
        scored: How many it scores.
    """

    def __init__(self, message: str, scored: int) -> None:
        super().__init__(message)
        self.scored = scored


class NoiseSelfTestError(SmoothingError):
    """Noise that was drawn does not look like the law that the certificate speaks about: no certificate may be issued."""
