"""What a prediction service says about one image, and the ways in which it may say nothing.

A vote that is dropped fakes a certificate: where a service refuses half of the noisy images, the share of "dog" among the
answers that are left says nothing about the smoothed classifier. So every failure is either asked again, because no
answer was obtained, or an outcome of its own that counts against every class. The exceptions below say which.
"""

from typing import NamedTuple

from certify.errors import CertifyError


class Answer(NamedTuple):
    """One answer.

    Attributes:
        label: The label in the service's own words (a decimal class number where it returned scores); None is the outcome
            "invalid": a refusal, an empty or unreadable answer, or retries that ran out.
        version: What the service says of its own version; None where it says nothing.
        reason: Why there is no label, in a few words without any content of the request; "" where there is one.
    """

    label: str | None
    version: str | None = None
    reason: str = ""


class NoAnswerError(Exception):
    """No answer was obtained (overload, an error of the server, a lost connection): the same question may be asked again.

    Args:
        reason: What happened, without secrets or content.
        after: Seconds that the service asked to wait (Retry-After), None where it did not say.
        reached: Whether the question may have reached the service. A refused connection never did, so that it can say
            nothing about the image, and the run may stop instead of counting it.
        taken: Whether the service may have worked on the question, and bill it. None: wherever it was reached; a service
            that says "too many requests" has turned the question away.
    """

    def __init__(
        self, reason: str, *, after: float | None = None, reached: bool = True, taken: bool | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.reached = reached
        self.taken = reached if taken is None else taken


class RefusedError(Exception):
    """The service answered, but not with a label: the outcome "invalid" for all images of the call.

    Args:
        reason: What it said, without secrets or content.
        version: Version of the service, where known.
    """

    def __init__(self, reason: str, *, version: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.version = version


class ServiceError(CertifyError):
    """The service cannot be used as it was asked for: wrong address, model name or credentials. Stops the run."""
