"""Failure probabilities down to the smallest float64: radii stay finite, in order, and below the truth."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest

from certify.cli import main
from smoothing import (
    Exp1,
    Exp2,
    ExpInf,
    Expp,
    Gaussian,
    Laplace,
    Norm,
    Pareto,
    Pow2,
    PowInf,
    SmoothingError,
    Uniform,
    UniformBall,
)  # fmt: skip
from smoothing.radius.signs import sign_sum_radius

TINY = [1e-290, 1e-307, 2.3e-308, 1e-308, 1e-309, 1e-310, 1e-312, 1e-318, 5e-324]
DIMENSIONS = [1, 2, 3, 5, 20]
LAWS: dict[str, tuple[type[Any], dict[str, float]]] = {
    "gaussian": (Gaussian, {}),
    "laplace": (Laplace, {}),
    "uniform": (Uniform, {}),
    "uniform_ball": (UniformBall, {}),
    "exp_inf": (ExpInf, {"k": 1.0, "j": 0.0}),
    "exp_inf, k below 1": (ExpInf, {"k": 0.5, "j": 0.0}),
    "exp_inf, k above 1": (ExpInf, {"k": 2.0, "j": 0.0}),
    "exp_one": (Exp1, {"k": 1.0}),
    "exp_one, k below 1": (Exp1, {"k": 0.5}),
    "exp_two": (Exp2, {"k": 1.0, "j": 0.0}),
    "pow_inf": (PowInf, {"a": 25.0}),
    "pow_two": (Pow2, {"k": 2.0, "a": 15.0}),
    "expp": (Expp, {"p": 1.5}),
    "pareto": (Pareto, {"a": 4.0}),
}


def exact(q: float, d: int) -> mpmath.mpf:
    """R(q) of d signs for q at most 2^-d: log(2^-d / q) / d above what all shorter sums contribute."""
    with mpmath.workdps(50):
        whole = mpmath.mpf(0 if d % 2 else 1) / d
        for s in range(2 - d % 2, d, 2):
            whole += mpmath.log(mpmath.mpf(d + s) / (d - s)) / s
        return whole + mpmath.log(mpmath.mpf(2) ** -d / mpmath.mpf(q)) / d


@pytest.mark.parametrize("d", DIMENSIONS)
def test_sums_of_signs_against_extended_precision(d: int) -> None:
    lower, upper = sign_sum_radius(np.array(TINY), d)
    for q, low, high in zip(TINY, lower, upper, strict=True):
        truth = exact(q, d)
        assert low <= truth <= high
        assert low >= truth * (1 - mpmath.mpf(10) ** -12)


@pytest.mark.parametrize("name", LAWS)
def test_radii_are_finite_and_in_order(name: str) -> None:
    law_type, parameters = LAWS[name]
    asked = 0
    slow = name in ("exp_two", "pow_two")
    for d in (3,) if slow else DIMENSIONS:
        law = law_type((d,), sigma=1.0, **parameters)
        for norm in Norm:
            try:
                last, asked = law.radius(1.0, norm, q_upper=1e-200), asked + 1
            except SmoothingError:
                continue  # no certificate of this law's own in this norm
            assert math.isfinite(last)
            for q in TINY[-1:] if slow else TINY:
                radius = law.radius(1.0, norm, q_upper=q)
                assert last * (1 - 1e-9) <= radius < 1e160
                last = radius
                pair = law.radius(0.5, norm, rival_upper=q)
                assert 0.0 <= pair < 1e160
                assert law.radius(q, norm, rival_upper=q) == 0.0
                assert not math.isnan(law.radius(q, norm, rival_upper=0.0))
    assert asked


@pytest.mark.parametrize("rest", ["--q-upper 1e-310", "--p-lower 0.9 --p-upper 1e-310", "--p-lower 5e-324 --p-upper 0"])
def test_the_command_prints_no_infinite_radius(rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([*["radius", "--noise", "laplace", "--sigma", "1", "--norm", "linf", "--shape", "5"], *rest.split()]) == 0
    )
    shown = capsys.readouterr().out
    radius = float(shown.splitlines()[0].split()[1])
    assert not math.isnan(radius)
    assert "--p-upper 0" in rest or 0 < radius < 200
