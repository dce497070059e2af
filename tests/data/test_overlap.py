"""Copies of val text among train text: found when shifted, cut, joined or spread over shards, as Python sets find."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data import overlap
from pipeline.data.overlap import RUN_TOKENS, find_overlap, run_digests
from pipeline.data.shards import write_shard

BOS, NUM_DOCUMENTS, LENGTH = 1, 20, 70


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def documents(random: np.random.Generator, count: int, num_ids: int = 58, length: int = LENGTH) -> list[np.ndarray]:
    return [np.concatenate([[BOS], 2 + random.integers(0, num_ids, length)]) for _ in range(count)]


def write_split(folder: Path, split: str, stream: np.ndarray, cuts: tuple[int, ...] = ()) -> list[Path]:
    """Write a stream as shards that end at `cuts`."""
    parts = np.split(stream, cuts)
    paths = [folder / f"{split}_{number}.bin" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        write_shard(path, part)
    return paths


def found(folder: Path, val: list[np.ndarray], train: list[np.ndarray], cuts: tuple[int, ...] = ()) -> tuple[int, int]:
    """Return how many documents recur, and of how many, when the train documents are cut into shards."""
    shards = write_split(folder, "train", np.concatenate(train), cuts)
    seen = find_overlap(write_split(folder, "val", np.concatenate(val)), shards, BOS)
    return len(seen.recurring), seen.documents


def runs_ending_in(shards: list[Path]) -> list[set[tuple[int, ...]]]:
    """Return all runs of a stream, by the shard that they end in."""
    parts = [np.fromfile(path, "<u2")[512:].tolist() for path in shards]
    stream, ends, first = [token for part in parts for token in part], [set() for _ in parts], 0
    for runs, part in zip(ends, parts, strict=True):
        for stop in range(max(first + 1, RUN_TOKENS), first + len(part) + 1):
            runs.add(tuple(stream[stop - RUN_TOKENS : stop]))
        first += len(part)
    return ends


def recurring(val: list[np.ndarray], runs: set[tuple[int, ...]]) -> list[list[int]]:
    """Return by definition the documents of which more than half of the runs are among `runs`."""
    kept = []
    for document in (each.tolist() for each in val):
        text = document[1:]
        own = [tuple(text[first : first + RUN_TOKENS]) for first in range(0, len(text) - RUN_TOKENS + 1, RUN_TOKENS)]
        if own and sum(run in runs for run in own) / len(own) > 0.5:
            kept.append(document)
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_what_sets_of_tuples_find(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of all lengths, a run's and those beside it too, half of them copied whole or in part, cut anywhere."""
    random = np.random.default_rng(seed)
    monkeypatch.setattr(overlap, "_PIECE_TOKENS", int(random.integers(20, 300)))
    lengths = [*random.integers(1, 150, 40).tolist(), *(10 * [RUN_TOKENS - 1, RUN_TOKENS, RUN_TOKENS + 1])]
    val = [documents(random, 1, 3, length)[0] for length in lengths]
    copies = [each[int(random.integers(0, 30)) : 30 + int(random.integers(0, 120))] for each in val[:40:2]]
    train = [*documents(random, 20, 3), *(copy for copy in copies if len(copy)), *val[40::2]]
    random.shuffle(train)
    stream = np.concatenate(train)
    cuts = tuple(sorted({3, 5, *random.integers(1, len(stream), 6).tolist()}))
    shards = write_split(tmp_path, "train", stream, cuts)
    seen = find_overlap(write_split(tmp_path, "val", np.concatenate(val), (7, 1000)), shards, BOS)
    by_shard = {path.name: len(recurring(val, runs)) for path, runs in zip(shards, runs_ending_in(shards), strict=True)}
    expected = recurring(val, set.union(*runs_ending_in(shards)))
    assert [each.tolist() for each in seen.recurring] == expected
    assert len(expected) > 10
    assert seen.documents == sum(len(each) > RUN_TOKENS for each in val)
    assert seen.by_shard == {name: count for name, count in by_shard.items() if count}


COPIES = {
    "as it is": lambda each: each,
    "without its BOS": lambda each: each[1:],
    "a token in front": lambda each: np.concatenate([each[:1], [7], each[1:]]),
    "its beginning gone": lambda each: each[15:],
    "its end gone": lambda each: each[:-20],
    "a token of it gone": lambda each: np.delete(each, 33),
    "inside another document": lambda each: np.concatenate([np.arange(2, 40), each[1:], np.arange(2, 40)]),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(tmp_path: Path, random: np.random.Generator, name: str) -> None:
    val, train = documents(random, NUM_DOCUMENTS), documents(random, NUM_DOCUMENTS)
    assert found(tmp_path, val, train) == (0, NUM_DOCUMENTS)
    assert found(tmp_path, val, [*train, *map(COPIES[name], val[:3])]) == (3, NUM_DOCUMENTS)


def test_shards_and_pieces_cut_nothing(tmp_path: Path, random: np.random.Generator, monkeypatch) -> None:
    val = documents(random, NUM_DOCUMENTS)
    monkeypatch.setattr(overlap, "_PIECE_TOKENS", 100)
    assert found(tmp_path, val, val, (5, 6, 40, 333, 700)) == (NUM_DOCUMENTS, NUM_DOCUMENTS)


def test_a_phrase_is_no_copy_and_short_documents_mean_nothing(tmp_path: Path, random: np.random.Generator) -> None:
    val, train = documents(random, NUM_DOCUMENTS), documents(random, NUM_DOCUMENTS)
    train[0][10:40] = val[0][10:40]
    assert found(tmp_path, [*val, val[0][:9]], [*train, val[0][:9]]) == (0, NUM_DOCUMENTS)
    assert found(tmp_path, [val[0][:9]], train) == (0, 0)


def test_equal_digests_are_no_copies(tmp_path: Path, random: np.random.Generator, monkeypatch) -> None:
    """Whatever the hash says, tokens decide."""
    val, train = documents(random, NUM_DOCUMENTS), documents(random, NUM_DOCUMENTS)
    digests = run_digests(train[0])
    monkeypatch.setattr(overlap, "run_digests", lambda tokens_M: run_digests(tokens_M) * np.uint64(0) + digests[0])
    assert found(tmp_path, val, train) == (0, NUM_DOCUMENTS)


def test_digests_are_of_runs_wherever_they_stand(random: np.random.Generator) -> None:
    tokens = random.integers(0, 9, 4000)
    digests = run_digests(tokens)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, RUN_TOKENS)
    assert len(digests) == len(runs)
    assert len(np.unique(digests)) == len(np.unique(runs, axis=0))
    np.testing.assert_array_equal(run_digests(tokens[100:200]), digests[100 : 200 - RUN_TOKENS + 1])
    np.testing.assert_array_equal(run_digests(runs)[:, 0], digests)
