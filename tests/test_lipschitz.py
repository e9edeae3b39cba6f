"""The Lipschitz route: proofs of semidefiniteness, LipSDP after its repair, radii from margins."""

import importlib
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothing.errors import InvalidArgumentError
from verify.lipschitz import (
    lipsdp,
    margin_radius,
    pairwise_constants,
    pairwise_radius,
    prove_lipschitz,
    spectral_product,
)
from verify.lipschitz.semidefinite import largest_eigenvalue_bound, proves_positive_semidefinite, spectral_norm_bound


def dense(sizes, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes)]


def steepest(weights, seed, samples=2000, slopes=(0.0, 1.0)):
    """Largest Jacobian norm over random activation patterns that really occur (no biases: random points)."""
    rng = np.random.default_rng(seed)
    best = 0.0
    for x in rng.standard_normal((samples, weights[0].shape[1])):
        jacobian = weights[0]
        value = weights[0] @ x
        for weight in weights[1:]:
            slope = np.where(value > 0, slopes[1], slopes[0])
            jacobian, value = weight @ (slope[:, None] * jacobian), weight @ (slope * value)
        best = max(best, np.linalg.norm(jacobian, 2))
    return best


class TestSemidefinite:
    def test_says_yes_and_no_around_zero(self):
        rng = np.random.default_rng(0)
        basis, _ = np.linalg.qr(rng.standard_normal((30, 30)))
        for smallest, expected in [(1e-11, True), (-1e-13, False), (-1e-3, False)]:
            values = np.concatenate([[smallest], np.linspace(0.1, 1.0, 29)])
            matrix = (basis * values) @ basis.T
            assert proves_positive_semidefinite((matrix + matrix.T) / 2) is expected

    def test_an_exactly_indefinite_matrix_whose_float_eigenvalue_is_zero_is_not_proved(self):
        # Exact determinant -1e-32 or so: no float64 eigenvalue solver sees it.
        matrix = np.array([[1.0, 1.0], [1.0, 1.0 - 2.0**-53]])
        assert not proves_positive_semidefinite(matrix)

    def test_the_stated_error_is_added(self):
        assert proves_positive_semidefinite(0.1 * np.eye(3), error=0.09)
        assert not proves_positive_semidefinite(0.1 * np.eye(3), error=0.11)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nothing_is_proved_from_what_is_not_finite(self, bad):
        assert not proves_positive_semidefinite(np.array([[bad, 0.0], [0.0, 1.0]]))
        assert not proves_positive_semidefinite(np.eye(2), error=bad)
        assert largest_eigenvalue_bound(np.array([[bad]])) == np.inf

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31), st.floats(-8, 8))
    def test_spectral_norm_is_bounded_in_exact_arithmetic(self, rows, columns, seed, scale):
        import mpmath

        matrix = np.random.default_rng(seed).standard_normal((rows, columns)) * 10.0**scale
        bound = spectral_norm_bound(matrix)
        with mpmath.workdps(40):
            exact = max(mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False))
        assert exact <= bound <= float(exact) * (1 + 1e-6)


class TestLipSDP:
    @pytest.mark.parametrize("solver", ["SCS", "CLARABEL"])
    @pytest.mark.parametrize("sizes", [(4, 6, 3), (12, 6, 5, 3), (3, 5, 4, 4, 2)])
    def test_lies_between_sampled_jacobians_and_the_spectral_product(self, solver, sizes):
        weights = dense(sizes, 1)
        bound = lipsdp(weights, solver=solver)
        assert steepest(weights, 2) <= bound.value <= spectral_product(weights)
        assert bound.method == "lipsdp"
        assert bound.value < 0.98 * spectral_product(weights)

    def test_solvers_agree_after_the_repair(self):
        weights = dense((8, 6, 6, 3), 3)
        first, second = (lipsdp(weights, solver=solver).value for solver in ("SCS", "CLARABEL"))
        assert first == pytest.approx(second, rel=2e-3)

    def test_the_raw_value_of_a_loose_solve_is_no_bound_but_the_repaired_one_is(self):
        weights = dense((10, 12, 12, 4), 5)
        exact = lipsdp(weights, solver="CLARABEL")
        loose = lipsdp(weights, solver="SCS", solver_options={"eps": 3e-2})
        assert loose.solver_value < exact.value * (1 - 1e-4)  # what SCS claims is too small ...
        assert loose.value >= exact.value * (1 - 1e-6)  # ... and what is reported is not
        assert loose.value >= steepest(weights, 6)

    def test_any_multipliers_give_a_bound_or_none(self):
        weights = dense((5, 7, 4, 3), 7)
        attained = steepest(weights, 8)
        rng = np.random.default_rng(9)
        proved = [prove_lipschitz(weights, rng.uniform(0, 3, 11)) for _ in range(200)]
        assert all(value >= attained for value in proved)
        assert np.isinf(prove_lipschitz(weights, np.zeros(11)))
        assert np.isinf(prove_lipschitz(weights, np.full(11, np.nan)))
        # A negative multiplier is not a multiplier: it is clipped, and must not help.
        assert prove_lipschitz(weights, -np.ones(11)) == np.inf

    def test_leaky_slopes(self):
        weights = dense((6, 5, 5, 3), 11)
        slopes = (0.2, 1.0)
        bound = lipsdp(weights, solver="CLARABEL", slopes=slopes)
        assert steepest(weights, 12, slopes=slopes) <= bound.value < spectral_product(weights)
        # A narrower range of slopes cannot be worse.
        assert bound.value <= lipsdp(weights, solver="CLARABEL").value * (1 + 1e-5)

    def test_more_inputs_than_hidden_units_give_the_same_bound_as_without_the_reduction(self):
        weights = dense((4, 4, 3), 13)
        basis = np.linalg.qr(np.random.default_rng(14).standard_normal((30, 4)))[0]
        wide = [weights[0] @ basis.T, weights[1]]
        assert lipsdp(wide, solver="CLARABEL").value == pytest.approx(
            lipsdp(weights, solver="CLARABEL").value, rel=1e-5
        )

    def test_orthogonal_layers_are_one_lipschitz(self):
        rng = np.random.default_rng(15)
        weights = [np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(3)]
        assert 1.0 <= lipsdp(weights, solver="CLARABEL").value < 1 + 1e-6

    def test_units_that_do_not_matter_cost_nothing(self, monkeypatch):
        """Their multipliers may be exactly zero, from which nothing can be proved: a hair is added, and the rest stands."""
        weights = dense((6, 5, 5, 3), 19)
        idle = [weights[0], np.vstack([weights[1], weights[1][:2]]), np.hstack([weights[2], np.zeros((3, 2))])]
        without = lipsdp(weights, solver="CLARABEL")
        proposed = np.r_[without.multipliers, 0.0, 0.0]
        assert np.isinf(prove_lipschitz(idle, proposed))
        module = importlib.import_module("verify.lipschitz.lipsdp")  # the package's attribute is the function
        monkeypatch.setattr(module, "_propose", lambda *_: (proposed, 1.0, ""))
        bound = lipsdp(idle, solver="CLARABEL")
        assert bound.method == "lipsdp"
        assert bound.value == pytest.approx(without.value, rel=1e-3)

    def test_a_failing_solver_falls_back_and_says_so(self):
        weights = dense((4, 5, 3), 17)
        for options in ({"solver": "SCS", "solver_options": {"max_iters": 1}}, {"solver": "NO_SUCH_SOLVER"}):
            bound = lipsdp(weights, **options)
            assert bound.value >= steepest(weights, 18)
            if bound.method == "spectral-product":
                assert options["solver"] in bound.note
        assert lipsdp(weights, solver="NO_SUCH_SOLVER").method == "spectral-product"

    def test_one_layer_and_a_zero_layer(self):
        assert lipsdp([np.diag([3.0, 4.0])], solver="SCS").value == pytest.approx(4.0)
        assert lipsdp([np.zeros((2, 2)), np.eye(2)], solver="SCS").value < 1e-100

    def test_refuses_what_is_no_network(self):
        for weights in ([], [np.ones((2, 3)), np.ones((2, 3))], [np.array([[np.nan]])]):
            with pytest.raises(InvalidArgumentError):
                lipsdp(weights, solver="SCS")
        with pytest.raises(InvalidArgumentError, match="slopes"):
            lipsdp([np.eye(2), np.eye(2)], solver="SCS", slopes=(1.0, 0.5))


class TestRadii:
    def test_predictions_do_not_change_inside(self):
        weights = dense((3, 8, 4), 20)
        bound = lipsdp(weights, solver="CLARABEL").value
        rng = np.random.default_rng(21)
        x = 3 * rng.standard_normal((40, 3))

        def network(points):
            return np.maximum(points @ weights[0].T, 0) @ weights[1].T

        radii = margin_radius(network(x), bound)
        assert (radii > 0).mean() > 0.9
        pairs = pairwise_radius(network(x), pairwise_constants(weights, solver="CLARABEL"))
        assert (pairs >= radii * (1 - 1e-4)).all()
        assert pairs.mean() > 1.02 * radii.mean()
        for point, radius in zip(x, pairs, strict=True):
            directions = rng.standard_normal((500, 3))
            directions *= radius / np.linalg.norm(directions, axis=1, keepdims=True)
            assert (network(point + directions).argmax(1) == network(point[None]).argmax()).all()

    def test_ties_and_broken_logits_certify_nothing(self):
        logits = np.array([[1.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert (margin_radius(logits, 1.0) == 0.0).all()

    def test_float32_logits_are_not_taken_to_be_exact(self):
        assert margin_radius(np.array([[1.0, 1.0 - 1e-6]]), 1.0)[0] == 0.0

    def test_pairs_with_a_label_only(self):
        constants = pairwise_constants(dense((3, 4, 3), 22), solver="SCS", labels=[0])
        assert np.isinf(constants[1, 2])
        assert np.isfinite(constants[0, 1:]).all()
        with pytest.raises(InvalidArgumentError):
            pairwise_radius(np.zeros((1, 2)), np.zeros((2, 2)))


@pytest.mark.shared
def test_repair_of_rough_multipliers_on_a_real_network(shared_dir):
    """The network whose raw SCS value is below the truth; here with multipliers from the closed form for one layer."""
    from safetensors.numpy import load_file

    stored = load_file(shared_dir / "models" / "lp_barrier" / "mnist_MLP_2_100_ADV.safetensors")
    weights = [stored[f"{position}.weight"].astype(np.float64) for position in (1, 3, 5)]
    product = spectral_product(weights)
    assert product == pytest.approx(29.68, abs=0.01)
    # t_k of equal weight per layer is feasible in the spectral-product proof: never worse than a little above it.
    norms = [np.linalg.norm(weight, 2) for weight in weights]
    t = np.concatenate([np.full(100, norms[1] ** 2 * norms[2] ** 2), np.full(100, norms[2] ** 2)])
    value = min(prove_lipschitz(weights, t * factor) for factor in (1.0, 1.5, 2.0, 3.0))
    rng = np.random.default_rng(0)
    attained = max(
        np.linalg.norm(
            weights[2] @ (rng.integers(0, 2, (100, 1)) * weights[1]) @ (rng.integers(0, 2, (100, 1)) * weights[0]), 2
        )
        for _ in range(5)
    )
    assert attained < value < 2 * product
