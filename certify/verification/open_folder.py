"""From the `run.json` of a verification run back to its network and its questions."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from certify.datasets import load_dataset
from certify.errors import CertifyError
from certify.verification.setup import load_network
from certify.verification.subject import Balls, Network, Properties, Subject, onnx_network
from smoothing.threat import Norm
from verify.vnnlib import read_vnnlib


@dataclass(frozen=True, eq=False)
class Opened:
    """What a run was about.

    Attributes:
        network: The network, loaded again.
        subject: The questions.
        eps: Radius of the balls, or the largest one looked at; 0.0 for boxes.
        search: Whether radii were searched.
        methods: Names of the rungs.
        pure: Whether every method stands for itself.
    """

    network: Network
    subject: Subject
    eps: float
    search: bool
    methods: tuple[str, ...]
    pure: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the questions come from a VNN-LIB file."""
        return isinstance(self.subject, Properties)


def open_run(
    config: dict[str, Any],
    *,
    model: str | None = None,
    data: str | None = None,
    data_root: Path | None = None,
    trust_pickle: bool = False,
) -> Opened:
    """Load model and data of a run again; digests are the caller's to compare.

    Raises:
        KeyError: If `run.json` lacks something.
        CertifyError: If model or data cannot be loaded.
    """
    identity, settings = config["identity"], config["settings"]
    methods = tuple(str(name) for name in identity["methods"]["names"])
    pure = bool(identity["methods"].get("pure", False))
    if "vnnlib_sha256" in identity:
        path = Path(data or settings["vnnlib"])
        spec = model or str(settings["model"])
        network = onnx_network(Path(spec.removeprefix("onnx:")), spec)
        properties = tuple(read_vnnlib(path))
        subject: Subject = Properties(network, properties, hashlib.sha256(path.read_bytes()).hexdigest())
        return Opened(network, subject, 0.0, False, methods, pure)
    root = data_root or (None if settings.get("data_root") is None else Path(settings["data_root"]))
    loaded = load_dataset(data or str(settings["data"]), root=root, split=str(identity["split"]))
    network, transform = load_network(
        model or str(settings["model"]),
        loaded.shape,
        num_classes=settings.get("num_classes"),
        architecture=settings.get("architecture"),
        normalisation=settings.get("normalisation"),
        trust_pickle=trust_pickle,
        denoiser=settings.get("denoiser"),
    )
    if transform is not None:
        loaded = replace(loaded, transform=transform)
    clip = identity["clip"]
    if clip is not None and len(clip) != 2:
        raise CertifyError(f"clip must be null or two numbers in run.json, got {clip!r}")
    balls = Balls(
        network,
        loaded,
        Norm.parse(identity["norm"]),
        None if clip is None else (float(clip[0]), float(clip[1])),
        str(identity["against"]),
    )
    return Opened(network, balls, float(identity["eps"]), bool(identity["search"]), methods, pure)
