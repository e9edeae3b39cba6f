"""MODEL on the command line -> a loaded model: one function that tells the forms apart."""

import re
from pathlib import Path

from certify.errors import ModelError, UsageError
from certify.models.architectures import ARCHITECTURES
from certify.models.base import LoadedModel, did_you_mean
from certify.models.checkpoint import load_native
from certify.models.checkpoint_config import CONFIG, WEIGHTS
from certify.models.factory import load_factory
from certify.models.from_huggingface import load_huggingface
from certify.models.from_onnx import load_onnx
from certify.models.from_timm import load_timm
from certify.models.from_torchvision import load_torchvision
from certify.models.published import load_published

MODEL_FORMS: dict[str, str] = {
    "FOLDER": f"a checkpoint of `certify train` ({WEIGHTS} + {CONFIG}), or either of the two files",
    "FILE.pth.tar": "a checkpoint of the published codes; with --architecture, a state dict (torch.save, safetensors)",
    "package.module:factory": "a function of yours that returns the classifier",
    "torchvision:NAME": "a pretrained classifier of torchvision",
    "timm:NAME": "a pretrained classifier of timm",
    "hf:NAME": "an image classifier of transformers, by its name on the hub or its folder",
    "onnx:FILE": "an ONNX graph",
}
"""The texts that name a model, each with what it means."""

_PREFIXES = ("torchvision", "timm", "hf", "onnx")
_SUFFIXES = (".safetensors", ".json", ".tar", ".pt", ".pth", ".bin", ".ckpt", ".onnx")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_model(
    spec: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    architecture: str | None = None,
    normalisation: str | None = None,
    trust_pickle: bool = False,
) -> LoadedModel:
    """Load a base classifier on the CPU, in eval mode.

    Args:
        spec: MODEL; one of `MODEL_FORMS`.
        num_classes: Number of classes, for a model that does not say; at least 2.
        input_shape: Shape in which inputs will come, used where the model itself does not say.
        architecture: A key of `ARCHITECTURES`, for weights that do not name theirs.
        normalisation: A key of `NORMALISATIONS`, for weights that come without; see `load_published`.
        trust_pickle: Unpickle files without restrictions, which runs whatever code they contain.

    Returns:
        The classifier, and what is known about it.

    Raises:
        UsageError: If the text is none of the forms, or names what does not exist (an architecture, a Python module);
            if `num_classes` is below 2, or not the number that the model itself states.
        ModelError: If a file or a folder is missing, damaged or refused, a library is missing, weights cannot be
            fetched, or the model has fewer than two classes.
    """
    if num_classes is not None and num_classes < 2:
        raise UsageError(f"num_classes must be at least 2, got num_classes={num_classes}")
    model = _load(
        spec,
        num_classes=num_classes,
        input_shape=input_shape,
        architecture=architecture,
        normalisation=normalisation,
        trust_pickle=trust_pickle,
    )
    if num_classes is not None and model.num_classes is not None and model.num_classes != num_classes:
        raise UsageError(
            f"num_classes must be what the model itself states, {model.num_classes} for {spec}, "
            f"got num_classes={num_classes}; leave --num-classes out"
        )
    if model.num_classes is not None and model.num_classes < 2:
        raise ModelError(f"a classifier must have at least 2 classes, but {spec} has {model.num_classes}")
    return model


def _load(
    spec: str,
    *,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
    architecture: str | None,
    normalisation: str | None,
    trust_pickle: bool,
) -> LoadedModel:
    prefix, _, rest = spec.partition(":")
    path = Path(spec).expanduser()
    if prefix in _PREFIXES and not rest:
        raise UsageError(f"{prefix}: must be followed by a name, got MODEL {spec!r}\n{_forms()}")
    if prefix == "torchvision":
        return load_torchvision(spec, rest)
    if prefix == "timm":
        return load_timm(spec, rest)
    if prefix == "hf":
        return load_huggingface(spec, rest)
    if prefix == "onnx":
        return load_onnx(spec, Path(rest).expanduser(), num_classes=num_classes, input_shape=input_shape)
    if not spec.strip():
        raise UsageError(_unknown(spec))
    if path.is_dir() or (path.is_file() and _is_native(path)):
        return load_native(spec, path)
    if path.suffix == ".onnx" and path.is_file():
        return load_onnx(spec, path, num_classes=num_classes, input_shape=input_shape)
    if path.is_file():
        if path.suffix == ".safetensors" and architecture is None:
            raise UsageError(
                f"{path} has no {CONFIG} beside it that says what it is; "
                f"give its architecture with --architecture, one of {', '.join(ARCHITECTURES)}"
            )
        return load_published(
            spec,
            path,
            architecture=architecture,
            num_classes=num_classes,
            input_shape=input_shape,
            normalisation=normalisation,
            trust_pickle=trust_pickle,
        )
    if _FACTORY.fullmatch(spec):
        return _factory(spec, prefix, num_classes, input_shape)
    if prefix in ("http", "https"):
        raise UsageError(
            f"a model must be on this machine or in a library that fetches it, got the address {spec}; a prediction service "
            f"is asked for labels alone, by certify plan and certify run\n{_forms()}"
        )
    if "/" in spec or "\\" in spec or spec.startswith(("~", ".")) or path.suffix in _SUFFIXES:
        raise ModelError(f"{path} does not exist: no checkpoint folder or file is there (current folder: {Path.cwd()})")
    raise UsageError(_unknown(spec))


def _is_native(path: Path) -> bool:
    return path.name == CONFIG or (path.name == WEIGHTS and (path.parent / CONFIG).exists())


def _factory(spec: str, prefix: str, num_classes: int | None, input_shape: tuple[int, ...] | None) -> LoadedModel:
    try:
        return load_factory(spec, num_classes=num_classes, input_shape=input_shape)
    except UsageError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == prefix.partition(".")[0]:
            raise UsageError(f"{error}{did_you_mean(prefix, _PREFIXES)}\n{_forms()}") from error.__cause__
        raise


def _unknown(spec: str) -> str:
    hint = did_you_mean(spec, [*ARCHITECTURES, *_PREFIXES])
    if spec in ARCHITECTURES:
        hint = f": {spec} is an architecture without weights; train it first (certify train --arch {spec})"
    return f"MODEL must be one of the forms below, got {spec!r}{hint}\n{_forms()}"


def _forms() -> str:
    width = max(map(len, MODEL_FORMS))
    return "\n".join(["MODEL is one of:", *(f"  {form:<{width}}  {meaning}" for form, meaning in MODEL_FORMS.items())])
