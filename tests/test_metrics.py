"""Metrics against brute force, exact enumeration and the published numbers; logs are read whole or refused."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from certify.errors import CertifyError, UsageError
from certify.metrics import (
    CertifiedSet,
    abstention,
    accuracy,
    average_certified_radius,
    certified_accuracy,
    certified_counts,
    default_radii,
    parse_radii,
    population_lower_bound,
    shares,
)
from certify.report.paired import compare_paired
from certify.report.sources import read_log, read_sources
from certify.report.wording import mean_text, percent, percent_interval, percent_of, selection_text

COHEN = "data/published_certify_logs/cohen2019_cifar10_resnet110"


def make_set(rows: list[tuple[int, int, float]], **changes: Any) -> CertifiedSet:
    """Rows of (label, predict, radius), indices 0, 10, 20, ..."""
    label, predict = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    arguments: dict[str, Any] = {
        "name": "set",
        "idx": np.arange(len(rows), dtype=np.int64) * 10,
        "label": label,
        "predict": predict,
        "radius": np.array([row[2] for row in rows], dtype=np.float64),
        "correct": label == predict,
        "seconds": np.ones(len(rows)),
    }
    return CertifiedSet(**(arguments | changes))


def random_set(seed: int, size: int = 200) -> CertifiedSet:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(size):
        predict = int(rng.integers(-1, 3))
        radius = 0.0 if predict < 0 else float(rng.choice([0.0, 0.25, 0.5, 0.3, 1 / 3, rng.random()]))
        rows.append((int(rng.integers(0, 3)), predict, radius))
    return make_set(rows)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("sigma", "percents", "acr", "abstained"),
    [
        ("0.12", "81.4 58.6", "0.2701", "3.8"),
        ("0.25", "74.8 60.0 42.8 26.6", "0.4289", "8.6"),
        ("0.50", "65.2 54.6 41.4 32.0 23.4 15.2 9.4 5.2", "0.5375", "16.6"),
        ("1.00", "47.2 39.2 34.0 27.8 21.6 17.4 14.0 11.8 10.0 7.6 4.8 3.8 2.0 0.4 0.2", "0.5417", "29.0"),
    ],
)
def test_published_logs_give_the_published_numbers(
    shared_dir: Path, sigma: str, percents: str, acr: str, abstained: str
) -> None:
    certified = read_log(shared_dir / COHEN / f"noise_{sigma}_sigma_{sigma}.tsv")
    radii = default_radii([certified])
    assert radii == tuple(0.25 * k for k in range(len(percents.split())))
    assert [percent(share) for share in certified_accuracy(certified, radii)] == percents.split()
    assert mean_text(average_certified_radius(certified)) == acr
    assert percent(abstention(certified)) == abstained
    assert len(certified) == 500
    assert certified.alpha is None


@pytest.mark.shared
def test_both_time_formats_of_the_published_logs_are_seconds(shared_dir: Path) -> None:
    clock, plain = (read_log(shared_dir / COHEN / f"noise_{s}_sigma_{s}.tsv") for s in ("0.12", "0.25"))
    assert clock.seconds[0] == 13.73608
    assert plain.seconds[0] == 15.4


@pytest.mark.parametrize("seed", range(5))
def test_certified_accuracy_is_the_share_of_all_inputs(seed: int) -> None:
    certified = random_set(seed)
    radii = [0.0, 0.25, math.nextafter(0.25, 1), 0.3, 1 / 3, 0.5, 0.9, 5.0]
    for radius, share in zip(radii, certified_accuracy(certified, radii), strict=True):
        expected = sum(
            p == y and r >= radius for y, p, r in zip(certified.label, certified.predict, certified.radius, strict=True)
        )
        assert (share.count, share.total) == (expected, len(certified))
    credited = [
        r if p == y else 0.0 for y, p, r in zip(certified.label, certified.predict, certified.radius, strict=True)
    ]
    assert average_certified_radius(certified).value == math.fsum(credited) / len(certified)
    assert accuracy(certified).count == np.count_nonzero(certified.predict == certified.label)
    assert abstention(certified).count == np.count_nonzero(certified.predict == -1)


def test_a_wrong_prediction_counts_for_nothing_however_large_its_radius() -> None:
    certified = make_set([(0, 1, 9.0), (0, -1, 0.0), (0, 0, 1.0), (0, 0, 0.0)])
    assert certified_counts(certified, [0.0, 1e-300, 1.0, 1.1]).tolist() == [2, 1, 1, 0]
    assert average_certified_radius(certified).value == 0.25


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (374, 500), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_intervals_of_shares_are_the_exact_binomial_ones(count: int, total: int, confidence: float) -> None:
    (share,) = shares(np.array([count]), total, confidence=confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else optimize.brentq(lambda p: stats.binom.sf(count - 1, total, p) - tail, 0, 1)
    high = 1.0 if count == total else optimize.brentq(lambda p: stats.binom.cdf(count, total, p) - tail, 0, 1)
    assert share.low == pytest.approx(low, abs=1e-9)
    assert share.high == pytest.approx(high, abs=1e-9)


def test_interval_of_acr_is_student_s() -> None:
    certified = random_set(3)
    values = certified.credited
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    mean = average_certified_radius(certified)
    assert mean.low == pytest.approx(mean.value - half)
    assert mean.high == pytest.approx(mean.value + half)
    alone = average_certified_radius(make_set([(0, 0, 0.5)]))
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)
    nothing = average_certified_radius(make_set([(0, 1, 0.5), (0, -1, 0.0)]))
    assert (nothing.value, nothing.low, nothing.high) == (0.0, None, None), "no spread is no reason for certainty"


@pytest.mark.parametrize("total", [20, 100])
@pytest.mark.parametrize("alpha", [0.001, 0.2])
def test_population_bound_holds_by_enumeration_and_is_not_empty(total: int, alpha: float) -> None:
    bounds = np.array([population_lower_bound(count, total, alpha, confidence=0.9) for count in range(total + 1)])
    worst = 0.0
    for truth in np.linspace(0.0, 1.0, 101):
        # The largest probability of being counted that the certificates allow.
        counted = truth + (1 - truth) * alpha
        error = stats.binom.pmf(np.arange(total + 1), total, counted)[bounds > truth + 1e-12].sum()
        assert error <= 0.1 + 1e-9
        worst = max(worst, float(error))
    assert worst > 0.06, "the bound is the one-sided one, not that of a two-sided interval"
    # Without the correction by alpha the statement would be false.
    naive = np.array([population_lower_bound(count, total, 1e-12, confidence=0.9) for count in range(total + 1)])
    if alpha == 0.2:
        assert stats.binom.pmf(np.arange(total + 1), total, 0.2)[naive > 0].sum() > 0.2


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0.0, (0.0,)),
        (0.978, (0.0, 0.25, 0.5, 0.75)),
        (1.0, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (0.3, (0.0, 0.25)),
        (0.031, (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03)),
        (0.1, (0.0, 0.025, 0.05, 0.075, 0.1)),
    ],
)
def test_default_radii(largest: float, expected: tuple[float, ...]) -> None:
    assert default_radii([make_set([(0, 0, largest), (0, 1, 50.0)])]) == expected


@pytest.mark.parametrize("largest", [1e-7, 0.004, 0.2, 0.25, 3.9, 6.0, 47.0, 3e4])
def test_default_radii_reach_the_largest_radius_in_few_columns(largest: float) -> None:
    radii = default_radii([make_set([(0, 0, largest)])])
    assert 2 <= len(radii) <= 24
    assert radii[-1] <= largest < 2 * radii[-1] + 1e-9


def test_radii_from_text() -> None:
    assert parse_radii("0.5, 0,0.25,0.5") == (0.0, 0.25, 0.5)
    for text in ("", "a", "0,,1", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match="radi"):
            parse_radii(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idx": np.array([4, 4])}, "appear once"),
        ({"radius": np.array([-0.1, 0.0])}, "at least 0"),
        ({"radius": np.array([np.nan, 0.0])}, "finite"),
        ({"radius": np.array([0.5, 0.5])}, "abstained"),
        ({"correct": np.array([False, False])}, "predict == label"),
        ({"kind": "table"}, '"run" or "log"'),
        ({"data_size": 10}, r"in 0\.\.9"),
    ],
)
def test_contradictory_sets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_set([(0, 0, 0.5), (1, -1, 0.0)], **changes)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one input"):
        make_set([])


@pytest.mark.parametrize(
    ("changes", "notice"),
    [
        ({}, None),
        ({"planned": 2}, None),
        ({"planned": 500}, "partial: 2 of 500 planned inputs"),
        ({"planned": 2, "shard": (1, 4)}, "shard 1 of 4: a part of the run; merge first"),
        (
            {"planned": 9, "shard": (1, 4)},
            "partial: 2 of 9 planned inputs; shard 1 of 4: a part of the run; merge first",
        ),
    ],
)
def test_a_part_is_named_as_a_part(changes: dict[str, Any], notice: str | None) -> None:
    certified = make_set([(0, 0, 0.5), (1, -1, 0.0)], **changes)
    assert certified.notice == notice
    assert certified.complete is (notice is None)


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [(374, 500, "74.8"), (1, 3, "33.3"), (2, 3, "66.7"), (9_999, 10_000, "99.9"), (5, 5, "100.0"), (0, 7, "0.0")],
)
def test_percent_is_to_the_nearest_tenth_but_all_means_all(count: int, total: int, text: str) -> None:
    assert percent_of(count, total) == text


@pytest.mark.parametrize(
    ("indices", "size", "shard", "text"),
    [
        (range(10), 10, None, None),
        (range(4), 10, None, "the first 4"),
        (range(1), 10, None, "the first"),
        (range(0, 10, 2), 10, None, "every 2nd"),
        (range(2, 100, 3), 100, None, "every 3rd"),
        (range(0, 500, 21), 500, None, "every 21st"),
        (range(0, 500, 11), 500, None, "every 11th"),
        (range(0, 500, 112), 500, None, "every 112th"),
        (range(0, 50, 10), 500, None, "the selection asked for"),  # every 10th of a part
        (range(20, 500, 10), 500, None, "the selection asked for"),  # the first ones were skipped
        (range(3, 10), 10, None, "the selection asked for"),
        ([0, 9], 10, None, "every 9th"),
        ([0, 8], 10, None, "every 8th"),
        ([0, 3], 10, None, "the selection asked for"),
        ([0, 2, 3], 4, None, "the selection asked for"),
        (range(1, 10, 4), 10, (1, 4), "shard 1 of 4"),
    ],
)
def test_selections_in_words(
    indices: Sequence[int], size: int, shard: tuple[int, int] | None, text: str | None
) -> None:
    assert selection_text(list(indices), size, shard) == text


def test_interval_ends_are_rounded_outwards() -> None:
    (share,) = shares(np.array([374]), 500)
    low, high = map(float, percent_interval(share).split("–"))
    assert low <= 100 * share.low < low + 0.1
    assert high - 0.1 < 100 * share.high <= high


def test_paired_comparison_counts_and_tests_the_common_inputs() -> None:
    first, second = random_set(1), random_set(2)
    second = make_set(
        list(zip(first.label[:150].tolist(), second.predict[:150].tolist(), second.radius[:150].tolist(), strict=True)),
        name="second",
    )
    result = compare_paired(first, second, [0.0, 0.25, 0.9])
    assert (result.common, result.left_out_first, result.left_out_second) == (150, 50, 0)
    assert "left out: 50 inputs of the first alone" in " ".join(result.sentences())
    for at in result.at_radii:
        a = (first.correct & (first.radius >= at.radius))[:150]
        b = second.correct & (second.radius >= at.radius)
        assert at.first_only == sum(x and not y for x, y in zip(a, b, strict=True))
        assert at.second_only == sum(y and not x for x, y in zip(a, b, strict=True))
        assert at.both + at.first_only + at.second_only + at.neither == 150
        assert at.difference == pytest.approx(b.mean() - a.mean())
        discordant = at.first_only + at.second_only
        assert at.p_value == pytest.approx(stats.binomtest(at.first_only, discordant, 0.5).pvalue)
    difference = second.credited - first.credited[:150]
    expected = stats.ttest_1samp(difference, 0.0)
    interval = expected.confidence_interval(0.95)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.radius_difference.value == pytest.approx(difference.mean())
    assert (result.radius_difference.low, result.radius_difference.high) == pytest.approx((interval.low, interval.high))


def test_equal_runs_differ_in_nothing() -> None:
    certified = random_set(1)
    result = compare_paired(certified, certified, [0.0])
    assert result.at_radii[0].p_value == 1.0
    assert result.p_value == 1.0
    assert result.radius_difference.value == 0.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"idx": np.array([1, 2])}, CertifyError, "no input in common"),
        ({"label": np.array([1, 1]), "correct": np.array([False, False])}, CertifyError, r"different labels.*1 times"),
        ({"data_digest": "b" * 64}, CertifyError, "different data sets"),
        ({"norm": "l1"}, UsageError, "one norm"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    rows = [(0, 0, 0.5), (1, -1, 0.0)]
    first = make_set(rows, norm="l2", data_digest="a" * 64)
    with pytest.raises(error, match=message):
        compare_paired(first, make_set(rows, **({"norm": "l2", "data_digest": "a" * 64} | changes)), [0.0])


HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "no row below the header"),
        ("idx\tlabel\tradius\n0\t1\t2", r"line 1: .* it lacks predict, correct, time"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1", r"line 2, column time: a row must have 6 tab-separated fields, got 5"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\t2\t9", r"line 2, column 7: a row must have 6"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\t2\n\n5\t3\t3\t0.5\t1\t2", r"line 3, column label: a row must have 6"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\t2\nx\t3\t3\t0.5\t1\t2", r"line 3, column idx: an integer of at least 0.*'x'"),
        (f"{HEADER}\n-1\t3\t3\t0.5\t1\t2", r"line 2, column idx: .*'-1'"),
        (f"{HEADER}\n0\t3.0\t3\t0.5\t1\t2", r"line 2, column label: .*'3.0'"),
        (f"{HEADER}\n0\t3\t-4\t0.5\t0\t2", r"line 2, column predict: .*'-4'"),
        (f"{HEADER}\n0\t3\t3\tnan\t1\t2", r"line 2, column radius: a finite number of at least 0.*'nan'"),
        (f"{HEADER}\n0\t3\t3\t-0.5\t1\t2", r"line 2, column radius: .*'-0.5'"),
        (f"{HEADER}\n0\t3\t3\t1e999\t1\t2", r"line 2, column radius: .*'1e999'"),
        (f"{HEADER}\n0\t3\t3\t1_0\t1\t2", r"line 2, column radius: .*'1_0'"),
        (f"{HEADER}\n0\t3\t3\t0.5\tTrue\t2", r"line 2, column correct: 0 or 1.*'True'"),
        (f"{HEADER}\n0\t3\t3\t0.5\t0\t2", r"line 2, column correct: it must be 1 exactly where .* label 3"),
        (f"{HEADER}\n0\t3\t4\t0.5\t1\t2", r"line 2, column correct: "),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\t0:61:00", r"line 2, column time: .*'0:61:00'"),
        (f"{HEADER}\n0\t3\t-1\t0.5\t0\t2", r"line 2, column radius: it must be 0 where predict is -1"),
        (
            f"{HEADER}\n0\t3\t3\t0.5\t1\t2\n0\t3\t3\t0.5\t1\t2",
            r"line 3, column idx: .* got 0 again \(first in line 2\)",
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(text)
    with pytest.raises(CertifyError, match=message) as error:
        read_log(path)
    assert str(path) in str(error.value)


def test_binary_and_absent_logs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CertifyError, match="not UTF-8 text"):
        read_log(tmp_path / "log.tsv")
    with pytest.raises(CertifyError, match="no run folder and no log"):
        read_sources([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15.4", 15.4), ("0:00:13.736080", 13.73608), ("1:02:03", 3723.0), ("1 day, 0:00:01.5", 86401.5), ("2e-3", 0.002)],
)
def test_times(tmp_path: Path, text: str, seconds: float) -> None:
    (tmp_path / "log.tsv").write_text(f"{HEADER}\n0\t3\t3\t0.5\t1\t{text}\n")
    assert read_log(tmp_path / "log.tsv").seconds[0] == pytest.approx(seconds)


def test_other_orders_other_columns_and_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_bytes(
        b"\xef\xbb\xbftime\tpA\tidx\tcorrect\tradius\tpredict\tlabel\r\n1\tx\t20\t1\t0.5\t3\t3\r\n2\ty\t10\t0\t0.0\t-1\t2\r\n\r\n"
    )
    certified = read_log(tmp_path / "log.tsv")
    assert certified.idx.tolist() == [10, 20]
    assert certified.predict.tolist() == [-1, 3]
    assert certified.correct.tolist() == [False, True]
    assert certified.seconds.tolist() == [2.0, 1.0]


def test_sources_get_names_that_tell_them_apart(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "log.tsv")
        paths[-1].write_text(f"{HEADER}\n0\t3\t3\t0.5\t1\t2\n")

    def names(given: list[Path], chosen: tuple[str, ...] = ()) -> list[str]:
        return [source.certified.name for source in read_sources(given, chosen)]

    assert names(paths[:1]) == ["log"]
    assert names(paths) == ["one/log", "two/log"]
    assert len(set(names([paths[0], paths[0]]))) == 2
    assert names(paths, ("a\nb", "a b")) == ["a b", "a b (2)"]
    with pytest.raises(UsageError, match="one name per source, got 1 for 2"):
        read_sources(paths, ["a"])
    with pytest.raises(UsageError, match="at least one"):
        read_sources([])
