"""AWS Rekognition: DetectLabels, and DetectCustomLabels for a model of one's own; through boto3, which signs requests."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import UNREADABLE, Adapter, top_label
from certify.blackbox.answers import Answer, NoAnswerError, RefusedError, ServiceError
from certify.blackbox.images import encode_png
from certify.errors import UsageError

SMALLEST = 80
"""Rekognition takes images of at least 80 x 80 pixels."""

_AGAIN = {
    "ThrottlingException",
    "ProvisionedThroughputExceededException",
    "InternalServerError",
    "ServiceUnavailable",
    "RequestTimeout",
    "LimitExceededException",
}
_TURNED_AWAY = ("ThrottlingException", "ProvisionedThroughputExceededException", "LimitExceededException")
_NOT_REACHED = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError")
_LOST = ("HTTPClientError", "ConnectionError", "IncompleteReadError")
_ADVICE = {
    (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
    ): (
        "no usable credentials in the environment or the AWS configuration: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ),
    ("NoRegionError", "InvalidRegionError"): "no usable region: give --service region=NAME",
    ("ParamValidationError",): "an option is not allowed: check --service project_version and max_labels",
}
"""Names of botocore's errors -> what to do about them."""

_WRONG = {
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "ResourceNotFoundException",
    "ResourceNotReadyException",
    "MissingAuthenticationToken",
}


@dataclass(frozen=True)
class Rekognition(Adapter):
    """The label of the highest confidence; equal confidences go to the smallest name.

    Images below 80 x 80 pixels are enlarged by repeating pixels, which is part of the base classifier. Credentials come
    from where boto3 looks for them: the environment or the user's AWS configuration.

    Args:
        region: AWS region; None: the configuration's.
        project_version: ARN of a Custom Labels model; None: the general labels.
        endpoint_url: Another address, for a stand-in.
        max_labels: Labels asked for.

    Raises:
        UsageError: If max_labels is below 1.

    Reference: Amazon Rekognition API, DetectLabels and DetectCustomLabels.
    """

    region: str | None = None
    project_version: str | None = None
    endpoint_url: str | None = None
    max_labels: int = 10
    _made: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    name: ClassVar[str] = "rekognition"

    growth: ClassVar[float] = 4 / 3
    """Bytes that are sent, over bytes of the image: boto3 writes it as base64."""

    def __post_init__(self) -> None:
        if self.max_labels < 1:
            raise UsageError(f"max_labels must be at least 1, got max_labels={self.max_labels}")

    def describe(self) -> dict[str, Any]:
        """Return what can change a label."""
        return {
            "adapter": self.name,
            "region": self.region,
            "project_version": self.project_version,
            "endpoint_url": self.endpoint_url,
            "max_labels": self.max_labels,
        }

    def client(self, timeout: float | None = None) -> Any:
        """Return the client of boto3, made once.

        Args:
            timeout: Seconds to wait for a connection, and for an answer; None: those of boto3.

        Raises:
            UsageError: If boto3 is not installed.
            ServiceError: If the region or the configuration cannot be used.
        """
        if "client" not in self._made:
            self._made["client"] = self._make(timeout)
        return self._made["client"]

    def _make(self, timeout: float | None) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise UsageError("the rekognition adapter needs boto3: pip install 'wulff[aws]'") from None
        waits = {} if timeout is None else {"connect_timeout": timeout, "read_timeout": timeout}
        try:
            # One attempt: retries, budget and journal are the caller's, and two layers would multiply.
            # A session of its own: boto3's default one keeps the first credentials that it has seen.
            return boto3.session.Session().client(
                "rekognition",
                region_name=self.region,
                endpoint_url=self.endpoint_url,
                config=Config(retries={"total_max_attempts": 1}, **waits),
            )
        except BotoCoreError as error:
            raise _unusable(error) from None
        except ValueError:  # an address that is none
            raise ServiceError("AWS Rekognition: the address of the service is not a URL") from None

    def prepare(self, images: UInt8[ndarray, "batch height width channel"]) -> bytes:
        """Return the PNG of one image, large enough; see `Adapter.prepare`."""
        return encode_png(enlarge(images[0]))

    async def ask(self, client: httpx.AsyncClient, prepared: Any) -> Sequence[Answer]:
        """Ask about one image; see `Adapter.ask`."""
        return [await asyncio.to_thread(self._ask, prepared, client.timeout.read)]

    def _ask(self, png: bytes, timeout: float | None) -> Answer:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            service = self.client(timeout)
            if self.project_version is None:
                found = service.detect_labels(Image={"Bytes": png}, MaxLabels=self.max_labels, MinConfidence=0)
            else:
                found = service.detect_custom_labels(
                    ProjectVersionArn=self.project_version,
                    Image={"Bytes": png},
                    MaxResults=self.max_labels,
                    MinConfidence=0,
                )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in _WRONG or status in (401, 403):
                raise ServiceError(f"AWS Rekognition refused: {code}; check credentials, region and model") from None
            if code in _AGAIN or status == 429 or status >= 500:
                raise NoAnswerError(code, taken=code not in _TURNED_AWAY and status != 429) from None
            raise RefusedError(code) from None
        except ResponseParserError:
            raise RefusedError("the answer cannot be read") from None
        except UNREADABLE as error:
            # Raised where boto3 reads an answer, one that came; elsewhere, it is a mistake that must not count as a vote.
            if not _raised_in(error, "botocore.parsers"):
                raise
            raise RefusedError("the answer cannot be read") from None
        except BotoCoreError as error:
            name = type(error).__name__
            if _is_any(error, _NOT_REACHED):
                raise NoAnswerError(f"cannot connect to AWS Rekognition: {name}", reached=False) from None
            if _is_any(error, _LOST):
                raise NoAnswerError(f"lost the connection to AWS Rekognition: {name}") from None
            # Whatever is left is decided on this machine, and would be decided alike for every image.
            raise _unusable(error) from None
        return self.read(found)

    def read(self, answer: Any) -> Answer:
        """Turn a response into an `Answer`."""
        if not isinstance(answer, dict):
            raise RefusedError("the answer is not a list of labels")
        key = "Labels" if self.project_version is None else "CustomLabels"
        version = answer.get("LabelModelVersion") or self.project_version
        try:
            scored = [(entry["Confidence"], entry["Name"]) for entry in answer[key]]
        except (KeyError, TypeError):
            raise RefusedError("the answer is not a list of labels", version=version) from None
        label = top_label(scored)
        return Answer(
            label, version, "" if label is not None else "the answer holds no label, or an unusable confidence"
        )


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether a call of some module was under way when an error was raised."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__") == module:
            return True
        step = step.tb_next
    return False


def _is_any(error: Exception, names: Sequence[str]) -> bool:
    """Whether an error is of a class of botocore named so; by name, because botocore may be absent where this is read."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _unusable(error: Exception) -> ServiceError:
    """Return the error of a client that cannot ask at all, with what to do; without botocore's text: it may quote values."""
    name = type(error).__name__
    for names, advice in _ADVICE.items():
        if _is_any(error, names):
            return ServiceError(f"AWS Rekognition: {advice} ({name})")
    return ServiceError(f"AWS Rekognition cannot be asked ({name}); check --service and the AWS configuration")


def enlarge(image: UInt8[ndarray, "height width channel"]) -> UInt8[ndarray, "_ _ channel"]:
    """Repeat pixels until both sides reach `SMALLEST`."""
    factor = max(1, -(-SMALLEST // min(image.shape[:2])))
    return np.repeat(np.repeat(image, factor, 0), factor, 1)
