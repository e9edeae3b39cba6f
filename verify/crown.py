"""CROWN, the same as DeepPoly: backward propagation with the lower line that leaves the smaller area.

References: Zhang et al. 2018, "Efficient Neural Network Robustness Certification with General Activation Functions";
Singh et al. 2019, "An Abstract Domain for Certifying Neural Networks".
"""

from typing import ClassVar

from verify.backward_rule import BackwardRule


class Crown(BackwardRule):
    """Adaptive lower slopes."""

    name: ClassVar[str] = "crown"
    rule: ClassVar[str] = "adaptive"
