"""The sampler is a pure function of the step, the same for any number of ranks, and covers every sequence."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import BatchStream, SequenceSampler, calibration_sequences


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


@settings(max_examples=30)
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
    with pytest.raises(ValueError, match=r"longest: 10 tokens\); add text or shorten sequences: model"):
        SequenceSampler(numbered_shards(10, 3), 10, 0)


BOS = 1
documents_of_shards = st.lists(st.lists(st.integers(2, 12), min_size=1, max_size=8), min_size=1, max_size=3)


def numbered_documents(documents: list[list[int]], cut: int) -> list[np.ndarray]:
    """Return shards numbered from 10 on but for BOS at each document's start; each lacks its first `cut` tokens."""
    shards, first = [], 10
    for lengths in documents:
        tokens = np.arange(first, first + sum(lengths)).astype(np.uint16)
        tokens[np.cumsum([0, *lengths[:-1]])] = BOS
        shards.append(tokens[cut:])
        first += sum(lengths)
    return shards


def epoch_rows(sampler: SequenceSampler, epoch: int) -> np.ndarray:
    return sampler.batch(epoch, sampler.num_sequences, 0, 1).numpy()


def place_of(row: np.ndarray, shards: list[np.ndarray]) -> tuple[int, int]:
    """Return the shard and the position that a row was read from, found by its numbered tokens."""
    offset = int(np.flatnonzero(row != BOS)[0])  # no document is BOS alone
    for index, shard in enumerate(shards):
        found = np.flatnonzero(shard == row[offset])
        if len(found):
            start = int(found[0]) - offset
            assert shard[start : start + len(row)].tolist() == row.tolist()
            return index, start
    raise AssertionError("a row holds a token of no shard")


def expected_places(shards: list[np.ndarray], sequence_tokens: int, shift: int) -> list[tuple[int, int]]:
    """Return the places of an epoch whose grid is shifted, token by token."""
    places = []
    for index, shard in enumerate(shards):
        starts = range(len(shard) - sequence_tokens)
        for sequence in range((len(shard) - 1) // sequence_tokens):
            point = min(sequence * sequence_tokens + shift, starts[-1])
            span = [start for start in starts if point <= start < point + sequence_tokens]
            first = [start for start in span if shard[start] == BOS or start == 0]
            places.append((index, first[0] if first else point))
    return places


@settings(max_examples=60)
@given(documents_of_shards, st.integers(1, 6), st.integers(0, 1), st.integers(0, 3))
def test_document_aware_sequences_start_at_the_first_document_start_in_reach(documents, sequence_tokens, cut, seed):
    """Every epoch is, for some shift of the grid, what a slow oracle gives; and every token is read in some epoch."""
    shards = numbered_documents(documents, cut)
    if not any(len(shard) > sequence_tokens for shard in shards):
        return
    sampler = SequenceSampler(shards, sequence_tokens, seed, bos_id=BOS)
    allowed = [sorted(expected_places(shards, sequence_tokens, shift)) for shift in range(sequence_tokens)]
    read = [np.zeros(len(shard), bool) for shard in shards]
    for epoch in range(150):  # a given shift is missing from all of them once in 10^12 examples
        rows = epoch_rows(sampler, epoch)
        places = sorted(place_of(row, shards) for row in rows)
        assert places in allowed
        for index, start in places:
            read[index][start : start + sequence_tokens + 1] = True
        if all(mask.all() for mask in read):
            break
    assert all(mask.all() for mask in read if len(mask) > sequence_tokens)


def test_document_aware_batches_are_pure_and_shared_by_ranks():
    documents = [[3, 9, 4, 12, 2, 7] * 8, [5, 5, 11] * 10]
    shards = numbered_documents(documents, 0)
    one, other = (SequenceSampler(shards, 6, 3, bos_id=BOS) for _ in range(2))
    for step in (9, 0, 25, 4):
        whole = one.batch(step, 8, 0, 1)
        assert torch.equal(torch.cat([other.batch(step, 8, rank, 4) for rank in range(4)]), whole)
        assert whole.shape == (8, 7)
    plain = SequenceSampler(shards, 6, 3)
    assert one.num_sequences == plain.num_sequences
    aware_starts, plain_starts = ((epoch_rows(sampler, 0)[:, 0] == BOS).mean() for sampler in (one, plain))
    assert aware_starts > 0.6 > 0.3 > plain_starts


def test_stream_gives_the_samplers_batches_from_any_step():
    shards = numbered_shards(1000, 400)
    sampler = SequenceSampler(shards, 10, 3)
    for first_step, rank, world_size in itertools.product((0, 33), (0, 1), (2,)):
        stream = BatchStream(SequenceSampler(shards, 10, 3), first_step, 8, rank, world_size, torch.device("cpu"))
        batches = [stream.next() for _ in range(40)]
        for step, batch_BT in enumerate(batches, start=first_step):  # kept batches are not overwritten
            assert torch.equal(batch_BT, sampler.batch(step, 8, rank, world_size))


class Watched(np.ndarray):
    """Tokens that note the thread of each reading."""

    readers: list[threading.Thread] = []  # noqa: RUF012

    def __getitem__(self, key):
        Watched.readers.append(threading.current_thread())
        return super().__getitem__(key)


def test_stream_gathers_ahead_in_a_thread_that_ends_with_it():
    (shard,) = numbered_shards(1000)
    Watched.readers.clear()
    stream = BatchStream(SequenceSampler([shard.view(Watched)], 10, 3), 0, 4, 0, 1, torch.device("cpu"))
    stream.next()
    deadline = time.monotonic() + 10
    while len(Watched.readers) < 8 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(Watched.readers) == 8  # the batch that was asked for and the next one, no further
    (thread,) = set(Watched.readers)
    assert thread is not threading.current_thread()
    assert thread.is_alive()
    del stream
    thread.join(10)
    assert not thread.is_alive()


def test_an_error_of_the_thread_is_the_callers():
    sampler = SequenceSampler(numbered_shards(1000), 10, 3)
    sampler.shards[0] = sampler.shards[0][:3]
    stream = BatchStream(sampler, 0, 4, 0, 1, torch.device("cpu"))
    for _ in range(2):  # it stays an error
        with pytest.raises(ValueError, match="broadcast"):
            stream.next()
    with pytest.raises(ValueError, match="batch_sequences: got 5"):
        BatchStream(sampler, 0, 5, 0, 2, torch.device("cpu")).next()


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
