"""Deterministic verification and randomized smoothing side by side, by rules that keep the comparison honest."""
