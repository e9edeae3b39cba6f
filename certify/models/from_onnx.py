"""`onnx:FILE`: a classifier as an ONNX graph; the certificate is for the graph as ONNX Runtime executes it."""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.errors import ModelError
from certify.models.base import LoadedModel, describe, reason, shape_text
from certify.models.checkpoint_config import read_file
from certify.models.libraries import import_extra
from smoothing.errors import ClassifierError

_DTYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class OnnxClassifier:
    """A callable around a graph with one floating-point input [N, *shape] and scores [N, classes] or labels [N] out.

    A graph exported for a fixed batch size is fed in pieces of that size, the last one padded with zeros and the
    padding's answers dropped. A graph for images with channels last ([N, height, width, 3 or 4]) gets them so; inputs here
    have channels first. Non-finite scores pass through: the votes count them as invalid.

    Args:
        path: For error messages.
        data: Bytes of the file.
        external: Bytes of the files beside it that hold its large tensors, by name.
        input_shape: Shape in which inputs come; used where the graph leaves it open, or holds the same number of values
            in another arrangement (a flattened image).

    Raises:
        ModelError: If ONNX Runtime is missing or cannot read the graph, or its inputs and outputs are not as above.
    """

    def __init__(
        self, path: Path, data: bytes, external: dict[str, bytes], input_shape: tuple[int, ...] | None = None
    ) -> None:
        self._runtime = import_extra("onnxruntime", "onnx")
        self._path, self._data, self._external = path, data, external
        self._sessions: dict[str, Any] = {}
        session = self._session("cpu")
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _DTYPES:
            found = ", ".join(f"{item.name}: {item.type}" for item in inputs)
            raise ModelError(f"{path} must have one floating-point input, got {found or 'none'}")
        if len(inputs[0].shape) < 2:
            raise ModelError(f"{path} must take a batch axis and at least one more, got input shape {inputs[0].shape}")
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        batch, *sizes = inputs[0].shape
        self.batch: int | None = batch if isinstance(batch, int) and batch > 0 else None
        known = all(isinstance(size, int) and size > 0 for size in sizes)
        self.graph_shape: tuple[int, ...] | None = tuple(sizes) if known else None
        # As TensorFlow exports them: images with their channels last, where sizes leave no doubt.
        colours = (3, 4)
        self.channels_last = len(sizes) == 3 and sizes[-1] in colours and sizes[0] not in colours
        if self.channels_last and self.graph_shape:
            self.graph_shape = (self.graph_shape[2], *self.graph_shape[:2])
        self.input_shape = input_shape
        if self.graph_shape and (input_shape is None or math.prod(input_shape) != math.prod(self.graph_shape)):
            # A graph for flattened inputs takes any arrangement of them, so its own says nothing about the data's.
            self.input_shape = self.graph_shape if len(self.graph_shape) == 3 else None
        output = _scores_output(path, session.get_outputs())
        self._output = output.name
        last = output.shape[-1] if len(output.shape) == 2 else None
        self.num_classes: int | None = last if isinstance(last, int) and last > 1 else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the graph's output for a batch, on the device of the batch.

        Raises:
            ClassifierError: If the inputs do not have the graph's shape, or the graph fails on them.
        """
        own = tuple(x.shape[1:])
        shape = self.graph_shape or own
        # Flattening is an arrangement; a picture in the place of another of the same size is a mistake.
        if math.prod(shape) != math.prod(own) or (len(shape) == len(own) == 3 and shape != own):
            raise ClassifierError(f"{self._path} takes inputs of {shape_text(shape)}, got {shape_text(own)}")
        session = self._session(x.device.type)
        inputs = x.detach().reshape(x.shape[0], *shape).float().cpu().numpy().astype(self._dtype, copy=False)
        if self.channels_last:
            inputs = np.ascontiguousarray(np.moveaxis(inputs, 1, -1))
            shape = inputs.shape[1:]
        step = self.batch or max(len(inputs), 1)
        pieces = []
        for start in range(0, max(len(inputs), 1), step):
            piece = inputs[start : start + step]
            if self.batch is not None and len(piece) < step:
                piece = np.concatenate([piece, np.zeros((step - len(piece), *shape), self._dtype)])
            try:
                answer = session.run([self._output], {self._input: piece})[0]
            except Exception as error:
                raise ClassifierError(
                    f"{self._path} failed on a batch of shape {piece.shape}: {reason(error)}"
                ) from error
            if len(answer) != len(piece):
                raise ClassifierError(
                    f"{self._path} must answer every input, got {len(answer)} answers to {len(piece)}"
                )
            pieces.append(answer[: len(inputs) - start])
        return torch.from_numpy(np.concatenate(pieces)).to(x.device)

    def _session(self, device: str) -> Any:
        """Return the session for a kind of device: CUDA where inputs are there and ONNX Runtime can, else the CPU."""
        providers = ["CPUExecutionProvider"]
        if device == "cuda" and "CUDAExecutionProvider" in self._runtime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        if providers[0] not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            source: bytes | str = self._data  # the bytes, so that what runs is what the digest was taken of
            if self._external:
                names, contents = list(self._external), list(self._external.values())
                if hasattr(options, "add_external_initializers_from_files_in_memory"):
                    options.add_external_initializers_from_files_in_memory(names, contents, [len(c) for c in contents])
                else:  # older releases read such files only themselves, from beside the graph
                    source = str(self._path)
            try:
                session = self._runtime.InferenceSession(source, options, providers=providers)
            except Exception as error:
                raise ModelError(f"{self._path} is damaged, or not a graph that can be run: {reason(error)}") from error
            self._sessions[providers[0]] = session
        return self._sessions[providers[0]]


def load_onnx(
    spec: str, path: Path, *, num_classes: int | None = None, input_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Load an ONNX graph.

    Args:
        spec: The text that the user gave.
        path: The file.
        num_classes: Used where the graph does not say.
        input_shape: Shape in which inputs will come; see `OnnxClassifier`.

    Raises:
        ModelError: If ONNX Runtime is not installed, or the file is missing, damaged or not such a graph.
    """
    import_extra("onnxruntime", "onnx")
    data = read_file(path)
    external = _external_files(path, data)
    classifier = OnnxClassifier(path, data, external, input_shape)
    digest = hashlib.sha256(data)
    for name, content in sorted(external.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    classes = classifier.num_classes or num_classes
    size = len(data) + sum(map(len, external.values()))
    remarks = (f"{size:,} bytes",) + (() if classifier.batch is None else (f"fixed batch of {classifier.batch}",))
    shape = classifier.input_shape
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=classes,
        input_shape=shape,
        transform=None,
        noise=None,
        class_names=None,
        data=None,
        digest=digest.hexdigest(),
        description=describe(
            f"ONNX graph {path.name}", classifier, input_shape=shape, num_classes=classes, remarks=remarks
        ),
    )


def _external_files(path: Path, data: bytes) -> dict[str, bytes]:
    """Return the files in which the graph keeps large tensors, by the names that it gives them.

    Such a name is the value of an entry with the key "location" (StringStringEntryProto: field 1 is the key, field 2
    the value), so the entries are found in the bytes themselves and no ONNX package is needed to read the graph.
    """
    files = {}
    for entry in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])", data):
        length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(entry[1]))
        name = data[entry.end() : entry.end() + length].decode(errors="replace")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path} must keep its tensors in files beside it, got the location {name!r}")
        if (path.parent / name).is_file():  # where it is missing, ONNX Runtime says which tensor wants it
            files[name] = read_file(path.parent / name)
    return files


def _scores_output(path: Path, outputs: list[Any]) -> Any:
    """Return the output with the scores: the first floating-point matrix, else the first vector of labels."""
    for wanted, rank in ((tuple(_DTYPES), (0, 2)), (("tensor(int64)", "tensor(int32)"), (1,))):
        for output in outputs:
            if output.type in wanted and len(output.shape) in rank:
                return output
    found = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in outputs)
    raise ModelError(f"{path} must return scores [N, classes] or labels [N], got {found}")
