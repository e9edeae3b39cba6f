"""Same-slope bounds: Fast-Lin, DeepZ and the Wong-Kolter dual, the LP-GREEDY of Salman et al. 2019.

The lower line of an undecided ReLU is parallel to its chord. Sigmoid, tanh and max pooling have no such published rule
and are relaxed as in CROWN.

References: Weng et al. 2018, "Towards Fast Computation of Certified Robustness for ReLU Networks"; Wong and Kolter 2018,
"Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope", equation 9.
"""

from typing import ClassVar

from verify.backward_rule import BackwardRule


class SameSlope(BackwardRule):
    """Lower slopes parallel to the chord."""

    name: ClassVar[str] = "same-slope"
    rule: ClassVar[str] = "same-slope"
