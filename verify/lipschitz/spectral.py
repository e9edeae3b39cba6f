"""The baseline: a network of 1-Lipschitz activations is at most as steep as the product of its layers' spectral norms."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from verify.lipschitz.semidefinite import spectral_norm_bound


def spectral_product(weights: Sequence[Float[ndarray, "_ _"]]) -> float:
    """Return the product of the spectral norms of the layers, each bounded from above and the product rounded up.

    Args:
        weights: W_1, ..., W_K, each [outputs, inputs].

    Reference: Szegedy et al. 2014, "Intriguing properties of neural networks", section 4.3.

    Example:
        >>> 6.0 <= spectral_product([2 * np.eye(3), 3 * np.eye(3)]) < 6.000001
        True
    """
    product = 1.0
    for weight in weights:
        product = float(np.nextafter(product * spectral_norm_bound(np.asarray(weight, dtype=np.float64)), np.inf))
    return product
