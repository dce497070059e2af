"""A range coder over static tables: interleaved rANS, one numpy operation per step for all lanes.

The one idea: L independent coder states take turns, integer i of a run going to lane i mod L, and share one stream of
16-bit words; the decoder visits integers in the encoder's order reversed, so a step over L integers is a few vector
operations. A state is below 2^32 and, between steps, never below 2^16; lanes start at 2^16 when encoding and must be
back there when all is decoded, which after damage they are not.

Axes: L lanes, N integers of a run.
Source: Duda, arXiv 1311.2540; interleaving: Giesen, arXiv 1402.3392.
Checked by: tests/codec/test_range_coder.py (against the `constriction` package).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.base.checks import require
from pipeline.codec.tables import TABLE_BITS, CodeTables

_LOW = 1 << 16
_SLOT_MASK = (1 << TABLE_BITS) - 1
_MAX_LANE_BITS = 11


def num_lanes(num_integers: int) -> int:
    """Return the lane count for a file: about sqrt(N) / 8 while N is small, then N / 2^14, up to a limit.

    A lane costs 3 bytes, so this is well below one part in a thousand of any file worth coding.
    """
    bits = num_integers.bit_length()
    return 1 << min(max(bits - 14, bits // 2 - 3, 0), _MAX_LANE_BITS)


class Run(NamedTuple):
    """Integers to be coded one after the other, each by its place in a table."""

    start_N: np.ndarray
    """uint16: first slot of its symbol."""
    frequency_N: np.ndarray
    """uint16."""


def encode_runs(runs: Sequence[Run], lanes: int) -> bytes:
    """Return states and words of runs; each begins at the first lane."""
    state_L = np.full(lanes, _LOW, np.int64)
    words: list[np.ndarray] = []
    for start_N, frequency_N in reversed(runs):
        for at in reversed(range(0, len(start_N), lanes)):
            frequency = frequency_N[at : at + lanes]
            state = state_L[: len(frequency)]
            full = state >> 32 - TABLE_BITS >= frequency
            words.append(state[full].astype("<u2"))
            state >>= full * 16
            quotient = state // frequency
            state += quotient * ((1 << TABLE_BITS) - frequency) + start_N[at : at + lanes]
    return b"".join([state_L.astype("<u4").tobytes(), *(chunk.tobytes() for chunk in reversed(words))])


class RunDecoder:
    """Reads back, run by run, what `encode_runs` wrote; raises ValueError for a stream that does not fit."""

    def __init__(self, stream: bytes | memoryview, lanes: int) -> None:
        """Read the lane states."""
        require(len(stream) >= 4 * lanes, "section codes: bytes", len(stream), f"{lanes} coder states")
        require(len(stream) % 2 == 0, "section codes: bytes", len(stream), "whole words")
        self._state_L = np.frombuffer(stream, "<u4", lanes).astype(np.int64)
        self._words = np.frombuffer(stream, "<u2", offset=4 * lanes)
        self._place = 0
        require(self._state_L.min() >= _LOW, "section codes: coder state", self._state_L.min(), f"{_LOW} or more")

    def take(self, tables: CodeTables, class_N: np.ndarray) -> np.ndarray:
        """Return the symbols' columns (uint16) of the next run, whose table rows are `class_N`."""
        width = tables.frequency_KS.shape[1]
        frequency, start = tables.frequency_KS.reshape(-1), tables.start_KS.reshape(-1)
        symbol = tables.symbol_KT.reshape(-1)
        symbol_N = np.empty(len(class_N), np.uint16)
        lanes = len(self._state_L)
        for at in range(0, len(class_N), lanes):
            row = class_N[at : at + lanes].astype(np.int64)
            state = self._state_L[: len(row)]
            slot = state & _SLOT_MASK
            column = symbol.take((row << TABLE_BITS) + slot)
            cell = row * width + column
            state >>= TABLE_BITS
            state *= frequency.take(cell)
            state += slot - start.take(cell)
            self._refill(state)
            symbol_N[at : at + lanes] = column
        return symbol_N

    def _refill(self, state: np.ndarray) -> None:
        low = np.flatnonzero(state < _LOW)
        words = self._words[self._place : self._place + len(low)]
        require(len(words) == len(low), "section codes: words left", len(words), f"{len(low)} or more")
        state[low] = state[low] << 16 | words
        self._place += len(low)

    def check_lanes(self) -> None:
        """Raise ValueError unless every word was read and every lane is back where encoding began."""
        require(self._place == len(self._words), "section codes: words left", len(self._words) - self._place, "0")
        lost = np.count_nonzero(self._state_L != _LOW)
        require(not lost, "section codes: lanes", lost, "0 that end elsewhere than they began")
