"""Checkpoints written by `torch.save`: those of the published codes, plain state dicts, and bare safetensors weights.

The codes that descend from Cohen et al. 2019 save `{"epoch", "arch", "state_dict", "optimizer"}` of
`nn.Sequential(normaliser, network)`, so the keys of the network begin with "1."; ImageNet networks sit inside a
`DataParallel`, which adds "module.". The normaliser's constants are not in the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify.errors import ModelError, UsageError
from certify.models.architectures import ARCHITECTURES, Architecture, build_architecture, find_architecture
from certify.models.base import LoadedModel, describe, did_you_mean, shape_text
from certify.models.checkpoint import architecture_digest, parse_safetensors
from certify.models.checkpoint_config import read_file
from certify.models.digest import callable_digest
from certify.models.normalize import NORMALISATIONS, Normalize
from certify.models.pickles import read_torch_file
from certify.models.weights import fill, on_meta

_ARCH_NAMES = {"cifar_resnet20": "resnet20", "cifar_resnet110": "resnet110"}
_DATA = {"resnet20": "cifar10", "resnet110": "cifar10", "resnet50": "imagenet", "lenet": "mnist"}
_NORMALISED_AS = {"resnet20": "cifar10", "resnet110": "cifar10", "wrn40-2": "cifar10", "resnet50": "imagenet"}
_PREFIXES = ("", "1.", "network.", "model.", "net.")  # of the network inside what was saved
_WRAPPERS = {"module", "_orig_mod"}  # what DataParallel and torch.compile put into names
_MEANS, _STDS = {"mean", "means"}, {"std", "stds", "sds"}


@dataclass(frozen=True)
class _Parts:
    """A state dict taken apart: the network's tensors under its own names, the normaliser's, the network's prefix."""

    network: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    prefix: str


def load_published(
    spec: str,
    path: Path,
    *,
    architecture: str | None = None,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    normalisation: str | None = None,
    trust_pickle: bool = False,
) -> LoadedModel:
    """Load a file of `torch.save`, or bare weights in a safetensors file.

    Args:
        spec: The text that the user gave.
        path: The file.
        architecture: A key of `ARCHITECTURES`; needed where the file does not name its own.
        num_classes: Only for a pickled module, which does not say; weights say it themselves.
        input_shape: Shape of one input; default: the usual one of the architecture.
        normalisation: A key of `NORMALISATIONS`. Default: what the file holds; else, where names begin with "1." as in
            the published codes, the constants of Cohen et al. for that architecture; else none.
        trust_pickle: Unpickle without restrictions, which runs whatever code the file contains.

    Raises:
        ModelError: If the file is missing, damaged, refused, or does not fit the architecture.
        UsageError: If the architecture or the normalisation is unknown, or was not given where it is needed.
    """
    if path.suffix == ".safetensors":
        content: Any = parse_safetensors(read_file(path), path)
    else:
        content = read_torch_file(path, trust_pickle=trust_pickle)
    if isinstance(content, nn.Module):
        return _whole_module(spec, content, num_classes, input_shape)
    own_name, tensors = _state_dict(path, content)
    name = _architecture_name(path, own_name, architecture)
    row = ARCHITECTURES[name]
    parts = _take_apart(tensors, name)
    shape = input_shape or _usual_shape(row, parts.network)
    classes = parts.network[row.head].shape[0] if row.head in parts.network else num_classes or 10
    constants, remark = _normaliser(name, shape, parts, normalisation)
    mean, std = constants or (None, None)
    with on_meta():
        model = build_architecture(name, num_classes=classes, input_shape=shape, mean=mean, std=std)
    values = {f"network.{key}": value for key, value in parts.network.items()}
    if constants is not None:
        layer = Normalize(*constants, axes=len(shape))
        values |= {f"normalize.{key}": value for key, value in layer.state_dict().items()}
    for key in model.state_dict():  # files of the first PyTorch releases lack these counters, which change no output
        if key.endswith(".num_batches_tracked"):
            values.setdefault(key, torch.zeros((), dtype=torch.int64))
    fill(model, values, f"{path}, taken as {name} for inputs {shape_text(shape)},")
    data = _DATA.get(name) if own_name is not None else None
    return LoadedModel(
        spec=spec,
        classifier=model,
        num_classes=classes,
        input_shape=shape,
        transform=None,
        noise=None,
        class_names=None,
        data=data,
        digest=architecture_digest(model, name, classes, shape),
        description=describe(name, model, input_shape=shape, num_classes=classes, data=data, remarks=(remark,)),
    )


def _whole_module(
    spec: str, module: nn.Module, num_classes: int | None, input_shape: tuple[int, ...] | None
) -> LoadedModel:
    module = module.to("cpu").eval()
    return LoadedModel(
        spec=spec,
        classifier=module,
        num_classes=num_classes,
        input_shape=input_shape,
        transform=None,
        noise=None,
        class_names=None,
        data=None,
        digest=callable_digest(module, repr(module)),
        description=describe(
            f"pickled {type(module).__name__}", module, input_shape=input_shape, num_classes=num_classes
        ),
    )


def _state_dict(path: Path, content: object) -> tuple[str | None, dict[str, Tensor]]:
    """Return the name of the architecture, where the file gives one, and the tensors by name."""
    name = None
    if isinstance(content, Mapping):
        if isinstance(content.get("arch"), str):
            name = str(content["arch"])
        for member in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(member), Mapping):
                content = content[member]
                break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        held = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{path} must hold a state dict (tensors by name), or one as its member 'state_dict', got {held}"
        )
    return name, {str(key): value for key, value in content.items()}


def _architecture_name(path: Path, own_name: str | None, given: str | None) -> str:
    if given is not None:
        find_architecture(given)
        return given
    if own_name is None:
        raise UsageError(
            f"{path} holds weights without the name of their architecture; "
            f"give it with --architecture, one of {', '.join(ARCHITECTURES)}"
        )
    name = _ARCH_NAMES.get(own_name, own_name)
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{path} names the architecture {own_name!r}, which is not here{did_you_mean(own_name, ARCHITECTURES)}: "
            f"there are {', '.join(ARCHITECTURES)}; any other classifier can come from a package.module:factory"
        )
    return name


def _take_apart(tensors: dict[str, Tensor], name: str) -> _Parts:
    """Find the prefix under which most of the architecture's own names occur, and what stands beside it."""
    row = ARCHITECTURES[name]
    with on_meta():
        network = row.build(row.default_shape, 10)
    expected = network.state_dict().keys()
    cleaned = {
        ".".join(part for part in key.split(".") if part not in _WRAPPERS): tensor for key, tensor in tensors.items()
    }
    prefix = max(_PREFIXES, key=lambda p: sum(f"{p}{key}" in cleaned for key in expected))
    found: dict[str, Tensor] = {}
    constants: dict[str, tuple[float, ...]] = {}
    for key, tensor in cleaned.items():
        leaf = key.rpartition(".")[2]
        if key.removeprefix(prefix) not in expected and leaf in _MEANS | _STDS:
            constants["mean" if leaf in _MEANS else "std"] = tuple(tensor.double().flatten().tolist())
        else:
            found[key.removeprefix(prefix)] = tensor
    mean = constants.get("mean")
    return _Parts(found, mean, constants.get("std", None if mean is None else (1.0,) * len(mean)), prefix)


def _usual_shape(row: Architecture, network: dict[str, Tensor]) -> tuple[int, ...]:
    """Return the architecture's usual input shape, with the number of channels that the first convolution has."""
    stem = None if row.stem is None else network.get(row.stem)
    return row.default_shape if stem is None or stem.ndim != 4 else (stem.shape[1], *row.default_shape[1:])


def _normaliser(
    name: str, shape: tuple[int, ...], parts: _Parts, asked: str | None
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, str]:
    """Return (mean, std) or None, and a remark that says where they are from."""
    if asked is not None:
        if asked not in NORMALISATIONS:
            hint = did_you_mean(asked, NORMALISATIONS)
            raise UsageError(
                f"normalisation must be one of {', '.join(NORMALISATIONS)}, got normalisation={asked!r}{hint}"
            )
        return NORMALISATIONS[asked], f"normalisation {asked}"
    if parts.mean is not None and parts.std is not None:
        return (parts.mean, parts.std), "normalised as the file says"
    if parts.prefix == "1." and name in _NORMALISED_AS and shape[0] == 3:
        assumed = _NORMALISED_AS[name]
        return NORMALISATIONS[assumed], f"normalisation {assumed} assumed (the file does not say)"
    return None, "no normalisation"
