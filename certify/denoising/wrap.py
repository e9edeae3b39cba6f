"""Puts a denoiser before a loaded classifier: the pair is the base classifier of a run."""

from dataclasses import replace
from pathlib import Path

from certify.denoising.checkpoint import describe_denoiser, load_denoiser
from certify.errors import ModelError, UsageError
from certify.models.base import LoadedModel, NoiseSpec
from certify.models.digest import callable_digest, text_digest
from denoisers import CLASSICAL, ClassicalDenoiser, DenoisedClassifier
from denoisers.base import Denoiser

CLASSICAL_PREFIX = "classical:"


def find_denoiser(spec: str, sigma: float | None, channels: int) -> tuple[Denoiser, float, str, NoiseSpec | None]:
    """Return the denoiser that a text names.

    Args:
        spec: Folder or file of a trained denoiser, or "classical:NAME".
        sigma: Noise level of the run; a classical denoiser is told this, a trained one the level it was trained for.
        channels: Channels of the images.

    Returns:
        Denoiser, noise level that it is told, digest, and the noise that it was trained for.

    Raises:
        UsageError: If the text names nothing that is known, or sigma is needed and absent.
        ModelError: If the file cannot be used, or is for images of other channels.
    """
    if spec.startswith(CLASSICAL_PREFIX):
        name = spec.removeprefix(CLASSICAL_PREFIX)
        if name not in CLASSICAL:
            raise UsageError(f"a classical denoiser is one of {', '.join(CLASSICAL)}, got {spec!r}")
        if sigma is None:
            raise UsageError(f"{spec} must be told the noise level: give the law by --sigma")
        classical = ClassicalDenoiser(name)
        return classical, sigma, callable_digest(classical), None
    path = Path(spec).expanduser()
    if not path.exists():
        raise UsageError(
            f"denoiser must be the folder of a trained denoiser or {CLASSICAL_PREFIX}NAME; {spec!r} does not exist"
        )
    network, config, digest = load_denoiser(path)
    if config.channels != channels:
        raise ModelError(f"{spec} denoises images of {config.channels} channels, but the data have {channels}")
    if not isinstance(network, Denoiser):
        raise ModelError(f"{spec} is no denoiser")
    return network, config.sigma, digest, NoiseSpec(config.noise, dict(config.parameters))


def _named(spec: str) -> str:
    what = describe_denoiser(spec)
    return spec if what == spec else f"{spec}, {what}"


def with_denoiser(model: LoadedModel, spec: str, *, sigma: float | None, input_shape: tuple[int, ...]) -> LoadedModel:
    """Return the classifier behind a denoiser, as one base classifier.

    Args:
        model: Any classifier of images.
        spec: See `find_denoiser`.
        sigma: Noise level of the run, where given.
        input_shape: Shape of one input, (channels, height, width).

    Raises:
        UsageError: If the inputs are no images, or the text names no denoiser.
        ModelError: If the denoiser cannot be used.
    """
    if len(input_shape) != 3:
        raise UsageError(f"denoisers take images (channels, height, width), but the inputs have shape {input_shape}")
    denoiser, told, digest, noise = find_denoiser(spec, sigma, input_shape[0])
    pair = DenoisedClassifier(denoiser, model.classifier, told).eval()
    return replace(
        model,
        classifier=pair,
        # The pair was made for the denoiser's noise, whatever the classifier was trained with.
        noise=noise if noise is not None else model.noise,
        digest=text_digest("denoised", digest, told.hex(), model.digest),
        description=f"{model.description}, behind the denoiser {_named(spec)} (sigma {told:g})",
    )
