"""One run, fully decided: what is certified, how, and where it goes."""

import hashlib
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify import __version__
from certify.datasets.base import Dataset
from certify.errors import DatasetError, ModelError, UsageError
from certify.models.base import LoadedModel, transform_text
from certify.outcomes import predict_code
from certify.rundir import KIND, SCHEMA, Row
from smoothing.certificate import Certificate, check_thresholds
from smoothing.distributions.base import SmoothingDistribution
from smoothing.estimators.base import Estimator
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.planned import PlannedEstimator
from smoothing.forward import ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.noise_source import NoiseSource
from smoothing.noise_table import rebuild_noise
from smoothing.rounding import complement_down, sum_up
from smoothing.statistics.binomial import minimum_votes
from smoothing.threat import Norm, convert_radius


@dataclass(frozen=True)
class RunPlan:
    """One run, fully decided: what is certified, how, and where it goes.

    Attributes:
        model: The base classifier.
        data: The data set.
        indices: Inputs to certify, ascending.
        law: The law of the noise.
        norm: Norm of the certificates.
        convert_from: Norm in which the radius is proved if it is converted to `norm`, else None.
        estimator: Policy over votes.
        noise: Version and parameters of the noise, `NoiseSource.describe`.
        seed: Seed of the noise.
        forward: Batch shape and arithmetic.
        device: Where to run.
        out: Run folder.
        settings: How the run was called; recorded, not part of the identity.
        service: The prediction service that is asked for votes; None where the model runs on this machine.
    """

    model: LoadedModel
    data: Dataset
    indices: tuple[int, ...]
    law: SmoothingDistribution
    norm: Norm
    convert_from: Norm | None
    estimator: Estimator
    seed: int
    forward: ForwardSettings
    device: torch.device
    out: Path
    settings: dict[str, Any]
    noise: dict[str, Any] = field(default_factory=lambda: {"version": NOISE_VERSION})
    service: Any = None  # a certify.blackbox.spec.Service, whose import needs httpx

    @property
    def num_classes(self) -> int:
        """K: the model's, which the data set's labels must fit into."""
        return self.model.num_classes or self.data.num_classes

    def noise_source(self) -> NoiseSource:
        """Return who draws the noise."""
        return rebuild_noise(self.noise, self.law, self.seed, self.device)

    @property
    def follows_torch(self) -> bool:
        """Whether the noise depends on torch's release and on the kind of device."""
        return bool(self.noise["version"] == NOISE_VERSION)

    def identity(self) -> dict[str, Any]:
        """Return what defines the run; a repeat with another identity in the same folder is refused."""
        # Noise that is the same everywhere makes a run that can be resumed anywhere.
        torch_streams = {
            "device_kind": self.device.type,
            # torch's streams on a GPU depend on how many multiprocessors it has, hence on the model of the GPU.
            "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
            "torch_version": torch.__version__,
        }
        return {
            "model_digest": self.model.digest,
            "data_digest": self.data.digest(),
            "split": self.data.split,
            "input_shape": list(self.law.shape),
            "num_classes": self.num_classes,
            "law": self.law.describe(),
            "norm": str(self.norm),
            "convert_from": None if self.convert_from is None else str(self.convert_from),
            "estimator": self.estimator.describe(),
            "seed": self.seed,
            "noise_version": self.noise["version"],
            **({} if self.follows_torch else {"noise": self.noise}),
            "precision": self.forward.precision,
            "channels_last": self.forward.channels_last,
            "compile": self.forward.compile,
            "batch_size": self.forward.batch_size,
            "transform": transform_text(self.model.transform),
            **({} if self.service is None else {"service": self.service.describe()}),
            **(torch_streams if self.follows_torch else dict.fromkeys(torch_streams)),
        }

    def config(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        import scipy

        return {
            "schema": SCHEMA,
            "kind": KIND,
            "identity": self.identity(),
            "settings": self.settings,
            "environment": {
                "tool": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "platform": platform.platform(),
                "threads": torch.get_num_threads(),
                "device": str(self.device),
                "probability_slack": self.noise_source().probability_slack,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        }

    def check(self) -> None:
        """Check that the parts fit together, before anything is run or written.

        Raises:
            UsageError: If n and alpha can certify nothing, or there are fewer than 2 classes.
            UnsupportedNormError: If no radius is proved for the norm.
            ModelError: If the model does not take the data's inputs.
            DatasetError: If a label is outside the model's classes.
        """
        self.law.require_norm(self.norm if self.convert_from is None else self.convert_from)
        if self.grid is not None:
            check_thresholds(
                getattr(self.estimator, "thresholds", ()),
                self.law,
                self.norm,
                probability_slack=self.noise_source().probability_slack,
                convert_from=self.convert_from,
            )
        if self.grid is None and self.largest_radius() <= 0.0:
            needed = minimum_votes(float(np.nextafter(0.5, 0.0)), self.estimator.alpha)
            raise UsageError(
                f"n={_bound_votes(self.estimator)} votes at alpha={self.estimator.alpha} can certify nothing, even if all "
                f"agree; n must be at least {needed}, and 10,000 or more is usual"
            )
        if self.model.input_shape is not None and tuple(self.model.input_shape) != self.law.shape:
            raise ModelError(
                f"the model takes inputs of shape {tuple(self.model.input_shape)}, but {self.data.name} has {self.law.shape}"
            )
        if self.num_classes < 2:
            told = "as the model says"
            if self.model.num_classes is None:
                told = f"as the labels of {self.data.name} say, since the model does not: give --num-classes"
            raise UsageError(f"at least 2 classes are needed, got {self.num_classes}, {told}")
        labels = self.data.labels(self.indices)
        wrong = [(i, int(y)) for i, y in zip(self.indices, labels, strict=True) if not 0 <= y < self.num_classes]
        if wrong:
            index, label = wrong[0]
            raise DatasetError(
                f"labels must be in 0..{self.num_classes - 1}, the classes of the model; input {index} has label {label} "
                f"({len(wrong)} such inputs)"
            )

    @property
    def grid(self) -> tuple[float, ...] | None:
        """The radii that are decided, where the estimator decides radii; None where it bounds a probability."""
        thresholds = getattr(self.estimator, "thresholds", None)
        return None if thresholds is None else tuple(threshold.radius for threshold in thresholds)

    def largest_radius(self) -> float:
        """Return the largest radius that can come out of this run: when all votes agree, or the largest of the grid."""
        if self.grid is not None:
            return self.grid[-1]
        return radius_of(
            self.law, self.norm, self.convert_from, self.estimator.best_q_upper, self.noise_source().probability_slack
        )

    @property
    def votes_per_input(self) -> int | None:
        """Forward passes that one input costs at most; None where there is no cap."""
        return self.estimator.max_votes


def radius_of(
    law: SmoothingDistribution, norm: Norm, convert_from: Norm | None, q_upper: float, slack: float = 0.0
) -> float:
    """Return the radius in `norm` that a bound on 1 - p proves; 0.0 where it proves none."""
    q = sum_up(q_upper, slack)
    if q >= 0.5:
        return 0.0
    source = convert_from or norm
    return convert_radius(law.radius(complement_down(q), source, q_upper=q), source, norm, law.dimension)


def _bound_votes(estimator: Estimator) -> int | None:
    """The votes that the bound rests on when all agree."""
    if isinstance(estimator, FixedEstimator):
        return int(estimator.n)
    return int(estimator.n_max) if isinstance(estimator, PlannedEstimator) else estimator.max_votes


def input_digest(x: Tensor) -> str:
    """Return the SHA-256 of an input's float32 values, little-endian."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def make_row(plan: RunPlan, index: int, label: int, certificate: Certificate, seconds: float) -> Row:
    """Return what the journal and the exports hold of one certified input."""
    predict = predict_code(certificate)
    digest = input_digest(plan.data.inputs([index])[0])
    return Row(index, label, predict, certificate.radius, predict == label, seconds, digest, certificate)


def payload_of(row: Row) -> dict[str, Any]:
    """Return a row as the journal keeps it."""
    return {
        "label": row.label,
        "certificate": row.certificate.to_dict(),
        "seconds": row.seconds,
        "input_sha256": row.input_sha256,
    }
