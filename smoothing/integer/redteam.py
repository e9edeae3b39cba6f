"""Classifiers that look at the bits: they make floating-point noise certify what is false.

Each is a positive control for the integer path: on the floating-point path of `torch-block-v1` it earns a certificate that
is wrong, on the integer path it does not.

* `low_bits`: in one dimension, f(a) = [a is a multiple of 2^-24]. float32 sums 1 + z are multiples of 2^-24 always, 0 + z
  seldom: the certificate at 1 has a radius above 1, and at 0 the class is another one.
* `black_pixels`: two legal 8-bit images, black and almost black (1/255 in every pixel). Sums near 0 have bits below 2^-32
  only where the pixel is black.
* `cut_tails`: torch's normals on the CPU come in pairs (a, b) of Box and Muller with a^2 + b^2 <= 2 log 2^24, so that
  sqrt(a^2 + b^2), and with it every |a|, ends at 5.768 sigma. f fails beyond; no vote shows it. Either f looks at single
  coordinates, which the law carries beyond with probability 8.0e-9 each: with 100,000 votes that is enough for a false
  certificate in the dimension of ImageNet (150,528), and in none of CIFAR-10 (3,072). Or it looks at pairs, where the same
  cut leaves out 6.0e-8 of the law, more than three times as much of each coordinate: a fifth of the dimension and of the
  votes then show the same flaw. The weaker f needs to know nothing of the generator but where it ends, the stronger one
  which values belong together.

Reference: Voracek and Hein 2023 (the first two); Dahiya, Shumailov and Anderson 2024 on the generators behind the noise.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smoothing.distributions.gaussian import Gaussian
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Status
from smoothing.estimators.fixed import FixedEstimator
from smoothing.forward import ForwardSettings
from smoothing.noise_source import NoiseSource
from smoothing.rounding import complement_down
from smoothing.votes import BatchingEngine, Classifier, VoteRequest

LAYOUT = 8
"""torch's CPU generator puts the two normals of a pair this far apart, in blocks of twice as many."""

LONGEST_PAIR = math.sqrt(2 * math.log(2.0**24))
"""5.768: the largest sqrt(a^2 + b^2), in units of sigma, of a pair made from a 24-bit uniform."""


@dataclass(frozen=True, eq=False)
class Attack:
    """A classifier, the input whose certificate is attacked, and the input that shows it to be false.

    Attributes:
        name: For people.
        law: The smoothing law.
        classifier: The base classifier, two classes.
        x: The input that is certified.
        other: An input near it on which the smoothed classifier answers otherwise; None where the truth is known instead.
        failure: The true probability, under the law, that the classifier does not answer 1 at x; None where not known.
    """

    name: str
    law: Gaussian
    classifier: Classifier
    x: Tensor
    other: Tensor | None = None
    failure: float | None = None


@dataclass(frozen=True)
class Claim:
    """What a certificate claims: the class of every input within the l2 radius."""

    prediction: int | None
    p_lower: float
    radius: float


def low_bits() -> Attack:
    """The one-dimensional attack."""

    def classifier(a: Float[Tensor, "batch 1"]) -> Int64[Tensor, " batch"]:
        return _is_multiple(a, 24)[:, 0].long()

    return Attack("low bits of a sum", Gaussian((1,), sigma=0.3), classifier, torch.ones(1), torch.zeros(1))


def black_pixels(pixels: int = 500) -> Attack:
    """The attack by two 8-bit images.

    Args:
        pixels: How many pixels are black in one image and 1/255 in the other.
    """

    def classifier(a: Float[Tensor, "batch pixels"]) -> Int64[Tensor, " batch"]:
        fine = (a.abs() < 2.0**-9) & ~_is_multiple(a, 32)
        return (~fine.any(1)).long()

    grey = torch.full((pixels,), 1.0) / 255.0
    return Attack("black pixels", Gaussian((pixels,), sigma=0.25), classifier, grey, torch.zeros(pixels))


def cut_tails(dimension: int = 30_720, *, pairs: bool = True) -> Attack:
    """The attack by cut tails.

    Args:
        dimension: A multiple of 16.
        pairs: Look at the length of each pair of values; False: at single coordinates, which takes five times the
            dimension (see this file).

    Raises:
        InvalidArgumentError: If the dimension is no multiple of 16.
    """
    if dimension % (2 * LAYOUT):
        raise InvalidArgumentError(f"dimension must be a multiple of {2 * LAYOUT}, got dimension={dimension}")
    law = Gaussian((dimension,), sigma=0.25)
    # A little more than the longest pair: float32 has rounded it.
    limit = LONGEST_PAIR + 1e-5

    def single(a: Float[Tensor, "batch dimension"]) -> Int64[Tensor, " batch"]:
        return (torch.maximum(a.amax(1), -a.amin(1)) <= 0.25 * limit).long()

    if not pairs:
        # P(|a| > t) for each of d coordinates.
        failure = -math.expm1(dimension * math.log1p(-math.erfc(limit / math.sqrt(2.0))))
        return Attack("cut tails, single values", law, single, torch.zeros(dimension), failure=failure)

    def classifier(a: Float[Tensor, "batch dimension"]) -> Int64[Tensor, " batch"]:
        values = a.reshape(len(a), -1, 2, LAYOUT)
        squares = values[:, :, 0].square().addcmul_(values[:, :, 1], values[:, :, 1])
        return (squares.flatten(1).amax(1) <= (0.25 * limit) ** 2).long()

    # P(a^2 + b^2 > t^2) = exp(-t^2 / 2) for each of d / 2 pairs.
    failure = -math.expm1(dimension / 2 * math.log1p(-math.exp(-(limit**2) / 2)))
    return Attack("cut tails, pairs", law, classifier, torch.zeros(dimension), failure=failure)


def claim(
    attack: Attack, noise: NoiseSource, x: Float[Tensor, "..."], n: int, alpha: float = 0.001, batch_size: int = 1024
) -> Claim:
    """Certify one input of an attack by n estimation votes, as CERTIFY does, with the noise given.

    Args:
        attack: Classifier and law.
        noise: Who makes the noisy copies.
        x: The input.
        n: Estimation votes.
        alpha: Error probability.
        batch_size: Rows of a forward pass.
    """
    engine = BatchingEngine(
        attack.classifier,
        attack.law,
        2,
        lambda _: x,
        settings=ForwardSettings(batch_size),
        seed=noise.seed,
        noise=noise,
    )
    state = FixedEstimator(100, n, alpha).start()
    while (look := state.next_look()) is not None:
        for _, counts in engine.votes([VoteRequest(0, look.phase, 0, look.n)]):
            state.update(look.phase, counts)
    estimate = state.result()
    if estimate.status is not Status.CERTIFIED:
        return Claim(None, 0.0, 0.0)
    q_upper = min(1.0, estimate.q_upper + noise.probability_slack)
    radius = attack.law.radius(complement_down(q_upper), "l2", q_upper=q_upper)
    return Claim(estimate.prediction, float(complement_down(q_upper)), radius)


@dataclass(frozen=True)
class Verdict:
    """What came of an attack.

    Attributes:
        at_x: The claim at the attacked input.
        at_other: The claim at the other input, where there is one.
        distance: Between the two inputs; or the largest radius that the true probability proves.
        false_certificate: Whether the claim at x is false: it covers the other input, whose class is claimed to be another
            one; or it rests on a probability above the true one.
    """

    at_x: Claim
    at_other: Claim | None
    distance: float
    false_certificate: bool


def judge(attack: Attack, noise: NoiseSource, n: int, alpha: float = 0.001, batch_size: int = 1024) -> Verdict:
    """Run an attack against a source of noise; see `claim`."""
    at_x = claim(attack, noise, attack.x, n, alpha, batch_size)
    if attack.other is None:
        assert attack.failure is not None
        proved = attack.law.radius(1.0 - attack.failure, "l2", q_upper=attack.failure)
        false = at_x.prediction == 1 and at_x.p_lower > 1.0 - attack.failure
        return Verdict(at_x, None, proved, false)
    at_other = claim(attack, noise, attack.other, n, alpha, batch_size)
    distance = float((attack.x.double() - attack.other.double()).norm())
    differ = None not in (at_x.prediction, at_other.prediction) and at_x.prediction != at_other.prediction
    return Verdict(at_x, at_other, distance, differ and distance < at_x.radius)


def _is_multiple(a: Tensor, bits: int) -> Tensor:
    scaled: Tensor = a.double() * 2.0**bits
    return torch.eq(scaled, scaled.round())
