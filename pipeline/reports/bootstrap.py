"""How sure a difference of bits per byte is: documents that two arms both scored, drawn anew.

The one idea: documents are hard or easy for both arms alike, so what is drawn is the pair. A difference is total nats
over total bytes, which long documents weigh more in, and so is it in every draw. Few seeds cannot be drawn anew without
understating their spread; their part is Student's t with as many degrees of freedom as they leave.

Axes: S seeds, D documents, R draws.
Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
Checked by: tests/reports/test_bootstrap.py, by how often intervals hold the truth.
"""

import math
from typing import NamedTuple

import numpy as np

FEWEST_SEEDS = 3
"""Seeds from which on an interval says what other seeds would give, too."""
DRAWS = 10_000
_LEVELS = (0.025, 0.975)
_CHUNK = 1 << 21
"""Documents drawn at a time: bounds the memory."""


class Interval(NamedTuple):
    """A difference in bits per byte and the ends of its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_interval(nats_SD: np.ndarray, bytes_D: np.ndarray) -> Interval:
    """Return the mean difference over seeds; the same input gives the same interval.

    nats_SD: float64, nats of the one arm less those of the other; bytes_D: bytes of the documents, two at least.
    """
    generator = np.random.default_rng(0)
    total_bits = math.log(2) * float(bytes_D.sum())
    drawn_R = _drawn(nats_SD.mean(axis=0), bytes_D, generator)
    seeds = len(nats_SD)
    if seeds >= FEWEST_SEEDS:
        error = nats_SD.sum(axis=1).std(ddof=1) / math.sqrt(seeds) / total_bits
        drawn_R += error * generator.standard_t(seeds - 1, DRAWS)
    low, high = np.quantile(drawn_R, _LEVELS)
    return Interval(float(nats_SD.mean(axis=0).sum()) / total_bits, float(low), float(high))


def _drawn(nats_D: np.ndarray, bytes_D: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return bits per byte of `DRAWS` draws of as many documents as there are."""
    size = len(bytes_D)
    rows, parts = max(1, _CHUNK // size), []
    for start in range(0, DRAWS, rows):
        index_RD = generator.integers(size, size=(min(rows, DRAWS - start), size))
        parts.append(nats_D[index_RD].sum(axis=1) / (math.log(2) * bytes_D[index_RD].sum(axis=1)))
    return np.concatenate(parts)
