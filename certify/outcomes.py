"""How the six columns of the published logs express what a certificate says: a class, or why there is none.

`predict` is the class where one is proved. Where none is, it is negative, and the three reasons are kept apart:

* -1, abstained: the votes were all counted, and prove no class (the published meaning).
* -2, undecided: the votes that were allowed did not suffice to decide the smallest radius that was asked for.
* -3, refuted: it was shown that the tested class does not reach the smallest radius that was asked for.

In all three cases the radius is 0 and `correct` is 0, so that programs which know -1 alone count such inputs as not
certified, as they should.
"""

from smoothing.certificate import Certificate
from smoothing.estimators.base import Status

ABSTAINED, UNDECIDED, REFUTED = -1, -2, -3

CODES = {Status.ABSTAINED: ABSTAINED, Status.UNDECIDED: UNDECIDED, Status.REFUTED: REFUTED}
"""Status without a class -> value of `predict`."""

NAMES = {code: str(status) for status, code in CODES.items()}


def predict_code(certificate: Certificate) -> int:
    """Return the value of the column `predict`: the proved class, or the code of the reason why there is none."""
    if certificate.prediction is not None:
        return certificate.prediction
    return CODES.get(certificate.status, ABSTAINED)
