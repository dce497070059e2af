"""A stream of four short documents of random tokens, three bytes each, to score in a moment."""

import numpy as np

from benchmarks.quantization.data import ScoredStream, scored_stream
from pipeline.data.byte_count import ByteTable


def tiny_stream(vocabulary: int, context_tokens: int) -> ScoredStream:
    """Return the stream; ids 0 to 2 are boundaries without bytes, 1 opens each document."""
    generator = np.random.default_rng(3)
    documents = [np.concatenate([[1], generator.integers(3, vocabulary, length)]) for length in (60, 90, 40, 75)]
    table = ByteTable(np.full(vocabulary, 3, np.int16), np.zeros(vocabulary, bool), np.arange(vocabulary) < 3)
    table.base_V[:3] = 0
    return scored_stream(documents, table, context_tokens)
