"""Counts from sorts against a loop that keeps books while the stream goes by."""

from collections import Counter, defaultdict

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mixture.counts import context_counts

BOS = 1


def counts_by_loop(tokens: list[int], order: int, empties: int) -> dict[int, tuple[int, ...]]:
    """Return (total, once, twice, often, seen) of every target that has a context of an order."""
    found, start = {}, 0
    followed: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for target, token in enumerate(tokens[1:]):
        if tokens[target] == empties:
            start, followed = target, defaultdict(Counter)
        if target + 1 - order < start:
            continue
        so_far = followed[tuple(tokens[target + 1 - order : target + 1])]
        times = list(so_far.values())
        kinds = times.count(1), times.count(2), sum(each > 2 for each in times)
        found[target] = (sum(times), *kinds, so_far[token])
        so_far[token] += 1
        so_far += Counter()  # looking up a token that never came leaves no trace
    return found


@given(st.lists(st.integers(0, 4), min_size=2, max_size=120), st.integers(1, 6), st.sampled_from([BOS, -1]))
def test_counts_are_those_of_a_loop(tokens: list[int], longest: int, empties: int) -> None:
    every = list(context_counts(torch.tensor(tokens), longest, empties))
    assert len(every) == longest
    for order, counts in enumerate(every, start=1):
        rows = torch.stack(counts[1:]).T.tolist()
        found = dict(zip(counts.target.tolist(), map(tuple, rows), strict=True))
        assert found == counts_by_loop(tokens, order, empties)


def test_contexts_are_never_taken_for_another() -> None:
    """Ids near the end of the vocabulary and long contexts, where a key of too few bits would wrap around."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(65535 - 40, 65535, (4000,), generator=random)
    for order, counts in enumerate(context_counts(tokens, 8, -1), start=1):
        expected = counts_by_loop(tokens.tolist(), order, -1)
        assert dict(zip(counts.target.tolist(), counts.seen.tolist(), strict=True)) == {
            target: row[-1] for target, row in expected.items()
        }
