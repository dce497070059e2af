"""How fast val text is looked for among train shards, in how much memory, and that what was planted is found.

Run `python -m benchmarks.overlap`: a gigabyte of made-up shards in a temporary folder, which is removed, and a val
split of the challenge's size. Ids are uniform, so that no run of tokens repeats by chance. Planted documents of val,
whole, and cut by the ends of shards, must be all that is found. Processor seconds are of all threads together, tokens
per second those of one: what all shards take more than the first; the rest is what val itself takes. Memory is what
Python and numpy held at most, the mapped shards not counted.

Axes: M tokens of a stream.
Checked by: tests/benchmarks/test_overlap.py
"""

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.results import ROOT, write_result
from pipeline.data.overlap import RUN_TOKENS, find_overlap
from pipeline.data.shards import write_shard
from pipeline.reports.training import hardware_name

_BOS_ID = 1
_VOCABULARY = 8192
_CHALLENGE_TOKENS = 8_000_000_058
"""Of the train shards of a published export."""


class Scale(NamedTuple):
    """How much is made up."""

    shards: int
    shard_tokens: int
    val_documents: int
    val_tokens: int
    """As the challenge's val split, about."""
    planted: int


SCALES = {"full": Scale(5, 100_000_000, 50_000, 47_853_344, 40), "small": Scale(3, 20_000, 40, 4_000, 4)}


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SCALES, default="full", help="small proves that it runs, and records nothing")
    size = parser.parse_args().size
    measured = measure(SCALES[size])
    for name, value in measured.items():
        print(f"{name:28} {value}")
    if size == "full":
        print(write_result("overlap", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def measure(scale: Scale) -> dict[str, Any]:
    """Return seconds, memory and projection of a search in made-up shards that found what was planted."""
    with tempfile.TemporaryDirectory(prefix="fairway-overlap-") as folder:
        val, train, planted = _write_shards(Path(folder), scale)
        one, all_of_them = _search(val, train[:1]), _search(val, train)
        if all_of_them["recurring"] != planted:
            raise SystemExit(f"recurring documents: got {all_of_them['recurring']}, expected {planted}, as planted")
    tokens = scale.shards * scale.shard_tokens
    per_token = (all_of_them["seconds"] - one["seconds"]) / (tokens - scale.shard_tokens)
    val_seconds = max(0.0, one["seconds"] - scale.shard_tokens * per_token)
    return {
        "train_tokens": tokens,
        "val_tokens": scale.val_tokens,
        "recurring": planted,
        "by_shard": all_of_them["by_shard"],
        "processor_seconds": all_of_them["seconds"],
        "wall_seconds": all_of_them["wall_seconds"],
        "val_seconds": val_seconds,
        "train_tokens_per_second": 1 / per_token,
        "peak_mib": all_of_them["peak_mib"],
        "challenge_tokens": _CHALLENGE_TOKENS,
        "challenge_processor_seconds": val_seconds + _CHALLENGE_TOKENS * per_token,
    }


def _write_shards(folder: Path, scale: Scale) -> tuple[list[Path], list[Path], int]:
    """Write both splits, with documents of val at the ends and in the middle of train shards; return what they hold."""
    random = np.random.default_rng(0)
    val_M = _documents(random, scale.val_tokens, scale.val_documents)
    val, train = folder / "val.bin", [folder / f"train_{number:06d}.bin" for number in range(scale.shards)]
    write_shard(val, val_M)
    starts = np.append(np.flatnonzero(val_M == _BOS_ID), len(val_M))
    long_enough = np.flatnonzero(np.diff(starts) > RUN_TOKENS)
    chosen = long_enough[:: max(1, len(long_enough) // scale.planted)][: scale.planted]
    copies = np.array_split(chosen, 2 * scale.shards)
    after_M = np.empty(0, np.uint16)
    for number, path in enumerate(train):
        tokens_M = _documents(random, scale.shard_tokens, scale.shard_tokens // 1000)
        tokens_M[: len(after_M)] = after_M
        middle, end = (
            np.concatenate([np.empty(0, np.uint16), *(val_M[starts[each] : starts[each + 1]] for each in part)])
            for part in copies[2 * number : 2 * number + 2]
        )
        place = scale.shard_tokens // 2
        tokens_M[place : place + len(middle)] = middle
        cut = len(end) // 2 if number + 1 < scale.shards else len(end)
        tokens_M[len(tokens_M) - cut :] = end[:cut]
        after_M = end[cut:]
        write_shard(path, tokens_M)
    return [val], train, len(chosen)


def _documents(random: np.random.Generator, num_tokens: int, num_documents: int) -> np.ndarray:
    """Return uint16 ids (M,), uniform, with a BOS at the front and in as many other places as documents need."""
    tokens_M = random.integers(_BOS_ID + 1, _VOCABULARY, num_tokens, dtype=np.uint16)
    tokens_M[random.choice(num_tokens, num_documents, shuffle=False)] = _BOS_ID
    tokens_M[0] = _BOS_ID
    return tokens_M


def _search(val: list[Path], train: list[Path]) -> dict[str, Any]:
    """Return what a search finds, its processor and wall seconds, and the most memory that it held."""
    tracemalloc.start()
    wall, started = time.perf_counter(), time.process_time()
    found = find_overlap(val, train, _BOS_ID)
    seconds, wall_seconds = time.process_time() - started, time.perf_counter() - wall
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "recurring": len(found.recurring),
        "by_shard": found.by_shard,
        "seconds": seconds,
        "wall_seconds": wall_seconds,
        "peak_mib": peak / (1 << 20),
    }


if __name__ == "__main__":
    main()
