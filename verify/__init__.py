"""Deterministic verification by convex relaxation (Salman et al. 2019, "A Convex Relaxation Barrier").

This floor imports `smoothing` only (`Norm`, `ThreatModel`, rounding, attacks), and knows nothing of noise.
"""
