"""Coder parameters: what a reader must know before the integers of a vector, a matrix and a quantized tensor.

In an artifact they are 16-bit words, in the order of the fields.

Checked by: tests/codec/test_container.py, tests/codec/test_integers.py.
"""

from typing import NamedTuple

import numpy as np


class VectorCoder(NamedTuple):
    """Integers of one class, coded by how far they are from `offset`."""

    offset: int = 0
    row: int = 0
    """Of the tables: their class."""


class MatrixCoder(NamedTuple):
    """The vectors of a matrix, and its integers."""

    bits: int = 0
    """Of magnitudes; 0 for all zeros, of which nothing is coded."""
    loads: VectorCoder = VectorCoder()
    profile: VectorCoder = VectorCoder()
    rows: VectorCoder = VectorCoder()
    columns: VectorCoder = VectorCoder()
    least: int = 0
    """Index of rows on paths."""


class TensorCoder(NamedTuple):
    """The codes of a quantized tensor, and its steps where they are coded."""

    matrix: MatrixCoder
    row_steps: VectorCoder
    column_steps: VectorCoder
    states: int


_VECTOR = np.dtype([("offset", "<i2"), ("row", "<i2")])
_VECTORS = [(name, _VECTOR) for name in ("loads", "profile", "rows", "columns")]
_MATRIX = np.dtype([("bits", "<i2"), *_VECTORS, ("least", "<i2")])
_TENSOR = np.dtype([("matrix", _MATRIX), ("row_steps", _VECTOR), ("column_steps", _VECTOR), ("states", "<i2")])
NUM_WORDS = _TENSOR.itemsize // 2


def coders_to_words(coders: list[TensorCoder]) -> np.ndarray:
    """Return the 16-bit words of coder parameters, NUM_WORDS each."""
    return np.array(coders, _TENSOR).view("<u2")


def coders_of_words(words: np.ndarray) -> list[TensorCoder]:
    """Invert `coders_to_words`."""
    return [TensorCoder(MatrixCoder(*matrix), *rest) for matrix, *rest in words.view(_TENSOR).tolist()]
