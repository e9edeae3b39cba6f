"""The smoothed classifier g(x) = argmax_c P(f(x + z) = c): predictions and certificates."""

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy import ndarray
from torch import Tensor

from smoothing.certificate import Certificate, check_thresholds, issue_certificate
from smoothing.distributions.base import SmoothingDistribution
from smoothing.driver import drive
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator, Phase, State
from smoothing.estimators.fixed import FixedEstimator
from smoothing.forward import ForwardSettings
from smoothing.noise import NOISE_VERSION
from smoothing.noise_table import rebuild_noise
from smoothing.statistics.arguments import check_positive_integer
from smoothing.statistics.binomial import check_alpha
from smoothing.statistics.rank import rank_test
from smoothing.threat import Norm
from smoothing.votes import BatchingEngine, Classifier, VoteRequest

_IN_FLIGHT = 1024
"""Inputs whose states are kept open together; enough to fill batches, few enough to stay small."""

Integers = Sequence[SupportsIndex] | Integer[ndarray, " batch"] | Integer[Tensor, " batch"]
"""One integer per input: a sequence, or an array or tensor of one axis."""


class SmoothedClassifier:
    """A base classifier under noise.

    Args:
        classifier: Callable from [batch, *shape] to scores [batch, classes] or integer labels [batch]; normalisation
            happens inside it. An `nn.Module` is put in eval mode while votes are counted.
        distribution: The law of the noise, over the shape of one input.
        num_classes: K, at least 2.
        batch_size: Rows of every forward pass.
        device: Where to run; default: where the classifier is.
        precision: "fp32", "bf16" or "fp16"; the certificate is for the classifier at this precision.
        channels_last: Use NHWC memory for image batches.
        compile: Run the classifier through `torch.compile`.
        noise_version: "torch-block-v1", floating-point noise for any input and law; or "philox-int-v1", integer noise for
            inputs that are multiples of 1 / grid, whose proof has no gap between theorem and machine.
        grid: Steps per unit of the inputs, for integer noise; 255 for 8-bit images.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Cohen, Rosenfeld, Kolter 2019; Yang et al. 2020 for laws beyond the Gaussian.

    Example:
        >>> import torch
        >>> from smoothing import Gaussian, SmoothedClassifier
        >>> halfspace = lambda x: torch.stack([x.sum(1), -x.sum(1)], 1)
        >>> smoothed = SmoothedClassifier(halfspace, Gaussian((2,), sigma=0.5), num_classes=2)
        >>> [certificate] = smoothed.certify(torch.tensor([[0.5, 0.5]]), n=10_000)
        >>> certificate.prediction, 0.6 < certificate.radius < 0.7072
        (0, True)
    """

    def __init__(
        self,
        classifier: Classifier,
        distribution: SmoothingDistribution,
        num_classes: SupportsIndex,
        *,
        batch_size: SupportsIndex = 256,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        noise_version: str = NOISE_VERSION,
        grid: SupportsIndex = 255,
    ) -> None:
        self.classifier = classifier
        self.distribution = distribution
        self.num_classes = _plain(num_classes)
        self.device = None if device is None else _usable(device)
        self.settings = ForwardSettings(_plain(batch_size), precision, channels_last, compile)
        self.noise: dict[str, Any] = {"version": noise_version}
        if noise_version != NOISE_VERSION:
            self.noise["grid"] = _plain(grid)
        self._checked = False
        self._engine(torch.zeros((0, *distribution.shape)), [], seed=0)

    def certify(
        self,
        x: Float[Tensor, "batch *shape"],
        norm: Norm | str = "l2",
        n0: SupportsIndex = 100,
        n: SupportsIndex = 100_000,
        alpha: float = 0.001,
        seed: SupportsIndex = 0,
        estimator: Estimator | None = None,
        indices: Integers | None = None,
        labels: Integers | None = None,
    ) -> list[Certificate]:
        """Certify each input; every certificate fails with probability at most `alpha` over the noise.

        Args:
            x: Inputs, [batch, *shape], before any normalisation.
            norm: Norm of the perturbation; the law must have a proved radius in it.
            n0: Selection votes.
            n: Estimation votes.
            alpha: One-sided error probability per input.
            seed: Seed of the noise. Certifying again with other seeds, or with more votes, until a radius pleases spends
                alpha each time.
            estimator: Policy over votes; default `FixedEstimator(n0, n, alpha)`, and then n0, n, alpha are its own.
            indices: Keys of the inputs' noise, distinct (their indices in the data set); default: a hash of the input.
            labels: The class of each input that estimators in label-directed mode test, in 0..num_classes - 1; fixed before
                any vote.

        Returns:
            One certificate per input, in order.

        Raises:
            InvalidArgumentError: If an argument is out of range.
            UnsupportedNormError: If no radius is proved for the norm.
            ClassifierError: If the classifier's output cannot be read.
        """
        norm = self.distribution.require_norm(norm)
        policy = estimator or FixedEstimator(_plain(n0), _plain(n), alpha)
        whole_seed: int = _plain(seed)
        keys = self._keys(x, indices)
        given: dict[int, int | None] = {}
        for key, label in zip(keys, self._labels(labels, len(keys)), strict=True):
            if given.setdefault(key, label) != label:
                # Equal inputs have the same votes; two labels would be two tests of them.
                raise InvalidArgumentError(f"equal inputs must have one label, got {given[key]} and {label}")
        engine = self._engine(x, keys, whole_seed)
        slack = engine.noise.probability_slack
        check_thresholds(getattr(policy, "thresholds", ()), self.distribution, norm, probability_slack=slack)
        certificates: dict[int, Certificate] = {}
        distinct = list(dict.fromkeys(keys))
        for first in range(0, len(distinct), _IN_FLIGHT):
            states: dict[int, State] = {key: policy.start(given[key]) for key in distinct[first : first + _IN_FLIGHT]}
            for _ in drive(engine, states):
                pass
            for key, state in states.items():
                certificates[key] = issue_certificate(
                    state.result(),
                    self.distribution,
                    norm,
                    index=key,
                    seed=whole_seed,
                    noise_version=engine.noise.version,
                    precision=self.settings.precision,
                    probability_slack=slack,
                    covers=engine.noise.covers,
                )
        return [certificates[key] for key in keys]

    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        n: SupportsIndex = 1_000,
        alpha: float = 0.001,
        seed: SupportsIndex = 0,
        indices: Integers | None = None,
    ) -> list[int | None]:
        """Return g(x) for each input, or None where the votes do not prove it at level `alpha`.

        Args:
            x: Inputs, [batch, *shape].
            n: Votes per input.
            alpha: Probability of returning a class other than g(x), per input.
            seed: Seed of the noise.
            indices: Keys of the inputs' noise; see `certify`.

        Raises:
            InvalidArgumentError: If an argument is out of range.
            ClassifierError: If the classifier's output cannot be read.

        Reference: PREDICT of Cohen et al. 2019, by the rank verification of Hung and Fithian 2019.
        """
        check_alpha(alpha)
        votes: int = _plain(n)
        whole_seed: int = _plain(seed)
        check_positive_integer("n", votes)
        keys = self._keys(x, indices)
        requests = [VoteRequest(key, Phase.PREDICT, 0, votes) for key in dict.fromkeys(keys)]
        classes = {
            request.index: rank_test(counts, alpha)
            for request, counts in self._engine(x, keys, whole_seed).votes(requests)
        }
        return [classes[key] for key in keys]

    def _engine(self, x: Tensor, keys: Sequence[int], seed: int) -> BatchingEngine:
        rows = {key: row for row, key in enumerate(keys)}
        engine = BatchingEngine(
            self.classifier,
            self.distribution,
            self.num_classes,
            lambda key: x[rows[key]],
            settings=self.settings,
            device=self.device,
            seed=seed,
            noise=lambda device: rebuild_noise(self.noise, self.distribution, seed, device),
        )
        if len(x) and not self._checked:
            engine.check_classifier(x[0])
            self._checked = True
        return engine

    def _labels(self, labels: Integers | None, count: int) -> list[int] | list[None]:
        if labels is None:
            return [None] * count
        found = _integers("labels", labels)
        if len(found) != count:
            raise InvalidArgumentError(f"labels must be one per input, got {len(found)} for {count} inputs")
        outside = [label for label in found if not 0 <= label < self.num_classes]
        if outside:
            raise InvalidArgumentError(f"labels must be in 0..{self.num_classes - 1}, got {outside[:10]}")
        return found

    def _keys(self, x: Tensor, indices: Integers | None) -> list[int]:
        if not isinstance(x, Tensor):
            raise InvalidArgumentError(f"x must be a torch.Tensor [batch, *shape], got {type(x).__name__}")
        if x.layout is not torch.strided or x.is_meta:
            kind = "a meta tensor, which has none" if x.is_meta else f"layout {x.layout}"
            raise InvalidArgumentError(f"x must be a dense tensor with values, got {kind}")
        if tuple(x.shape[1:]) != self.distribution.shape:
            raise InvalidArgumentError(
                f"x must have shape (batch, {', '.join(map(str, self.distribution.shape))}), got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise InvalidArgumentError(f"x must be floating point, pixels in [0, 1], got dtype {x.dtype}")
        if not bool(torch.isfinite(x.float()).all()):
            raise InvalidArgumentError(
                "x must be finite in float32, got an input with NaN, infinity or a larger number"
            )
        if not bool((x.float() == x).all()):
            # The engine computes in float32: it would certify a neighbour of x, and the radius would not be about x.
            raise InvalidArgumentError(
                f"x must be exact in float32, got dtype {x.dtype} with finer values; certify x.float() instead"
            )
        if indices is None:
            # A position in a batch would give different inputs the same noise from call to call; their content does not.
            rows = x.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
            return [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "big") >> 1 for row in rows]
        keys = _integers("indices", indices)
        if len(keys) != len(x) or len(set(keys)) != len(keys) or any(key < 0 for key in keys):
            raise InvalidArgumentError(
                f"indices must be {len(x)} distinct integers of at least 0, one per input, got {keys[:10]}"
            )
        return keys


def _plain(value: Any) -> Any:
    """Return an integer of any kind, numpy's and torch's too, as an `int`, and anything else as it is.

    Whoever takes it names the rule that it breaks.
    """
    if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype is torch.bool):
        return value
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # torch's own for tensors without values
        return value


def _integers(name: str, values: Any) -> list[int]:
    """Return a sequence of integers as a list, or raise; arrays and tensors must have one axis."""
    if isinstance(values, ndarray | Tensor):
        if values.ndim != 1 or (isinstance(values, Tensor) and values.is_meta):
            shape = tuple(values.shape)
            raise InvalidArgumentError(f"{name} must be integers, one per input, got an array of shape {shape}")
        values = values.tolist()
    try:
        found = [_plain(value) for value in values]
    except TypeError:
        raise InvalidArgumentError(f"{name} must be integers, one per input, got {values!r}") from None
    if any(isinstance(value, bool) or not isinstance(value, int) for value in found):
        raise InvalidArgumentError(f"{name} must be integers, got {found[:10]}")
    return found


def _usable(device: torch.device | str) -> torch.device:
    """Return a device that tensors can be made on, or raise."""
    try:
        found = torch.device(device)
        usable = found.type != "meta"
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # each kind of device has its own
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise InvalidArgumentError(
            f"device must be one that this machine has, such as cpu or cuda:0, got device={device!r} ({reason})"
        ) from None
    if not usable:
        raise InvalidArgumentError("device must be one that holds values, got device='meta'")
    return found
