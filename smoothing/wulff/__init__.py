"""The Wulff crystal of a norm: the shape of noise that moves least probability at p = 1/2 (Yang et al. 2020)."""

from smoothing.wulff.bound import level_set_bound, radial_bound, uniform_bound
from smoothing.wulff.crystal import BallCrystal, CubeCrystal, SignCrystal, WulffCrystal, ZonotopeCrystal, wulff_crystal
from smoothing.wulff.polytope import unit_ball_vertices
from smoothing.wulff.zonotope import Zonotope

__all__ = [
    "BallCrystal",
    "CubeCrystal",
    "SignCrystal",
    "WulffCrystal",
    "Zonotope",
    "ZonotopeCrystal",
    "level_set_bound",
    "radial_bound",
    "uniform_bound",
    "unit_ball_vertices",
    "wulff_crystal",
]
