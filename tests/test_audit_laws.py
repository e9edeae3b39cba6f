"""Every law and norm in the audit: re-derived by arithmetic of its own, or refused by name for a stated reason."""

from dataclasses import replace
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

ESTIMATOR = FixedEstimator(n0=10, n=1000, alpha=0.001)

EXCEPTIONS = {
    ("exp_one", "linf"): "a mixture of one integral per value of a sum of signs: no fast independent form yet",
    **{("exp_two", norm): "level sets: no independent quadrature of the two boundaries yet" for norm in ("l1", "l2")},
    **{("pow_two", norm): "level sets: no independent quadrature of the two boundaries yet" for norm in ("l1", "l2")},
    ("exp_two", "linf"): "as at l2",
    ("pow_two", "linf"): "as at l2",
}
"""What the audit refuses, and why."""

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
    ("exp_one", SMALL, {"k": 1}),
    ("exp_one", SMALL, {"k": 2}),
    ("exp_one", LARGE, {"k": 0.5}),
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
    ("uniform_ball", (1,), {}),
    ("uniform_ball", SMALL, {}),
    ("uniform_ball", LARGE, {}),
]


def spec_of(law: SmoothingDistribution, norm: Norm) -> RunSpec:
    return RunSpec(
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


@pytest.mark.parametrize(("name", "shape", "parameters"), CASES, ids=str)
def test_radii_are_derived_again(name: str, shape: tuple[int, ...], parameters: dict[str, float]) -> None:
    law = make_law(name, shape, sigma=0.5, **parameters)
    checker = CHECKERS["smoothing", "fixed", name]
    assert isinstance(checker, FixedChecker)
    for norm in sorted(law.norms, key=str):
        if (name, str(norm)) in EXCEPTIONS:
            continue
        spec, found = spec_of(law, norm), Findings()
        checker.check_run(spec, found)
        assert list(found.mismatches) == []
        for right in (560, 900, 1000):
            certificate = issue(law, norm, right)
            assert verdicts(checker, spec, certificate) == []
            if certificate["radius"] > 0:
                assert len(verdicts(checker, spec, certificate, 1 + 2e-5)) == 1
                assert len(verdicts(checker, spec, certificate, 1 - 2e-5)) == 1
        wrong = replace(spec, law={**spec.law, "sigma": 0.6})
        checker.check_run(wrong, found)
        assert [mismatch.rule for mismatch in found.mismatches] == ["sigma"]


def test_every_law_and_norm_is_derived_or_excepted() -> None:
    tried = {name for name, _, _ in CASES}
    registered = {(name, str(norm)) for name, law in LAWS.items() for norm in law.norms}
    derived = set()
    for (_, _, name), checker in CHECKERS.items():
        if isinstance(checker, ShapedChecker):
            derived |= {(name, norm) for norm in checker.family.radii}
        elif isinstance(checker, FixedChecker):
            derived |= {(name, norm) for norm in checker.law.radii}
    assert {name for name, _ in derived} <= tried
    assert derived | set(EXCEPTIONS) == registered
    assert not derived & set(EXCEPTIONS)


def test_a_law_without_a_checker_is_refused_by_name() -> None:
    for name in sorted({name for name, _ in EXCEPTIONS} - {name for _, _, name in CHECKERS}):
        spec = spec_of(make_law("gaussian", SMALL, sigma=0.5), Norm.L2)
        with pytest.raises(AuditError, match=f"nothing can audit .* law '{name}'"):
            find_checker(replace(spec, law={**spec.law, "name": name}))


def test_excepted_norms_and_parameters_are_refused() -> None:
    refused = [("exp_one", {"k": 2}, Norm.LINF), ("exp_inf", {"k": 2, "j": 1}, Norm.LINF)]
    for name, parameters, norm in refused:
        checker = CHECKERS["smoothing", "fixed", name]
        with pytest.raises(AuditError, match=f"derives no radius for {name} noise in norm 'linf'"):
            checker.check_run(spec_of(make_law(name, SMALL, sigma=0.5, **parameters), norm), Findings())


def test_an_infinite_sigma_is_recorded_as_null() -> None:
    law = make_law("pareto", SMALL, scale=1.0, a=1.5)
    spec, found = spec_of(law, Norm.L1), Findings()
    checker = CHECKERS["smoothing", "fixed", "pareto"]
    checker.check_run(spec, found)
    assert list(found.mismatches) == []
    checker.check_run(replace(spec, law={**spec.law, "sigma": 1.0}), found)
    assert [mismatch.rule for mismatch in found.mismatches] == ["sigma"]
