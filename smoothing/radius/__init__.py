"""Radii beyond a single law's formula: the general methods, and what no additive noise can certify."""
