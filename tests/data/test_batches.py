"""The sampler is a pure function of the step, the same for any number of ranks, and covers every sequence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import SequenceSampler, calibration_sequences


def numbered_shards(*lengths: int) -> list[np.ndarray]:
    """Return shards whose tokens number the whole stream, so that a sequence shows where it came from."""
    stops = np.cumsum(lengths)
    return [np.arange(stop - length, stop).astype(np.uint16) for stop, length in zip(stops, lengths, strict=True)]


def test_pure_function_of_its_arguments():
    shards = numbered_shards(1000, 37, 400)
    forwards, backwards = SequenceSampler(shards, 10, 3), SequenceSampler(shards, 10, 3)
    steps = range(60)
    seen = {step: forwards.batch(step, 8, 0, 1) for step in steps}
    for step in reversed(steps):
        assert torch.equal(seen[step], backwards.batch(step, 8, 0, 1))
    assert seen[0].dtype == torch.int64
    assert seen[0].shape == (8, 11)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_take_contiguous_slices_of_the_same_global_batch(world_size):
    sampler = SequenceSampler(numbered_shards(1000, 400), 10, 3)
    for step in (0, 5, 16, 17):
        shares = [sampler.batch(step, 8, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat(shares), sampler.batch(step, 8, 0, 1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 5))
def test_every_sequence_once_per_epoch_and_never_across_shards(lengths, sequence_tokens, batch_sequences):
    shards = numbered_shards(*lengths)
    expected = {
        tuple(shard[start : start + sequence_tokens + 1].tolist())
        for shard in shards
        for start in range(0, len(shard) - sequence_tokens, sequence_tokens)
    }
    if not expected:
        with pytest.raises(ValueError, match="no shard holds a sequence"):
            SequenceSampler(shards, sequence_tokens, 0)
        return
    sampler = SequenceSampler(shards, sequence_tokens, 0)
    steps = -(-2 * len(expected) // batch_sequences)  # two epochs, batches straddling their border
    batches = torch.cat([sampler.batch(step, batch_sequences, 0, 1) for step in range(steps)])
    rows = [tuple(row) for row in batches.tolist()]
    for epoch in range(2):
        epoch_rows = rows[epoch * len(expected) : (epoch + 1) * len(expected)]
        assert len(epoch_rows) == len(expected)
        assert set(epoch_rows) == expected


def test_epochs_and_seeds_permute_differently():
    shards = numbered_shards(1001)
    orders = [
        SequenceSampler(shards, 10, seed).batch(step, 100, 0, 1)[:, 0].tolist() for seed in (0, 1) for step in (0, 1)
    ]
    assert all(sorted(order) == list(range(0, 1000, 10)) for order in orders)
    assert len({tuple(order) for order in [*orders, sorted(orders[0])]}) == 5


def test_bad_arguments_name_themselves():
    sampler = SequenceSampler(numbered_shards(100), 10, 0)
    with pytest.raises(ValueError, match=r"batch_sequences: got 5, expected a positive multiple .* \(2\)"):
        sampler.batch(0, 5, 0, 2)
    with pytest.raises(ValueError, match="rank: got 2"):
        sampler.batch(0, 4, 2, 2)
    with pytest.raises(ValueError, match=r"longest: 10 tokens\); add text or lower model.context_tokens"):
        SequenceSampler(numbered_shards(10, 3), 10, 0)


def test_calibration_sequences_are_disjoint_and_evenly_spread():
    shards = numbered_shards(1003, 507, 9)
    ids = calibration_sequences(shards, 10, 30)
    assert ids.shape == (30, 10)
    assert ids.dtype == torch.int64
    starts = ids[:, 0]
    assert torch.equal(ids, starts[:, None] + torch.arange(10))
    assert len(set(ids.flatten().tolist())) == 300
    assert set(starts.diff().tolist()) <= {50, 53}  # the step across the shards' border skips its remainder
    assert abs(float(starts.float().mean()) - 750) < 25
    assert torch.equal(ids, calibration_sequences(shards, 10, 30))


def test_calibration_asks_for_no_more_than_there_is():
    shards = numbered_shards(100, 55)
    assert calibration_sequences(shards, 10, 15).shape == (15, 10)
    with pytest.raises(ValueError, match="num_sequences: got 16, expected 1 to 15"):
        calibration_sequences(shards, 10, 16)
