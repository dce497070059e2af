"""Copies of val text among train text: found when they are shifted, cut, joined or spread over shards."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.audit import split_checks
from pipeline.audit.split_checks import RUN_TOKENS, recurring_documents, run_digests
from pipeline.data.shards import write_shard

BOS, NUM_DOCUMENTS, LENGTH = 1, 20, 70


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def documents(random: np.random.Generator, count: int) -> list[np.ndarray]:
    return [np.concatenate([[BOS], random.integers(2, 60, LENGTH)]) for _ in range(count)]


def found(folder: Path, val: list[np.ndarray], train: list[np.ndarray], cuts: tuple[int, ...] = ()) -> tuple[int, int]:
    """Return what is found when the train documents are cut into shards."""
    write_shard(folder / "val.bin", np.concatenate(val))
    parts = np.split(np.concatenate(train), cuts)
    paths = [folder / f"train_{number}.bin" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        write_shard(path, part)
    return recurring_documents([folder / "val.bin"], paths, BOS)


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
    monkeypatch.setattr(split_checks, "_PIECE_TOKENS", 100)
    assert found(tmp_path, val, val, (5, 6, 40, 333, 700)) == (NUM_DOCUMENTS, NUM_DOCUMENTS)


def test_a_phrase_is_no_copy_and_short_documents_mean_nothing(tmp_path: Path, random: np.random.Generator) -> None:
    val, train = documents(random, NUM_DOCUMENTS), documents(random, NUM_DOCUMENTS)
    train[0][10:40] = val[0][10:40]
    assert found(tmp_path, [*val, val[0][:9]], [*train, val[0][:9]]) == (0, NUM_DOCUMENTS)
    with pytest.raises(ValueError, match="documents of at least"):
        found(tmp_path, [val[0][:9]], train)


def test_digests_are_of_runs_wherever_they_stand(random: np.random.Generator) -> None:
    tokens = random.integers(0, 9, 4000)
    digests = run_digests(tokens)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, RUN_TOKENS)
    assert len(digests) == len(runs)
    assert len(np.unique(digests)) == len(np.unique(runs, axis=0))
    np.testing.assert_array_equal(run_digests(tokens[100:200]), digests[100 : 200 - RUN_TOKENS + 1])
