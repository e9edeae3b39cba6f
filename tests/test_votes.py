"""The Monte Carlo engine and its noise: every vote is counted once, whatever the batches, and for its own noise."""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smoothing import (
    BatchingEngine,
    ClassifierError,
    ForwardSettings,
    Gaussian,
    InvalidArgumentError,
    Laplace,
    Phase,
    SmoothingDistribution,
    Uniform,
    VoteRequest,
    VoteSource,
)
from smoothing.driver import drive
from smoothing.noise import BLOCK, NOISE_VERSION, block_seed, draw_block, input_base
from smoothing.votes import read_outcomes

SHAPE = (1, 3, 4)
CLASSES = 4
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def inputs() -> Tensor:
    return torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(3))


def by_comparison(x: Tensor) -> Tensor:
    """Labels from comparisons of single values: the same bits in any batch, unlike sums, which depend on its shape."""
    pixels = x.flatten(1)
    return (pixels[:, 0] > 0.4).long() + 2 * (pixels[:, 5] > pixels[:, 7]).long()


def engine(
    classifier: Any = by_comparison,
    law: SmoothingDistribution | None = None,
    *,
    batch_size: int = 64,
    seed: int = 7,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> BatchingEngine:
    data = inputs()
    return BatchingEngine(
        classifier,
        law or Gaussian(SHAPE, sigma=0.5),
        CLASSES,
        lambda index: data[index],
        settings=ForwardSettings(batch_size, **settings),
        seed=seed,
        device=device,
        progress=progress,
    )


def collect(source: VoteSource, requests: Sequence[VoteRequest]) -> dict[VoteRequest, list[int]]:
    answers = list(source.votes(requests))
    assert sorted(map(repr, requests)) == sorted(repr(request) for request, _ in answers)
    for request, counts in answers:
        assert counts.dtype == np.int64
        assert counts.shape == (CLASSES + 1,)
        assert counts.sum() == request.stop - request.start
    return {request: counts.tolist() for request, counts in answers}


def one_at_a_time(
    request: VoteRequest, law: SmoothingDistribution, seed: int, classifier: Callable[[Tensor], Tensor] = by_comparison
) -> list[int]:
    """Count votes with a loop over samples, each classified alone."""
    x = inputs()[request.index]
    base = input_base(seed, law, request.index)
    counts = [0] * (CLASSES + 1)
    for sample in range(request.start, request.stop):
        block = draw_block(torch.Generator(), law, x, base, request.phase, sample // BLOCK)
        label = int(classifier(block[sample % BLOCK][None])[0])
        counts[label if 0 <= label < CLASSES else CLASSES] += 1
    return counts


REQUESTS = [
    VoteRequest(0, Phase.SELECT, 0, 10),
    VoteRequest(0, Phase.ESTIMATE, 0, 300),
    VoteRequest(3, Phase.ESTIMATE, 100, 290),
    VoteRequest(1, Phase.PREDICT, 127, 129),
    VoteRequest(4, Phase.ESTIMATE, 0, 128),
    VoteRequest(2, Phase.PILOT, 5, 6),
    VoteRequest(2, Phase.ATTACK, 256, 400),
]


# --- Counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [Gaussian(SHAPE, sigma=0.5), Laplace(SHAPE, sigma=0.3), Uniform(SHAPE, sigma=1.0)])
def test_counts_are_those_of_a_loop_over_single_samples(law: SmoothingDistribution) -> None:
    counted = collect(engine(law=law), REQUESTS)
    for request in REQUESTS:
        assert counted[request] == one_at_a_time(request, law, seed=7)


@pytest.mark.parametrize("device", DEVICES)
def test_batch_size_and_order_change_nothing(device: str) -> None:
    reference = collect(engine(device=device), REQUESTS)
    for batch_size in (1, 7, 64, 1024):
        assert collect(engine(batch_size=batch_size, device=device), REQUESTS) == reference
    rng = np.random.default_rng(0)
    for _ in range(4):
        shuffled = [REQUESTS[i] for i in rng.permutation(len(REQUESTS))]
        assert collect(engine(batch_size=int(rng.integers(1, 500)), device=device), shuffled) == reference
    same = engine(device=device)
    assert collect(same, REQUESTS) == collect(same, REQUESTS) == reference
    separate = {}
    for request in REQUESTS:
        separate |= collect(engine(device=device), [request])
    assert separate == reference


@pytest.mark.parametrize("cuts", [(0, 50, 130), (0, 1, 128, 129, 130), (0, 127, 130), tuple(range(0, 131, 10))])
def test_a_request_in_parts_is_the_whole_request(cuts: tuple[int, ...]) -> None:
    whole = collect(engine(), [VoteRequest(1, Phase.ESTIMATE, 0, 130)])
    parts = collect(engine(), [VoteRequest(1, Phase.ESTIMATE, *part) for part in itertools.pairwise(cuts)])
    assert [sum(column) for column in zip(*parts.values(), strict=True)] == next(iter(whole.values()))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 300))
def test_any_split_and_batch_size_add_up(lengths: list[int], batch_size: int) -> None:
    ends = list(itertools.accumulate(lengths, initial=0))
    parts = collect(
        engine(batch_size=batch_size), [VoteRequest(2, Phase.ESTIMATE, a, b) for a, b in itertools.pairwise(ends)]
    )
    whole = collect(engine(batch_size=97), [VoteRequest(2, Phase.ESTIMATE, 0, ends[-1])])
    assert [sum(column) for column in zip(*parts.values(), strict=True)] == next(iter(whole.values()))


@pytest.mark.parametrize(
    ("total", "batch_size", "calls"), [(130, 64, 3), (128, 64, 2), (1, 64, 1), (5, 5, 1), (6, 5, 2)]
)
def test_batches_are_full_and_padding_is_not_counted(total: int, batch_size: int, calls: int) -> None:
    shapes, progress = [], []

    def classifier(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        # Padding rows are zeros: make them vote, so that a vote of theirs would be seen.
        return torch.where((x == 0).flatten(1).all(1), 3, 1)

    source = engine(classifier, batch_size=batch_size, progress=progress.append)
    first = total // 3
    requests = [VoteRequest(0, Phase.ESTIMATE, 0, first)] if first else []
    requests.append(VoteRequest(1, Phase.ESTIMATE, 0, total - first))
    counted = collect(source, requests)
    assert shapes == [(batch_size, *SHAPE)] * calls
    assert sum(progress) == total
    assert sum(counts[1] for counts in counted.values()) == total


def test_requests_are_answered_as_soon_as_they_are_complete() -> None:
    source = engine(batch_size=64)
    votes = source.votes([VoteRequest(0, Phase.ESTIMATE, 0, 64), VoteRequest(1, Phase.ESTIMATE, 0, 10**9)])
    request, counts = next(votes)
    assert request.index == 0
    assert counts.sum() == 64
    votes.close()


def test_no_requests_no_votes() -> None:
    assert list(engine().votes([])) == []


def test_a_source_of_votes_is_recognised() -> None:
    assert isinstance(engine(), VoteSource)


# --- What the classifier may return -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_scores_that_are_not_finite_are_invalid(dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor(
        [[1.0, 2.0, 0.0], [nan, 0, 0], [nan, nan, nan], [0, inf, 0], [0, -inf, 1], [5.0, -3.0, 4.0], [inf, inf, inf]]
    )
    assert read_outcomes(scores.to(dtype), 7, 3).tolist() == [1, 3, 3, 3, 3, 0, 3]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8])
def test_labels_outside_the_classes_are_invalid(dtype: torch.dtype) -> None:
    outcomes = read_outcomes(torch.tensor([0, 2, 3, -1, -128, 127, 1], dtype=dtype), 7, 3)
    assert outcomes.tolist() == [0, 2, 3, 3, 3, 3, 1]
    assert outcomes.dtype == torch.int64
    assert read_outcomes(torch.tensor([0, 2, 255], dtype=torch.uint8), 3, 3).tolist() == [0, 2, 3]


def test_a_classifier_that_breaks_down_does_not_vote_for_class_zero() -> None:
    def overflows(x: Tensor) -> Tensor:
        scores = torch.zeros(len(x), CLASSES)
        scores[:, 2] = 1.0
        scores[by_comparison(x) == 1] = float("nan")
        return scores

    counted = collect(engine(overflows), REQUESTS)
    reference = collect(engine(), REQUESTS)
    for request in REQUESTS:
        invalid = reference[request][1]
        size = request.stop - request.start
        assert counted[request] == [0, 0, size - invalid, 0, invalid]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            lambda x: x.new_zeros(len(x), CLASSES + 1),
            r"scores must have shape \(batch, classes\) = \(64, 4\), got \(64, 5\)",
        ),
        (lambda x: x.new_zeros(len(x)), r"scores must have shape .* got \(64,\)"),
        (lambda x: x.new_zeros(len(x) - 1, CLASSES), r"got \(63, 4\)"),
        (lambda x: x.new_zeros(1, CLASSES), r"got \(1, 4\)"),
        (lambda x: x.new_zeros(len(x), CLASSES).long(), r"integer labels must have shape \(batch,\)"),
        (lambda x: x.new_zeros(len(x), 1).long(), r"got \(64, 1\)"),
        (lambda x: torch.tensor(1), r"got \(\)"),
        (lambda x: x.new_zeros(len(x)).bool(), "got dtype torch.bool"),
        (lambda x: x.new_zeros(len(x), CLASSES).cfloat(), "got dtype torch.complex64"),
        (lambda x: [0] * len(x), "must return a tensor, got list"),
        (lambda x: (x.new_zeros(len(x), CLASSES),), "must return a tensor, got tuple"),
        (lambda x: None, "must return a tensor, got NoneType"),
    ],
)
def test_outputs_that_are_no_votes_are_refused(output: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        list(engine(output).votes([VoteRequest(0, Phase.ESTIMATE, 0, 10)]))


def test_a_classifier_that_writes_into_its_input_cannot_corrupt_counts_or_inputs() -> None:
    def vandal(x: Tensor) -> Tensor:
        labels = by_comparison(x)
        x.fill_(float("nan"))
        return labels

    data = inputs()
    kept = data.clone()
    source = BatchingEngine(
        vandal, Gaussian(SHAPE, sigma=0.5), CLASSES, lambda i: data[i], settings=ForwardSettings(50), seed=7
    )
    assert collect(source, REQUESTS) == collect(engine(), REQUESTS)
    assert torch.equal(data, kept)


def test_a_classifier_that_returns_a_view_of_its_input_is_counted_before_the_next_batch() -> None:
    def raw(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :CLASSES]

    counted = collect(engine(raw), REQUESTS)
    assert counted == collect(engine(lambda x: raw(x).clone()), REQUESTS)


# --- The module's state -----------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Batch normalisation and dropout: in training mode every output depends on the rest of the batch and on chance."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.frozen = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, CLASSES)
        self.calls = 0
        self.break_at = 10**9
        self.train()
        self.frozen.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        assert not any(module.training for module in self.modules())
        assert torch.is_inference_mode_enabled()
        if self.calls >= self.break_at:
            raise RuntimeError("out of order")
        return self.head(self.dropout(self.frozen(self.norm(x))).flatten(1))

    def flags(self) -> list[bool]:
        return [module.training for module in self.modules()]


def test_eval_mode_is_enforced_and_every_flag_restored() -> None:
    torch.manual_seed(0)
    network = Network()
    flags = network.flags()
    assert True in flags
    assert False in flags
    before = {key: value.clone() for key, value in network.state_dict().items()}
    collect(engine(network), REQUESTS)
    assert network.calls > 1
    assert network.flags() == flags
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_flags_are_restored_after_an_error_and_after_giving_up() -> None:
    network = Network()
    flags = network.flags()
    network.break_at = 2
    with pytest.raises(ClassifierError, match="RuntimeError: out of order"):
        list(engine(network).votes(REQUESTS))
    assert network.flags() == flags
    network = Network()
    votes = engine(network).votes([VoteRequest(i, Phase.ESTIMATE, 0, 100) for i in range(5)])
    next(votes)
    votes.close()
    assert network.flags() == flags


def test_votes_of_a_network_are_the_argmax_of_its_scores() -> None:
    torch.manual_seed(1)
    network = Network()
    [counts] = collect(engine(network, batch_size=128), [VoteRequest(0, Phase.ESTIMATE, 0, 256)]).values()
    law = Gaussian(SHAPE, sigma=0.5)
    base = input_base(7, law, 0)
    blocks = [draw_block(torch.Generator(), law, inputs()[0], base, Phase.ESTIMATE, block) for block in (0, 1)]
    with torch.inference_mode():
        labels = torch.cat([network.eval()(block).argmax(1) for block in blocks])
    assert counts == torch.bincount(labels, minlength=CLASSES + 1).tolist()


# --- Precision and layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"channels_last": True}, {"precision": "bf16"}, {"precision": "bf16", "channels_last": True}]
)
def test_layout_and_precision_change_no_noise(settings: dict[str, Any]) -> None:
    """A classifier without arithmetic sees the same values; one with arithmetic runs, in the layout asked for."""

    class Comparison(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return by_comparison(x)

    assert collect(engine(Comparison(), **settings), REQUESTS) == collect(engine(), REQUESTS)
    seen = []

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, CLASSES, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            seen.append((x.is_contiguous(memory_format=torch.channels_last), x.dtype, y.dtype))
            return y.amax((2, 3))

    x = torch.rand(2, 3, 8, 8)
    torch.manual_seed(0)
    network = Convolution()
    source = BatchingEngine(
        network, Gaussian((3, 8, 8), sigma=0.1), CLASSES, lambda i: x[i], settings=ForwardSettings(32, **settings)
    )
    counted = collect(source, [VoteRequest(0, Phase.ESTIMATE, 0, 200), VoteRequest(1, Phase.ESTIMATE, 0, 200)])
    precision = torch.bfloat16 if "precision" in settings else torch.float32
    assert set(seen) == {("channels_last" in settings, torch.float32, precision)}
    assert all(counts[-1] == 0 for counts in counted.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_classifier_counts_the_same() -> None:
    assert collect(engine(compile=True), REQUESTS) == collect(engine(), REQUESTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got batch_size=0"),
        ({"batch_size": -3}, "batch_size must be an integer of at least 1"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, got precision='fp8'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ForwardSettings(**settings)


# --- Arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, True])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"seed must be an integer in \[0, 2\*\*63\)"):
        engine(seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_seeds_in_range_give_their_own_noise(seed: int) -> None:
    request = VoteRequest(0, Phase.ESTIMATE, 0, 200)
    law = Gaussian(SHAPE, sigma=0.5)
    assert collect(engine(seed=seed), [request])[request] == one_at_a_time(request, law, seed)


@pytest.mark.parametrize("num_classes", [1, 0, -2, True])
def test_two_classes_are_needed(num_classes: int) -> None:
    with pytest.raises(InvalidArgumentError, match="num_classes must be an integer of at least 2"):
        BatchingEngine(by_comparison, Gaussian(SHAPE, sigma=0.5), num_classes, lambda i: inputs()[i])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (5, 4), (-1, 4)])
def test_empty_and_negative_requests_are_refused(start: int, stop: int) -> None:
    with pytest.raises(InvalidArgumentError, match="a request needs 0 <= start < stop"):
        VoteRequest(0, Phase.ESTIMATE, start, stop)


def test_inputs_of_another_shape_than_the_law_are_refused() -> None:
    source = BatchingEngine(by_comparison, Gaussian((1, 4, 4), sigma=0.5), CLASSES, lambda i: inputs()[i])
    with pytest.raises(InvalidArgumentError, match=r"input 2 has shape \(1, 3, 4\), but the law is over \(1, 4, 4\)"):
        list(source.votes([VoteRequest(2, Phase.ESTIMATE, 0, 10)]))


# --- Noise ------------------------------------------------------------------------------------------------------------


def test_the_rule_of_torch_block_v1_never_changes() -> None:
    """Written out a second time, with known answers: a released rule has to replay old runs."""
    law = Gaussian((2,), sigma=0.25)
    assert NOISE_VERSION == "torch-block-v1"
    assert BLOCK == 128
    assert law.identity == "gaussian(2;sigma=0x1.0000000000000p-2)"
    text = "torch-block-v1|12345|gaussian(2;sigma=0x1.0000000000000p-2)|42"
    base = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    assert input_base(12345, law, 42) == base == 15126077413507036934
    for number, phase in enumerate((Phase.SELECT, Phase.ESTIMATE, Phase.PREDICT, Phase.PILOT, Phase.ATTACK)):
        for block in (0, 1, 1000):
            seed = (base - base % 2**32) + (base % 2**32 + number * 2**28 + block) % 2**32
            assert block_seed(base, phase, block) == seed
            x = torch.tensor([0.5, -1.0])
            expected = x + torch.empty(128, 2).normal_(0.0, 0.25, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(draw_block(torch.Generator(), law, x, base, phase, block), expected)


blocks = st.tuples(st.sampled_from(list(Phase)), st.integers(0, 2**28 - 1))


@given(st.integers(0, 2**64 - 1), blocks, blocks)
def test_blocks_of_one_input_never_share_a_seed(base: int, one: tuple[Phase, int], other: tuple[Phase, int]) -> None:
    """torch's CPU generator looks at the lower 32 bits only."""
    seeds = [block_seed(base, *block) for block in (one, other)]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert (seeds[0] % 2**32 == seeds[1] % 2**32) == (one == other)


@pytest.mark.parametrize("block", [-1, 2**28])
def test_a_phase_ends_before_the_next_begins(block: int) -> None:
    with pytest.raises(InvalidArgumentError, match="a phase holds 34359738368 samples at most"):
        block_seed(0, Phase.SELECT, block)


def test_no_two_samples_of_an_input_are_equal_in_any_phase_or_block() -> None:
    law = Gaussian((4,), sigma=1.0)
    generator = torch.Generator()
    x = torch.zeros(4)
    rows = torch.cat([draw_block(generator, law, x, input_base(0, law, 9), p, b) for p in Phase for b in range(20)])
    assert len(torch.unique(rows, dim=0)) == len(rows) == len(Phase) * 20 * BLOCK


def test_the_noise_depends_on_seed_law_and_input_and_on_nothing_else() -> None:
    bases = {
        input_base(seed, law, index)
        for seed in (0, 1, 2**40)
        for law in (
            Gaussian((4,), sigma=0.5),
            Gaussian((2, 2), sigma=0.5),
            Gaussian((4,), sigma=0.25),
            Laplace((4,), sigma=0.5),
        )
        for index in range(50)
    }
    assert len(bases) == 3 * 4 * 50
    assert input_base(3, Laplace((4,), sigma=0.5), 1) == input_base(
        3, Laplace((4,), scale=Laplace((4,), sigma=0.5).scale), 1
    )


def test_blocks_are_independent_draws() -> None:
    """Means and correlations between blocks of different phases, inputs and numbers: at most 6 standard deviations.

    1,225 pairs of blocks of 6,400 values each; P(|N(0, 1)| > 6) = 2e-9, so that a false alarm has probability 3e-6 at
    most, once: the seed is fixed.
    """
    law = Gaussian((50,), sigma=1.0)
    generator = torch.Generator()
    draws = torch.stack(
        [
            draw_block(generator, law, torch.zeros(50), input_base(1, law, index), phase, block).flatten().double()
            for index in range(5)
            for phase in Phase
            for block in (0, 1)
        ]
    )
    products = draws @ draws.T / draws.shape[1] ** 0.5
    assert float((products - torch.diag(products.diagonal())).abs().max()) < 6
    assert float(draws.sum(1).abs().max()) / draws.shape[1] ** 0.5 < 6


# --- The driver -------------------------------------------------------------------------------------------------------


class Recorder:
    """A source that writes down what it was asked for."""

    def __init__(self, source: VoteSource) -> None:
        self.source = source
        self.requests: list[VoteRequest] = []

    def votes(self, requests: Sequence[VoteRequest]) -> Iterator[tuple[VoteRequest, Any]]:
        self.requests += requests
        return self.source.votes(requests)


class Looks:
    """A state that looks at growing prefixes of one phase."""

    def __init__(self, *prefixes: int) -> None:
        self.prefixes = list(prefixes)
        self.seen: list[tuple[Phase, list[int]]] = []

    def next_look(self) -> Any:
        from smoothing.estimators.base import Request

        return Request(Phase.ESTIMATE, self.prefixes[len(self.seen)]) if len(self.seen) < len(self.prefixes) else None

    def update(self, phase: Phase, counts: Any) -> None:
        self.seen.append((phase, counts.tolist()))

    def result(self) -> Any:
        raise AssertionError("not asked for here")


def test_later_looks_ask_for_the_new_votes_only_and_see_the_whole_prefix() -> None:
    source = Recorder(engine())
    states = {0: Looks(10, 50, 130), 3: Looks(200), 4: Looks()}
    order = list(drive(source, states))
    assert sorted(order) == [0, 0, 0, 3]
    assert [(r.index, r.start, r.stop) for r in source.requests] == [(0, 0, 10), (3, 0, 200), (0, 10, 50), (0, 50, 130)]
    for state, index in ((states[0], 0), (states[3], 3)):
        for (phase, counts), n in zip(state.seen, state.prefixes, strict=True):
            request = VoteRequest(index, Phase.ESTIMATE, 0, n)
            assert phase is Phase.ESTIMATE
            assert counts == collect(engine(), [request])[request]
