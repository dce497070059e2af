"""The static tables: sound in every class, close to the Gaussian they stand for, and the same on every machine."""

import hashlib

import numpy as np
import pytest
from scipy.special import ndtr

from pipeline.codec.tables import MAX_MAGNITUDE_BITS, MIN_CLASS, NUM_CLASSES, TABLE_BITS, code_tables

_ALL_BITS = range(MAX_MAGNITUDE_BITS + 1)


@pytest.mark.parametrize("bits", _ALL_BITS)
def test_every_class_has_sound_frequencies(bits):
    tables = code_tables(bits)
    frequency_KS, limit = tables.frequency_KS, (1 << bits) - 1
    assert frequency_KS.shape == (2 * NUM_CLASSES, 2 * limit + 1)
    assert (frequency_KS.sum(1) == 1 << TABLE_BITS).all()
    assert (frequency_KS[:NUM_CLASSES] == frequency_KS[:NUM_CLASSES, ::-1]).all()
    magnitude_S = np.abs(np.arange(-limit, limit + 1))
    assert ((frequency_KS > 0) == (magnitude_S <= tables.limit_K[:, None])).all()
    assert (np.diff(tables.limit_K.reshape(2, -1)) >= 0).all()
    slots_T = np.arange(1 << TABLE_BITS)
    for row in range(0, 2 * NUM_CLASSES, 9):
        first, column = tables.start_KS[row], tables.symbol_KT[row]
        assert (first[column] <= slots_T).all()
        assert (slots_T < first[column] + frequency_KS[row, column]).all()
    even_S = 2 * np.arange(-limit, limit + 1)
    moment_K = frequency_KS[:NUM_CLASSES] @ even_S**2
    assert (np.diff(moment_K) >= 0).all()
    assert (
        np.diff(moment_K + frequency_KS[NUM_CLASSES:] @ (even_S + 1) ** 2) >= 0
    ).all()  # the fit of the classes interpolates in it


@pytest.mark.parametrize("union", [0, 1])
def test_tables_are_discretised_gaussians(union):
    tables = code_tables(MAX_MAGNITUDE_BITS)
    limit = (1 << MAX_MAGNITUDE_BITS) - 1
    for row in range(0, NUM_CLASSES, 5):
        edges = (np.arange(-limit, limit + 2) - (1 - union) / 2) / 2 ** ((MIN_CLASS + row) / 8)
        row += union * NUM_CLASSES
        edges[[0, -1]] = -np.inf, np.inf
        expected_S = np.diff(ndtr(edges)) * 2**TABLE_BITS
        inside_S = tables.frequency_KS[row] > 1
        # Rounding of both edges of a bin, and at the middle what the rarest symbols were rounded up by.
        error_S = np.abs(tables.frequency_KS[row] - expected_S)[inside_S]
        assert np.delete(error_S, len(error_S) // 2).max(initial=0) < 1.6
        assert error_S[len(error_S) // 2] < 2 * (limit + 1)
        own = np.sum(expected_S * np.log2(np.maximum(expected_S, 1e-30))) / 2**TABLE_BITS
        used = np.sum(expected_S * np.log2(np.maximum(tables.frequency_KS[row], 2.0**-10))) / 2**TABLE_BITS
        assert own - used < 0.004  # bits per integer, of 7: what the rarest symbols were rounded up by


def test_tables_are_the_same_everywhere():
    digests = [hashlib.sha256(), hashlib.sha256()]
    for bits in _ALL_BITS:
        for digest, frequency_KS in zip(
            digests, np.split(code_tables(bits).frequency_KS.astype("<i4"), 2), strict=True
        ):
            digest.update(frequency_KS.tobytes())
    assert [digest.hexdigest() for digest in digests] == [
        "aef9d7211c2c83f1377c1621f87d1c0e6a910a4fe235cede97d4c3f9c26edef6",
        "2c866071df58152dddf63d54edb43ba74e6b27e1fdbed17aa76220daa02dbb37",
    ]
