"""What is verified: balls around the inputs of a data set, or the boxes of a VNN-LIB file."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from certify.datasets.base import Dataset
from smoothing.threat import Norm
from verify.attack import Original
from verify.ball import Ball
from verify.graph import Graph
from verify.region import Region
from verify.specification import Specification
from verify.vnnlib import Property


@dataclass(frozen=True)
class Network:
    """The network in both forms.

    Attributes:
        graph: What is verified, in real arithmetic.
        original: What its user runs, in its own precision; predictions and counterexamples are its word.
        digest: SHA-256 of the model as it was loaded.
        spec: The text that named it.
        description: One line for people.
        transform: Text of the resizing before it; None for none.
        trained_with: The noise that it was trained with, in words; None where unknown.
    """

    graph: Graph
    original: Original
    digest: str
    spec: str
    description: str
    transform: str | None = None
    trained_with: str | None = None


@dataclass(frozen=True, eq=False)
class Question:
    """One property of one input.

    Attributes:
        region: The set, a batch of one.
        specification: The rows to be proved positive, a batch of one.
        admits: Whether a point of the set may be a counterexample; None: every one. Proofs are about the whole set.
    """

    region: Region
    specification: Specification
    admits: Callable[[Float[np.ndarray, "..."]], bool] | None = None


@runtime_checkable
class Subject(Protocol):
    """Numbered questions about one network."""

    @property
    def norm(self) -> Norm | None:
        """Norm of the sets; None where they are boxes of a file."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def digest(self, index: int) -> str:
        """SHA-256 of the input."""
        ...

    def label(self, index: int) -> int | None:
        """The class that is to win; None where a file says what is to hold."""
        ...

    def predict(self, index: int) -> int | None:
        """What the original network says of the input itself; None for boxes, -1 where it gives no finite scores."""
        ...

    def question(self, index: int, radius: float) -> Question:
        """What is to be proved at a radius (which boxes of a file do not depend on)."""
        ...

    def identity(self) -> dict[str, Any]:
        """What defines it, for the identity of a run."""
        ...


@dataclass(frozen=True, eq=False)
class Balls:
    """Balls around the inputs of a data set, in which one class is to win.

    Attributes:
        network: The network.
        data: The data set.
        threat: Norm of the balls.
        clip: Interval of the pixels, or None.
        against: "label": the data's label is to win; "prediction": the network's own prediction.
    """

    network: Network
    data: Dataset
    threat: Norm
    clip: tuple[float, float] | None
    against: str = "label"

    @property
    def norm(self) -> Norm | None:
        """Norm of the balls."""
        return self.threat

    def __len__(self) -> int:
        return len(self.data)

    def digest(self, index: int) -> str:
        """SHA-256 of the input's float32 values, as in every run."""
        x = self.data.inputs([index])[0]
        return hashlib.sha256(x.contiguous().numpy().astype("<f4").tobytes()).hexdigest()

    def inputs(self, indices: Sequence[int]) -> Float[Tensor, "batch *shape"]:
        """Return inputs in float64, in the network's shape."""
        return self.data.inputs(list(indices)).double().reshape(len(indices), *self.network.graph.input_shape)

    def label(self, index: int) -> int | None:
        """The class that is to win."""
        return self.predict(index) if self.against == "prediction" else int(self.data.labels([index])[0])

    def predict(self, index: int) -> int | None:
        """The original network's class; -1 where a score is not finite."""
        scores = self.network.original(self.inputs([index]).numpy())[0]
        return int(scores.argmax()) if bool(np.isfinite(scores).all()) else -1

    def question(self, index: int, radius: float) -> Question:
        """The ball, and the margins of the label."""
        label = self.label(index)
        assert label is not None
        region = Ball(self.threat, radius, clip=self.clip).at(self.inputs([index]))
        return Question(region, Specification.margins([label], self.network.graph.num_outputs))

    def identity(self) -> dict[str, Any]:
        """Data, norm, clip, label convention."""
        return {
            "data_digest": self.data.digest(),
            "split": self.data.split,
            "norm": str(self.threat),
            "clip": None if self.clip is None else list(self.clip),
            "against": self.against,
            "transform": self.network.transform,
        }


@dataclass(frozen=True, eq=False)
class Properties:
    """The boxes of a VNN-LIB file; the file is unsat if the property of every one of them holds.

    Attributes:
        network: The network.
        properties: What the file says.
        sha256: Digest of the file.
    """

    network: Network
    properties: tuple[Property, ...]
    sha256: str

    @property
    def norm(self) -> Norm | None:
        """None: a box is what the file says."""
        return None

    def __len__(self) -> int:
        return len(self.properties)

    def digest(self, index: int) -> str:
        """SHA-256 of the box and the rows."""
        prop, state = self.properties[index], hashlib.sha256()
        for array in (prop.lower, prop.upper, prop.specification.matrix, prop.specification.offset):
            state.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        state.update(repr(prop.specification.groups).encode())
        if prop.specification.strict or prop.open_lower.any() or prop.open_upper.any():
            state.update(repr((prop.specification.strict, prop.open_lower.tolist(), prop.open_upper.tolist())).encode())
        return state.hexdigest()

    def label(self, index: int) -> int | None:
        """None."""
        return None

    def predict(self, index: int) -> int | None:
        """None."""
        return None

    def question(self, index: int, radius: float) -> Question:
        """The box and the rows that refute its unsafe outputs."""
        prop = self.properties[index]
        return Question(prop.region(self.network.graph.input_shape), prop.specification, prop.admits)

    def identity(self) -> dict[str, Any]:
        """The file's digest."""
        return {"vnnlib_sha256": self.sha256}


def module_network(module: torch.nn.Module, shape: tuple[int, ...], **known: Any) -> Network:
    """Translate a module; the remaining arguments are those of `Network`."""
    from verify.attack import original_of
    from verify.tracing import trace

    module.eval()
    return Network(trace(module, shape), original_of(module), **known)


def onnx_network(path: Path, spec: str) -> Network:
    """Read an ONNX file.

    Raises:
        FileFormatError: If it is no such model.
        UnsupportedOperatorError: If operators are not covered; names all.
    """
    from verify.onnx_import import load_onnx, onnx_original

    graph = load_onnx(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Network(graph, onnx_original(path), digest, spec, f"ONNX file {path.name}")
