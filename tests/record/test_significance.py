"""Welch tests and Student's tail against scipy; the hint on seeds against its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from pipeline.record.significance import RECORD_LEVEL, regularised_beta, seeds_needed, student_upper_tail, welch_test

LOSSES = st.lists(st.floats(1.0, 4.0), min_size=2, max_size=8).filter(lambda sample: max(sample) - min(sample) > 1e-3)


@given(LOSSES, LOSSES, st.sampled_from([0.0, 0.005]))
def test_welch_test_is_scipys(losses, baseline, margin):
    ours = welch_test(losses, baseline, margin)
    theirs = stats.ttest_ind([loss - margin for loss in baseline], losses, equal_var=False, alternative="greater")

    # scipy subtracts the margin from every loss, we once: cancellation leaves about 1e-13 of a loss of 4 over 1e-4
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-9)
    assert ours.degrees_of_freedom == pytest.approx(theirs.df, rel=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)


@given(st.floats(-200, 200), st.floats(0.5, 500))
def test_student_upper_tail_is_scipys(t, degrees):
    assert student_upper_tail(t, degrees) == pytest.approx(stats.t.sf(t, degrees), rel=1e-9, abs=1e-300)


@given(st.floats(0, 1), st.floats(0.1, 300), st.floats(0.1, 300))
def test_regularised_beta_is_scipys(x, a, b):
    assert regularised_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-12)


def test_a_gain_is_shown_only_beyond_the_margin():
    baseline, losses = [2.000, 2.001, 2.002], [1.995, 1.996, 1.997]

    assert welch_test(losses, baseline, 0.0).p < 0.01
    assert welch_test(losses, baseline, 0.005).p == pytest.approx(0.5)
    assert welch_test(baseline, losses, 0.0).p > 0.99


def test_seeds_needed_is_the_first_count_that_shows_the_gain():
    baseline, losses = [2.0015, 2.0025, 2.0020], [1.990, 1.994, 1.998]

    needed = seeds_needed(losses, baseline, 0.005)

    assert needed is not None
    assert needed > 3
    mean, std = 1.994, 0.004
    for count, is_enough in ((needed - 1, False), (needed, True)):
        again = stats.ttest_ind_from_stats(2.002 - 0.005, 0.0005, 3, mean, std, count, False, "greater")
        assert (again.pvalue < RECORD_LEVEL) == is_enough


def test_seeds_needed_gives_up_without_a_gain():
    assert seeds_needed([2.0, 2.1], [2.0, 2.1], 0.0) is None


def test_seeds_needed_is_at_least_the_seeds_there_are():
    assert seeds_needed([1.0, 1.01, 1.02], [2.0, 2.01, 2.02], 0.0) == 3


@pytest.mark.parametrize(
    ("losses", "baseline", "line"),
    [
        ([1.0], [1.0, 2.0], r"seeds: losses: got 1, expected at least 2"),
        ([1.0, 2.0], [1.0], r"baseline: losses: got 1, expected at least 2"),
        ([1.0, math.nan], [1.0, 2.0], r"seeds: losses: got .*nan.*, expected finite numbers"),
        ([1.0, 1.0], [2.0, 2.0], r"losses: variance: got 0, expected seeds that differ"),
    ],
)
def test_samples_that_show_nothing_are_refused(losses, baseline, line):
    with pytest.raises(ValueError, match=line):
        welch_test(losses, baseline, 0.0)
