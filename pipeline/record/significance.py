"""Do these seeds beat that baseline? One-sided Welch tests on per-seed losses.

The one idea: a record's claim is a difference of means between two small samples of unequal spread. Welch's statistic
follows Student's t with a fractional number of degrees of freedom; its tail is a regularised incomplete beta function.

Losses are nats per target; a gain is the baseline's mean minus the record's.
Source: B. L. Welch, Biometrika 34 (1947); the continued fraction of the beta integral, DLMF 8.17.22.
Checked by: tests/record/test_significance.py, against scipy.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.base.checks import require

RECORD_MARGIN_NATS = 0.005
"""Gain that the challenge asks of a record, with `RECORD_LEVEL`."""
RECORD_LEVEL = 0.01
"""Largest p-value at which the challenge calls a gain shown."""
MOST_SEEDS = 100
"""Seeds up to which `seeds_needed` looks."""


class Welch(NamedTuple):
    """A one-sided test of gain > margin."""

    t: float
    degrees_of_freedom: float
    p: float
    """Probability of so large a `t` were the gain just the margin."""


def welch_test(losses: Sequence[float], baseline: Sequence[float], margin: float) -> Welch:
    """Test whether the mean of `losses` lies more than `margin` below the mean of `baseline`.

    Raises ValueError unless both hold at least two finite losses that are not all equal.
    """
    for name, sample in (("seeds", losses), ("baseline", baseline)):
        require(len(sample) >= 2, f"{name}: losses", len(sample), "at least 2")
        require(all(map(math.isfinite, sample)), f"{name}: losses", list(sample), "finite numbers")
    return _welch(
        statistics.fmean(baseline) - statistics.fmean(losses) - margin,
        _Sample(statistics.variance(losses), len(losses)),
        _Sample(statistics.variance(baseline), len(baseline)),
    )


def seeds_needed(losses: Sequence[float], baseline: Sequence[float], margin: float) -> int | None:
    """Return how many seeds, should mean and spread stay, would show gain > margin at `RECORD_LEVEL`.

    At least as many as there are; None when even `MOST_SEEDS` would not do.
    """
    gain = statistics.fmean(baseline) - statistics.fmean(losses) - margin
    ours, theirs = statistics.variance(losses), _Sample(statistics.variance(baseline), len(baseline))
    counts = range(len(losses), MOST_SEEDS + 1)
    return next((n for n in counts if _welch(gain, _Sample(ours, n), theirs).p < RECORD_LEVEL), None)


def comparison_fields(losses: Sequence[float], baseline: Sequence[float]) -> dict[str, float | None]:
    """Return the fields of submission.json that tell how the seeds compare with a baseline, which may be empty.

    They are None where there is nothing to test: no baseline, or a single seed.
    """
    if not baseline or len(losses) < 2:
        return dict.fromkeys(("t_statistic", "welch_df", "p_value", "p_value_0005nats"))
    gain = welch_test(losses, baseline, 0.0)
    return {
        "t_statistic": gain.t,
        "welch_df": gain.degrees_of_freedom,
        "p_value": gain.p,
        "p_value_0005nats": welch_test(losses, baseline, RECORD_MARGIN_NATS).p,
    }


class _Sample(NamedTuple):
    variance: float
    size: int


def _welch(excess: float, ours: _Sample, theirs: _Sample) -> Welch:
    """Return the test of a difference of means above the margin."""
    shares = [sample.variance / sample.size for sample in (ours, theirs)]
    require(sum(shares) > 0, "losses: variance", 0, "seeds that differ; a loss copied twice is one seed")
    degrees = sum(shares) ** 2 / sum(
        share**2 / (sample.size - 1) for share, sample in zip(shares, (ours, theirs), strict=True)
    )
    t = excess / math.sqrt(sum(shares))
    return Welch(t, degrees, student_upper_tail(t, degrees))


def student_upper_tail(t: float, degrees: float) -> float:
    """Return the probability that Student's t with `degrees` > 0 degrees of freedom exceeds `t`."""
    square = t * t
    if square < 1:  # 1 - x below would lose its digits
        half = 0.5 * regularised_beta(square / (degrees + square), 0.5, degrees / 2)
        return 0.5 - math.copysign(half, t)
    tail = 0.5 * regularised_beta(degrees / (degrees + square), degrees / 2, 0.5)
    return tail if t > 0 else 1.0 - tail


def regularised_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b) for 0 <= x <= 1 and a, b > 0, to about 1e-13 relative."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1.0 - regularised_beta(1.0 - x, b, a)
    scale = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction 1 + d1/(1 + d2/(1 + ...)), from its far end inwards."""
    value = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1.0 + odd / (1.0 + even / value)
    return value
