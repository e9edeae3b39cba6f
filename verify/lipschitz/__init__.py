"""The Lipschitz route: one global constant, then a radius for every input from its margin alone.

On plain networks it is weaker than local bounds (a global constant knows nothing of the input); on 1-Lipschitz networks it
is the right tool, and costs nothing per input. Dense networks only for LipSDP: see `verify.lipschitz.lipsdp.SIZE_LIMITS`.
"""

from verify.lipschitz.lipsdp import SLOPES, LipschitzBound, lipsdp, prove_lipschitz
from verify.lipschitz.margins import margin_radius, pairwise_constants, pairwise_radius
from verify.lipschitz.spectral import spectral_product

__all__ = [
    "SLOPES",
    "LipschitzBound",
    "lipsdp",
    "margin_radius",
    "pairwise_constants",
    "pairwise_radius",
    "prove_lipschitz",
    "spectral_product",
]
