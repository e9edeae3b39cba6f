"""Pictures of what a denoiser does: clean, noisy and denoised side by side, with the library's PSNR and SSIM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from certify.datasets import load_dataset
from certify.denoising.wrap import find_denoiser
from certify.errors import UsageError
from smoothing.distributions.table import make_law


@dataclass(frozen=True)
class Shown:
    """One image.

    Attributes:
        index: Input of the data set.
        psnr_noisy: Peak signal-to-noise ratio of the noisy image, dB.
        psnr: Of the denoised one.
        ssim_noisy: Structural similarity of the noisy image to the clean one.
        ssim: Of the denoised one.
    """

    index: int
    psnr_noisy: float
    psnr: float
    ssim_noisy: float
    ssim: float


def show_denoiser(
    spec: str,
    data: str,
    path: Path,
    *,
    data_root: Path | None = None,
    sigma: float | None = None,
    indices: Sequence[int] = (),
    count: int = 8,
    seed: int = 0,
) -> list[Shown]:
    """Draw the strips into a picture file and return the figures.

    Args:
        spec: Trained denoiser, or "classical:NAME".
        data: Data set; its test part is shown.
        path: Picture to write; the ending says which format.
        data_root: Folder of the data sets.
        sigma: Noise level; default: the one that the denoiser was trained for.
        indices: Inputs to show; default: `count` evenly spaced ones.
        count: Number of inputs where none are named.
        seed: Seed of the noise.

    Raises:
        UsageError: If an option is out of range, or no noise level is known.
        ModelError: If the denoiser cannot be used.
        DatasetError: If the data cannot be loaded.
    """
    images = load_dataset(data, root=data_root)
    shape = images.require_shape()
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"only images of 1 or 3 channels can be shown, but {data} has inputs {shape}")
    if count < 1:
        raise UsageError(f"the number of images must be at least 1, got {count}")
    chosen = list(indices) or list(range(0, len(images), max(1, len(images) // count)))[:count]
    denoiser, told, _, noise = find_denoiser(spec, sigma, shape[0])
    level = told if sigma is None else sigma
    name, parameters = (
        ("gaussian", {"sigma": level}) if noise is None or sigma is not None else (noise.name, noise.parameters)
    )
    law = make_law(name, shape, **parameters)
    clean = images.inputs(chosen)
    noisy = clean + law.sample(len(clean), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        denoised = denoiser(noisy, told)
    shown = [
        Shown(index, *_figures(x, y, z)) for index, x, y, z in zip(chosen, clean, noisy, denoised.float(), strict=True)
    ]
    _draw(path, clean, noisy, denoised, shown, f"{data}, {name} noise, sigma {level:g}; {spec}")
    return shown


def _figures(
    clean: Float[Tensor, "channel height width"],
    noisy: Float[Tensor, "channel height width"],
    denoised: Float[Tensor, "channel height width"],
) -> tuple[float, float, float, float]:
    """PSNR and SSIM as the literature reports them: on images clipped to [0, 1]."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    reference = clean.numpy()
    side = min(7, *reference.shape[1:])
    window = side if side % 2 else side - 1
    found = []
    for other in (noisy.clamp(0, 1).numpy(), denoised.clamp(0, 1).numpy()):
        psnr = float(peak_signal_noise_ratio(reference, other, data_range=1.0))
        ssim = structural_similarity(reference, other, data_range=1.0, channel_axis=0, win_size=window)
        found.append((psnr, float(ssim)))
    (psnr_noisy, ssim_noisy), (psnr, ssim) = found
    return psnr_noisy, psnr, ssim_noisy, ssim


def _draw(path: Path, clean: Tensor, noisy: Tensor, denoised: Tensor, shown: Sequence[Shown], title: str) -> None:
    from matplotlib.figure import Figure

    from certify.errors import CertifyError

    figure = Figure(figsize=(1.3 * len(shown) + 0.6, 4.6), layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    for row, (name, images) in enumerate((("clean", clean), ("noisy", noisy), ("denoised", denoised))):
        for column, image in enumerate(images):
            axis = axes[row][column]
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0.0, vmax=1.0)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(name)
            if row:
                figures = shown[column]
                psnr, ssim = (figures.psnr_noisy, figures.ssim_noisy) if row == 1 else (figures.psnr, figures.ssim)
                axis.set_xlabel(f"{psnr:.1f} dB, {ssim:.2f}", fontsize=7)
            else:
                axis.set_title(str(shown[column].index), fontsize=8)
    figure.suptitle(title, fontsize=9)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise CertifyError(f"cannot write the picture {path}: {error}") from None
