"""The coder's static tables: discretised Gaussians on a log grid of scales, built from integers alone.

The one idea: an integer of class k is round(x) of a Gaussian x of scale 2^(k/8), so that a class number is all the
decoder needs to know of its distribution. Tails come from one integer recurrence (exp(-z^2/2) on a uniform grid of z is
a product whose ratio shrinks by a constant factor), so every machine builds the same frequencies. A magnitude at the
edge of its class's alphabet stands for everything from there on: clipped codes pile up there, rare large ones state
their excess elsewhere. Union 1 of a trellis codes the whole part of x instead, round(x - 1/2): its levels lie half a
step higher, so its tables are lopsided.

Axes: K classes (those of union 0, then of union 1), S symbols (-limit..limit), J positive magnitudes, T slots.
Source: docs/format.md.
Checked by: tests/codec/test_tables.py.
"""

from functools import lru_cache
from itertools import accumulate
from math import isqrt
from typing import NamedTuple

import numpy as np

TABLE_BITS = 15
"""Frequencies of a class sum to 2^15: fine enough for tails, small enough for 32-bit coder states."""
MIN_CLASS = -24
NUM_CLASSES = 128
MAX_MAGNITUDE_BITS = 8
_TAIL_BITS = 40
_RAREST_TAIL = 1 << _TAIL_BITS - 17
"""A magnitude gets its own symbol while the tail that begins there holds at least this much."""


class CodeTables(NamedTuple):
    """Tables of all classes of both unions for magnitudes up to 2^bits - 1."""

    frequency_KS: np.ndarray
    start_KS: np.ndarray
    """Sum of the frequencies before."""
    symbol_KT: np.ndarray
    """Column of the symbol that owns a slot."""
    limit_K: np.ndarray
    """Largest magnitude with a symbol; 0 at the middle column."""


@lru_cache
def code_tables(magnitude_bits: int) -> CodeTables:
    """Return the tables for magnitudes below 2^magnitude_bits (0 to MAX_MAGNITUDE_BITS)."""
    limit = (1 << magnitude_bits) - 1
    edges = np.arange(1, 2 * limit, 2)
    upper_KJ, lower_KJ = (np.concatenate([_tails(edges), _tails(edges + side)]) for side in (1, -1))
    limit_K = np.maximum((lower_KJ[:, :-1] >= _RAREST_TAIL).sum(1), min(limit, 1))
    inside_KJ = np.arange(1, limit + 1) <= limit_K[:, None]
    upper_KJ, lower_KJ = _between(upper_KJ, inside_KJ), _between(lower_KJ, inside_KJ)
    middle_K1 = (1 << TABLE_BITS) - (upper_KJ + lower_KJ).sum(1, keepdims=True)
    frequency_KS = np.concatenate([lower_KJ[:, ::-1], middle_K1, upper_KJ], 1)
    columns = np.tile(np.arange(2 * limit + 1, dtype=np.uint16), 2 * NUM_CLASSES)
    symbol_KT = np.repeat(columns, frequency_KS.reshape(-1)).reshape(2 * NUM_CLASSES, -1)
    frequency_KS = frequency_KS.astype(np.int32)
    return CodeTables(
        frequency_KS, frequency_KS.cumsum(1, dtype=np.int32) - frequency_KS, symbol_KT, limit_K.astype(np.int32)
    )


def _between(tail_KJ: np.ndarray, inside_KJ: np.ndarray) -> np.ndarray:
    """Return frequencies from tails (K, J + 1): differences of rounded neighbours, at least 1 inside the alphabet."""
    edge_KJ = (tail_KJ >> _TAIL_BITS - TABLE_BITS - 1) + 1 >> 1
    edge_KJ[:, :-1] *= inside_KJ
    return np.maximum(edge_KJ[:, :-1] - edge_KJ[:, 1:], inside_KJ)


def _tails(twice_J: np.ndarray) -> np.ndarray:
    """Return P(2x > edge) in units of 2^-_TAIL_BITS for the given edges, and 0, of classes of one union: (K, J + 1)."""
    tail = _gaussian_tail()
    # isqrt thrice: 2^(32 - k/8), the reciprocal scale; edges over it in units of the grid, 16 binary places.
    reciprocal_K = [isqrt(isqrt(isqrt(1 << 256 - MIN_CLASS - k))) for k in range(NUM_CLASSES)]
    place_KJ = np.array(reciprocal_K)[:, None] * twice_J >> 10
    place_KJ = np.minimum(place_KJ, len(tail) - 2 << 16)
    index_KJ = place_KJ >> 16
    left_KJ = tail[index_KJ]
    inner_KJ = left_KJ - ((left_KJ - tail[index_KJ + 1]) * (place_KJ & 0xFFFF) >> 16)
    return np.pad(inner_KJ, ((0, 0), (0, 1)))


def _gaussian_tail() -> np.ndarray:
    """Return the unit Gaussian's upper tail at multiples of h (h * h = 2^-14 nearly), in units of 2^-_TAIL_BITS."""
    shrink = (1 << 64) - (1 << 50)  # exp(-h * h) in units of 2^-64: this defines h
    ratio, density, densities = isqrt(shrink << 64), 1 << 62, []
    while density:
        densities.append(density)
        density, ratio = density * ratio >> 64, ratio * shrink >> 64
    sums = list(accumulate(reversed(densities)))[::-1]
    doubled = [2 * total - own for total, own in zip(sums, densities, strict=True)]  # trapezoids
    return np.array([(value << _TAIL_BITS - 1) // doubled[0] for value in doubled] + [0])
