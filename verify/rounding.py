"""Rounding allowances of torch arithmetic: bounds are lowered by what their evaluation may have rounded up.

A sum of n products evaluated in any order differs from the exact one by at most γ_n Σ|terms|, with γ_n = n u / (1 - n u)
and the unit roundoff u (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). Everything here is
that lemma; it holds for float64 and float32 alike as long as sums are sums: reduced-precision products (TF32) are switched
off, but a GPU library may still choose a fast convolution (Winograd) in float32 that the lemma does not cover. What is
certified in the end is what `verify.checker` derives again in float64.
"""

import torch
from torch import Tensor

SPARE = 16
"""Operations beside the sum itself that each allowance covers: the conversion of a parameter, a product, a few sums."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return γ for a sum of `terms` products and a few operations beside it."""
    count = (terms + SPARE) * torch.finfo(dtype).eps / 2
    return count / (1.0 - count)


def below(values: Tensor) -> Tensor:
    """Return the next smaller number of the same precision, elementwise."""
    return torch.nextafter(values, torch.full_like(values, -torch.inf))


def above(values: Tensor) -> Tensor:
    """Return the next larger number of the same precision, elementwise."""
    return torch.nextafter(values, torch.full_like(values, torch.inf))


def cast_below(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `values` in another precision, never above."""
    cast = values.to(dtype)
    return torch.where(cast.to(values.dtype) > values, below(cast), cast)


def cast_above(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `values` in another precision, never below."""
    return -cast_below(-values, dtype)
