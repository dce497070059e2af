"""The search for val text in made-up shards: it finds what was planted, at any size."""

from benchmarks.overlap import SCALES, measure


def test_all_that_was_planted_is_found_and_nothing_else():
    measured = measure(SCALES["small"])
    assert measured["recurring"] == SCALES["small"].planted
    assert measured["train_tokens"] == 60_000
