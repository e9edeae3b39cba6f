"""Every law and norm in the audit: re-derived by arithmetic of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.audit import CHECKERS
from certify.audit.findings import AuditError, Findings
from certify.audit.fixed import FixedChecker
from certify.audit.shaped import ShapedChecker
from certify.audit.spec import RunSpec
from certify.audit.table import find_checker
from smoothing import Norm, SmoothingDistribution
from smoothing.certificate import issue_certificate
from smoothing.distributions.table import LAWS, make_law
from smoothing.estimators import FixedEstimator, Phase
from smoothing.noise import NOISE_VERSION
from smoothing.rounding import complement_down

ESTIMATOR = FixedEstimator(n0=10, n=1000, alpha=0.001)

LOOSE = {"exp_two", "pow_two"}
"""Laws with radii from level sets, which the run's tables hold to a few parts in a thousand, and the audit too."""

TAMPERED = 2e-5
"""Relative change of a radius that has to be found, in either direction."""

LOOSELY_TAMPERED = (0.02, 0.1)
"""The same, up and down, for `LOOSE` laws."""

SMALL, LARGE = (1, 2, 2), (1, 28, 28)

CASES: list[tuple[str, tuple[int, ...], dict[str, float]]] = [
    ("gaussian", LARGE, {}),
    ("laplace", SMALL, {}),
    ("laplace", (3,), {}),
    ("laplace", LARGE, {}),
    ("uniform", (1,), {}),
    ("uniform", LARGE, {}),
    ("exp_inf", SMALL, {"k": 1}),
    ("exp_inf", SMALL, {"k": 0.5}),
    ("exp_inf", SMALL, {"k": 3}),
    ("exp_inf", SMALL, {"k": 0.7, "j": 1.5}),
    ("exp_inf", SMALL, {"k": 1, "j": 3}),
    ("exp_inf", (1,), {"k": 2}),
    ("exp_inf", LARGE, {"k": 2}),
    ("exp_inf", LARGE, {"k": 0.5}),
    ("exp_inf", LARGE, {"k": 1, "j": 500}),
    ("exp_inf", SMALL, {"k": 2, "j": 1}),
    ("exp_inf", LARGE, {"k": 1.5, "j": 700}),
    ("exp_one", SMALL, {"k": 1}),
    ("exp_one", SMALL, {"k": 2}),
    ("exp_one", LARGE, {"k": 0.5}),
    ("exp_one", (3,), {"k": 0.2}),
    ("exp_one", (1,), {"k": 3}),
    ("exp_two", SMALL, {"k": 2}),
    ("exp_two", (1,), {"k": 3}),
    ("exp_two", LARGE, {"k": 1}),
    ("exp_p", SMALL, {"p": 0.2}),
    ("exp_p", SMALL, {"p": 1}),
    ("exp_p", LARGE, {"p": 4}),
    ("pareto", SMALL, {"a": 3}),
    ("pareto", LARGE, {"a": 100}),
    ("pow_inf", (1,), {"a": 4}),
    ("pow_inf", SMALL, {"a": 7.5}),
    ("pow_inf", LARGE, {"a": 787}),
    ("pow_inf", LARGE, {"a": 1000}),
    ("pow_inf", LARGE, {"a": 1e9}),
    ("pow_two", LARGE, {"k": 2, "a": 1000}),
    ("uniform_ball", (1,), {}),
    ("uniform_ball", SMALL, {}),
    ("uniform_ball", LARGE, {}),
]


def spec_of(law: SmoothingDistribution, norm: Norm) -> RunSpec:
    return RunSpec(
        folder=Path(),
        noise={},
        slack=0.0,
        kind="smoothing",
        estimator=ESTIMATOR.describe(),
        law=law.describe(),
        norm=str(norm),
        convert_from=None,
        num_classes=2,
        alpha=ESTIMATOR.alpha,
        seed=7,
        noise_version=NOISE_VERSION,
        precision="fp32",
        planned=(0,),
        data_size=1,
    )


def issue(law: SmoothingDistribution, norm: Norm, right: int) -> dict[str, Any]:
    state = ESTIMATOR.start()
    state.update(Phase.SELECT, np.array([10, 0, 0], dtype=np.int64))
    state.update(Phase.ESTIMATE, np.array([right, 1000 - right, 0], dtype=np.int64))
    return issue_certificate(state.result(), law, norm, index=0, seed=7, noise_version=NOISE_VERSION).to_dict()


def verdicts(checker: FixedChecker, spec: RunSpec, certificate: dict[str, Any], factor: float = 1.0) -> list[Any]:
    found = Findings()
    checker._check_radius(0, certificate["radius"] * factor, certificate["q_upper"], spec, found)
    return list(found.mismatches)


def tampered(name: str) -> tuple[float, float]:
    """Factors that turn a radius of the law into one that has to be found."""
    up, down = LOOSELY_TAMPERED if name in LOOSE else (TAMPERED, TAMPERED)
    return 1 + up, 1 - down


@pytest.mark.parametrize(("name", "shape", "parameters"), CASES, ids=str)
def test_radii_are_derived_again(name: str, shape: tuple[int, ...], parameters: dict[str, float]) -> None:
    law = make_law(name, shape, sigma=0.5, **parameters)
    checker = CHECKERS["smoothing", "fixed", name]
    assert isinstance(checker, FixedChecker)
    for norm in sorted(law.norms, key=str):
        spec, found = spec_of(law, norm), Findings()
        checker.check_run(spec, found)
        assert list(found.mismatches) == []
        for right in (560, 900, 1000):
            certificate = issue(law, norm, right)
            assert verdicts(checker, spec, certificate) == []
            if certificate["radius"] > 0:
                for factor in tampered(name):
                    assert len(verdicts(checker, spec, certificate, factor)) == 1
        wrong = replace(spec, law={**spec.law, "sigma": 0.6})
        checker.check_run(wrong, found)
        assert [mismatch.rule for mismatch in found.mismatches] == ["sigma"]


PAIRS = ((0.1, 0.05), (0.1, 1e-6), (0.4, 0.399), (0.6, 0.05), (0.55, 0.4), (0.5, 0.2), (0.7, 0.35))
"""(q_upper, rival_upper), also with p_A below 1/2."""


@pytest.mark.parametrize(("name", "shape", "parameters"), CASES, ids=str)
def test_radii_for_two_classes_are_derived_again(
    name: str, shape: tuple[int, ...], parameters: dict[str, float]
) -> None:
    law = make_law(name, shape, sigma=0.5, **parameters)
    checker = CHECKERS["smoothing", "fixed", name]
    assert isinstance(checker, FixedChecker)
    for norm in sorted(law.norms, key=str):
        spec = spec_of(law, norm)
        for q, rival in PAIRS:
            radius = law.radius(complement_down(q), norm, q_upper=q, rival_upper=rival)
            larger, smaller = tampered(name)
            if isinstance(checker, ShapedChecker) and checker._settled(spec)[0].law.pairs and radius > 0:
                # More than is recorded can be proved: what cannot be is found from the bound of explicit sets on.
                most = float(checker.bounds(q, spec, rival).most)
                assert radius < most < 1.06 * radius, (norm, q, rival)
                larger = 1.001 * most / radius
                # The least that is asked for is what level sets give for both classes together.
                smaller *= float(law.radius(0.5 * (1 - q + 1 - rival), norm)) / radius
            for factor in (1.0, larger, smaller):
                found, faults = Findings(), int(radius > 0 and factor != 1.0)
                checker._check_radius(0, radius * factor, q, spec, found, rival_upper=rival)
                assert len(found.mismatches) == faults, (norm, q, rival, factor, found.mismatches)


def test_every_law_and_norm_is_derived_and_tried() -> None:
    registered = {(name, str(norm)) for name, law in LAWS.items() for norm in law.norms}
    derived = set()
    for (_, _, name), checker in CHECKERS.items():
        if isinstance(checker, ShapedChecker):
            derived |= {(name, norm) for norm in checker.family.radii}
        elif isinstance(checker, FixedChecker):
            derived |= {(name, norm) for norm in checker.law.radii}
    assert derived == registered
    assert {name for name, _ in derived} == {name for name, _, _ in CASES}


def test_a_law_without_a_checker_is_refused_by_name() -> None:
    spec = spec_of(make_law("gaussian", SMALL, sigma=0.5), Norm.L2)
    with pytest.raises(AuditError, match=r"nothing can audit .* law 'gumbel'"):
        find_checker(replace(spec, law={**spec.law, "name": "gumbel"}))


def test_an_infinite_sigma_is_recorded_as_null() -> None:
    law = make_law("pareto", SMALL, scale=1.0, a=1.5)
    spec, found = spec_of(law, Norm.L1), Findings()
    checker = CHECKERS["smoothing", "fixed", "pareto"]
    checker.check_run(spec, found)
    assert list(found.mismatches) == []
    checker.check_run(replace(spec, law={**spec.law, "sigma": 1.0}), found)
    assert [mismatch.rule for mismatch in found.mismatches] == ["sigma"]
