"""Classical denoisers, not trained: the baseline that a trained one has to beat."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.errors import InvalidArgumentError

CLASSICAL = ("non-local-means", "total-variation", "gaussian")
"""The methods, by name."""


@dataclass(frozen=True)
class ClassicalDenoiser:
    """One of scikit-image's denoisers; deterministic, on the CPU, image by image, without gradient.

    - `non-local-means` averages similar patches (h = 0.8 sigma, as its authors advise where sigma is known);
    - `total-variation` minimises the total variation around the image (Chambolle), weight sigma;
    - `gaussian` blurs with a standard deviation of one pixel.

    Args:
        method: One of `CLASSICAL`.

    Raises:
        InvalidArgumentError: If there is no such method.

    Reference: Buades, Coll, Morel 2005; Chambolle 2004; van der Walt et al. 2014 (scikit-image).
    """

    method: str = "non-local-means"

    def __post_init__(self) -> None:
        if self.method not in CLASSICAL:
            raise InvalidArgumentError(f"method must be one of {', '.join(CLASSICAL)}, got method={self.method!r}")

    def __call__(
        self, x: Float[Tensor, "batch channel height width"], sigma: float | int
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the estimate for noise of standard deviation `sigma` per pixel, clipped to [0, 1].

        Raises:
            InvalidArgumentError: If sigma is not positive and finite.
        """
        if not 0 < sigma < float("inf"):
            raise InvalidArgumentError(f"sigma must be positive and finite, got sigma={sigma}")
        images = x.detach().to(device="cpu", dtype=torch.float32).numpy()
        # float32 in, float32 out: in float64 the patch distances take twice as long and change nothing that is seen.
        estimates = [np.asarray(self._denoise(image, float(sigma)), dtype=np.float32) for image in images]
        result = np.clip(np.stack(estimates), 0.0, 1.0) if len(images) else images
        return torch.from_numpy(result).to(device=x.device, dtype=x.dtype)

    def _denoise(self, image: Any, sigma: float) -> Any:
        from skimage import filters, restoration

        # A lone channel must go in as a plain matrix, and channels last: scikit-image 0.26 mistakes an axis of length one,
        # and non-local means gives a leading channel axis back in another place.
        single = len(image) == 1
        options: dict[str, Any] = {"image": image[0], "channel_axis": None}
        if not single:
            options = {"image": np.ascontiguousarray(np.moveaxis(image, 0, -1)), "channel_axis": -1}
        if self.method == "non-local-means":
            result = restoration.denoise_nl_means(
                **options, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True
            )
        elif self.method == "total-variation":
            result = restoration.denoise_tv_chambolle(**options, weight=sigma)
        else:
            result = filters.gaussian(**options, sigma=1.0)
        return result[None] if single else np.moveaxis(result, -1, 0)
