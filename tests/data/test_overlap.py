"""Copies of val text among train text: found when shifted, cut, joined or spread over shards, as Python sets find."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import overlap
from pipeline.data.overlap import RUN_TOKENS, STRETCH_RUNS, Overlap, find_overlap, overlap_limit, run_digests
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


def overlap_of(folder: Path, val: list[np.ndarray], train: list[np.ndarray], cuts: tuple[int, ...] = ()) -> Overlap:
    """Return what two splits share when the train documents are cut into shards."""
    shards = write_split(folder, "train", np.concatenate(train), cuts)
    return find_overlap(write_split(folder, "val", np.concatenate(val)), shards, BOS)


def found(folder: Path, val: list[np.ndarray], train: list[np.ndarray], cuts: tuple[int, ...] = ()) -> tuple[int, int]:
    """Return how many documents recur, and of how many."""
    seen = overlap_of(folder, val, train, cuts)
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


def runs_of(document: list[int]) -> list[tuple[int, ...]]:
    text = document[1:]
    return [tuple(text[first : first + RUN_TOKENS]) for first in range(0, len(text) - RUN_TOKENS + 1, RUN_TOKENS)]


def recurring(val: list[np.ndarray], runs: set[tuple[int, ...]]) -> list[list[int]]:
    """Return by definition the documents of which more than half of the runs are among `runs`."""
    own = [(each.tolist(), runs_of(each.tolist())) for each in val]
    return [document for document, its in own if its and sum(run in runs for run in its) / len(its) > 0.5]


def copied(val: list[np.ndarray], runs: set[tuple[int, ...]]) -> list[int]:
    """Return by definition the tokens of copied text: of documents that recur, and of runs in a row."""
    whole, tokens = recurring(val, runs), list[int]()
    for document in (each.tolist() for each in val):
        for is_found, group in itertools.groupby(runs_of(document), runs.__contains__):
            row = list(group)
            if is_found and (document in whole or len(row) >= STRETCH_RUNS):
                tokens += [token for run in row for token in run]
    return tokens


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_what_sets_of_tuples_find(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of all lengths, a run's and those beside it too, half of them copied whole or in part, cut anywhere."""
    random = np.random.default_rng(seed)
    monkeypatch.setattr(overlap, "_PIECE_TOKENS", int(random.integers(20, 300)))
    lengths = [*random.integers(1, 200, 40).tolist(), *(10 * [RUN_TOKENS - 1, RUN_TOKENS, RUN_TOKENS + 1])]
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
    assert seen.copied_M.tolist() == copied(val, set.union(*runs_ending_in(shards)))
    assert seen.tokens == RUN_TOKENS * sum(len(runs_of(each.tolist())) for each in val)
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


def test_a_part_of_every_document_is_copied_text_though_none_recurs(tmp_path: Path, random) -> None:
    """Halves, shifted by a token; what is shorter than a stretch is a phrase or a notice."""
    val, num_tokens = documents(random, NUM_DOCUMENTS, length=140), STRETCH_RUNS * RUN_TOKENS
    halves = [np.concatenate([[BOS, 7], each[1:71]]) for each in val]
    seen = overlap_of(tmp_path, val, [*documents(random, NUM_DOCUMENTS), *halves])
    assert (len(seen.recurring), seen.tokens) == (0, NUM_DOCUMENTS * 2 * num_tokens)
    assert seen.copied_M.tolist() == [token for each in val for token in each[1 : num_tokens + 1].tolist()]
    notices = [each[:num_tokens] for each in val]
    assert len(overlap_of(tmp_path, val, [*documents(random, NUM_DOCUMENTS), *notices]).copied_M) == 0


LIMITS = {
    "nothing": (0, 0, 5, 0, True),
    "one document, of few": (1, 300, 20, 6000, True),
    "one document, which is much of the text": (1, 301, 20, 6000, False),
    "two documents of few": (2, 60, 1999, 600_000, False),
    "two documents of many": (2, 60, 2000, 600_000, True),
    "three documents of many": (3, 90, 2000, 600_000, False),
    "text of no document": (0, 30_001, 2000, 600_000, False),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_document_may_recur_and_a_little_text_may_be_copied(name: str) -> None:
    *counts, passes = LIMITS[name]
    summary = dict(zip(("recurring", "copied_tokens", "documents", "tokens"), counts, strict=True))
    assert (overlap_limit(summary) is None) == passes


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
