"""The paired bootstrap: how often it holds the truth, what it is of equal arms, what pairing is worth."""

import math

import numpy as np
import pytest

from pipeline.reports.bootstrap import paired_interval


def drawn_documents(generator: np.random.Generator, seeds: int, documents: int, seed_spread: float):
    """Return nats of a difference of 3 mBPB, whose documents scatter by 20 mBPB, and the documents' bytes."""
    bytes_D = generator.integers(50, 2000, documents)
    mbpb_SD = 3 + 20 * generator.standard_normal(documents) + seed_spread * generator.standard_normal((seeds, 1))
    return bytes_D * mbpb_SD * math.log(2) / 1000, bytes_D


@pytest.mark.parametrize(("seeds", "seed_spread"), [(1, 0.0), (3, 0.0), (3, 10.0)])
def test_about_95_of_100_intervals_hold_the_difference(seeds: int, seed_spread: float):
    generator = np.random.default_rng(3)
    intervals = [paired_interval(*drawn_documents(generator, seeds, 60, seed_spread)) for _ in range(100)]
    held = sum(each.low <= 0.003 <= each.high for each in intervals)
    assert 88 <= held <= 99  # within 3 deviations of 95; few documents give somewhat fewer
    assert all(each.low < each.difference < each.high for each in intervals)


def test_equal_arms_differ_by_nothing():
    assert paired_interval(np.zeros((3, 5)), np.arange(1, 6)) == (0.0, 0.0, 0.0)


def test_the_width_is_that_of_the_ratio_of_sums():
    nats_SD, bytes_D = drawn_documents(np.random.default_rng(1), 1, 2000, 0.0)
    interval = paired_interval(nats_SD, bytes_D)
    rate = nats_SD.sum() / bytes_D.sum()
    error = np.sqrt(((nats_SD[0] - rate * bytes_D) ** 2).sum()) / bytes_D.sum() / math.log(2)  # the delta method
    assert interval.difference == pytest.approx(rate / math.log(2), rel=1e-12)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_pairs_tell_more_than_documents_apart():
    generator = np.random.default_rng(2)
    bytes_D = np.full(200, 500)
    before_D = bytes_D * generator.normal(1.0, 0.3, 200)  # hard and easy documents
    after_D = before_D + bytes_D * generator.normal(0.002, 0.01, 200)
    paired = paired_interval((after_D - before_D)[None], bytes_D)
    apart = paired_interval((generator.permutation(after_D) - before_D)[None], bytes_D)
    assert apart.difference == pytest.approx(paired.difference)
    assert apart.high - apart.low > 20 * (paired.high - paired.low)


def test_seeds_that_disagree_widen_the_interval_from_three_on():
    bytes_D = np.full(50, 100)
    nats_SD = np.array([[-1.0], [0.0], [1.0]]) + np.zeros((3, 50))
    assert paired_interval(nats_SD[:2], bytes_D).low == pytest.approx(paired_interval(nats_SD[:2], bytes_D).high)
    wide = paired_interval(nats_SD, bytes_D)
    expected = 4.303 / math.sqrt(3) / 100 / math.log(2)  # Student's t with 2 degrees of freedom
    assert (wide.high - wide.low) / 2 == pytest.approx(expected, rel=0.1)


def test_the_same_input_gives_the_same_interval():
    nats_SD, bytes_D = drawn_documents(np.random.default_rng(4), 3, 30, 5.0)
    assert paired_interval(nats_SD, bytes_D) == paired_interval(nats_SD.copy(), bytes_D.copy())
