"""A prediction service as the base classifier of a run: all that is decided about it before the first question."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from certify.blackbox.adapter import Adapter, host
from certify.blackbox.budget import Budget
from certify.blackbox.caller import CallSettings
from certify.blackbox.labels import LabelMap
from certify.blackbox.table import build_adapter
from certify.errors import UsageError
from certify.models.base import LoadedModel
from certify.models.digest import text_digest

SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class ServiceOptions:
    """What a user asks for.

    Attributes:
        adapter: A key of `ADAPTERS`.
        options: Its options, each "key=value".
        label_map: CSV file `label,class`; None: labels are class names, or class numbers for the oip and onnxruntime
            adapters.
        class_names: Names of the classes in order; None: the data set's.
        calls: Concurrency, rate, patience.
        budget: Limits and price.
        canaries: Number of known images that are asked for before, during and after; 0 for none; None: 5 where the service
            shows no version and the budget has room for them.
        canary_seconds: Seconds between two checks.
        is_random: The service is random by design: canaries mean nothing and are off.
        preflight: Ask about clean images before the votes; None: where that costs nothing, or the budget covers it beside
            the whole run; see `certify.blackbox.preflight.wanted`.
        record: File that all answers are written to at the end; None for none.
        from_record: Log to certify from, instead of asking; None to ask.
    """

    adapter: str = "oip"
    options: tuple[str, ...] = ()
    label_map: Path | None = None
    class_names: tuple[str, ...] | None = None
    calls: CallSettings = field(default_factory=CallSettings)
    budget: Budget = field(default_factory=Budget)
    canaries: int | None = None
    canary_seconds: float | int = 600.0
    is_random: bool = False
    preflight: bool | None = None
    record: Path | None = None
    from_record: Path | None = None


class Remarks:
    """What people should know about how a run on a service goes, in the order in which it came up.

    Attributes:
        texts: The remarks so far, each once.
        listener: Told each of them when it comes up; None for nobody.
        figures: What `progress` asks.
        teller: Told what is good to know and nothing to worry about; it is not kept. None for nobody.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.listener: Callable[[str], None] | None = None
        self.teller: Callable[[str], None] | None = None
        self.figures: Callable[[], str] = str

    def progress(self) -> str:
        """Return what a line of progress says beside its own figures; "" for nothing."""
        return self.figures()

    def tell(self, text: str) -> None:
        """Say something that is no remark."""
        if self.teller is not None:
            self.teller(text)

    def add(self, text: str) -> None:
        """Add a remark."""
        if text in self.texts:
            return
        self.texts.append(text)
        if self.listener is not None:
            self.listener(text)


@dataclass(frozen=True)
class Service:
    """A service, fully decided.

    Attributes:
        adapter: How it is asked.
        labels: From its labels to classes.
        options: What was asked for.
        before: Denoiser before the 8-bit step, or None.
        before_digest: What that denoiser is.
        remarks: What comes up on the way.
    """

    adapter: Adapter
    labels: LabelMap
    options: ServiceOptions
    before: Callable[[Any], Any] | None = None
    before_digest: str | None = None
    remarks: Remarks = field(default_factory=Remarks, compare=False)

    @property
    def canaries(self) -> int | None:
        """Number of canaries that are asked for; None where that follows from the service's first answer."""
        return 0 if self.options.is_random else self.options.canaries

    @property
    def shows_no_version(self) -> bool:
        """Whether it is known beforehand that answers come without a version of the service: the adapter reads none."""
        name = self.adapter.name
        return name in ("hf-endpoint", "callable") or (
            name == "http-json" and getattr(self.adapter, "version", None) is None
        )

    @property
    def shows_version(self) -> bool:
        """Whether it is known beforehand that every answer comes with a version: the digest of a file in this process."""
        return self.adapter.name == "onnxruntime"

    def describe(self) -> dict[str, Any]:
        """Return what can change a label: part of a run's identity, without secrets."""
        return {
            "adapter": self.adapter.describe(),
            "labels": self.labels.describe(),
            "encoding": "clip, 8 bit",
            "denoiser": self.before_digest,
        }

    def behind(self, spec: str, sigma: float | None, channels: int) -> "Service":
        """Return the same service behind a denoiser; see `certify.denoising.wrap.find_denoiser`."""
        from certify.denoising.wrap import find_denoiser

        denoiser, told, digest, _ = find_denoiser(spec, sigma, channels)
        return replace(self, before=lambda x: denoiser(x, told), before_digest=f"{digest} {told.hex()}")

    def as_model(self, spec: str) -> LoadedModel:
        """Return the stand-in for a classifier that a run plan holds; it cannot be called on this machine."""
        what = f"the service {host(spec)}" if is_service(spec) else f"the file {spec}"
        return LoadedModel(
            spec=spec,
            classifier=_cannot_be_called,
            num_classes=self.labels.num_classes,
            input_shape=None,
            transform=None,
            noise=None,
            class_names=None,
            data=None,
            digest=text_digest("service", json.dumps(self.describe(), sort_keys=True)),
            description=f"{what} by the {self.adapter.name} adapter",
        )


def is_service(spec: str) -> bool:
    """Return whether a MODEL is the address of a service."""
    return spec.startswith(SCHEMES)


def build_service(spec: str, options: ServiceOptions, data_names: Sequence[str], num_classes: int) -> Service:
    """Decide everything about a service.

    Args:
        spec: Its address.
        options: What was asked for.
        data_names: Names of the data set's classes, may be empty.
        num_classes: Number of classes.

    Raises:
        UsageError: If an option is unknown or out of range, or the classes cannot be named.
    """
    if options.canaries is not None and options.canaries < 0:
        raise UsageError(f"the number of canaries must be at least 0, got {options.canaries}")
    if options.record is not None and options.from_record is not None:
        raise UsageError("--record keeps answers and --from-record reads them: give one of the two")
    if options.from_record is not None and not options.from_record.exists():
        raise UsageError(f"the log {options.from_record} does not exist")
    pairs = dict(_pair(text) for text in options.options)
    names = options.class_names or (tuple(data_names) or None)
    adapter = build_adapter(options.adapter, spec, pairs, names)
    if options.label_map is not None:
        labels = LabelMap.from_csv(options.label_map, num_classes)
    elif options.class_names is not None:
        labels = LabelMap.from_names(options.class_names)
    elif _answers_with_numbers(adapter):
        labels = LabelMap(num_classes)
    elif names is not None:
        labels = LabelMap.from_names(names)
    else:
        raise UsageError(
            f"the {options.adapter} adapter answers with names: give --class-names or a --label-map for the {num_classes} "
            "classes"
        )
    if labels.num_classes != num_classes:
        raise UsageError(f"there must be {num_classes} class names, got {labels.num_classes}")
    scores = getattr(adapter, "num_classes", None)
    if scores is not None and scores != num_classes and options.label_map is None:
        raise UsageError(
            f"{spec} has scores of {scores} classes, but {num_classes} are to be certified: give --num-classes {scores}, or "
            "a --label-map from the numbers of its scores to classes"
        )
    return Service(adapter, labels, options)


def canary_images(count: int, read: Callable[[Sequence[int]], Any], size: int) -> UInt8[ndarray, "n h w c"]:
    """Return so many canaries, or as many as there are: clean images, evenly spaced over the data set."""
    from certify.blackbox.images import quantize

    return np.asarray(quantize(read(spread(range(size), count))))


def spread(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return so many of some inputs, or all of them, evenly spread over them, first and last among them."""
    count = min(count, len(indices))
    places = [round(i * (len(indices) - 1) / max(count - 1, 1)) for i in range(count)]
    return tuple(indices[place] for place in places)


def _answers_with_numbers(adapter: Adapter) -> bool:
    """Whether labels are class numbers: an adapter that reads scores says so."""
    return adapter.name in ("oip", "onnxruntime") or getattr(adapter, "scores", None) is not None


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"--service must be KEY=VALUE, got {text!r}")
    return key.strip(), value


def _cannot_be_called(x: Any) -> Any:
    raise UsageError("a service is asked by its client; it is no classifier on this machine")
