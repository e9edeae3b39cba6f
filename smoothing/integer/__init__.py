"""Integer noise for inputs on a grid: sound down to the last bit, and the same on every device."""

from smoothing.integer.grid import grid_levels, on_grid, snap
from smoothing.integer.source import NOISE_VERSION, PhiloxIntNoise
from smoothing.integer.tails import integer_laws, supports_integer_noise
from smoothing.integer.thresholds import IntegerLaw, integer_law

__all__ = [
    "NOISE_VERSION",
    "IntegerLaw",
    "PhiloxIntNoise",
    "grid_levels",
    "integer_law",
    "integer_laws",
    "on_grid",
    "snap",
    "supports_integer_noise",
]
