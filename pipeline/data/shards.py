"""Token shards in the challenge's binary format, written atomically and checked when opened.

A shard is a little-endian header of int32 words (magic, version, token count, the rest zero) followed by the tokens as
little-endian uint16. The one idea: a shard is checked once, when it is opened (magic, version, exact length, largest
id), so that everything behind it may index without looking. A document may continue in the next shard: a split is the
concatenation of its shards in the order of their names.

Source: the shard format of the Parameter Golf challenge (modded-nanogpt's `fineweb.py`).
Differs: a file longer than its header says is refused, too.
Checked by: tests/data/test_shards.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.base.checks import FairwayError, require
from pipeline.base.files import atomic_path

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
SHARD_HEADER_WORDS = 256
_TOO_LONG = 4096  # characters; no system opens such a path
_SHARD_REMEDY = "run `dvc repro -f prepare` or fetch the file anew"


class ShardError(FairwayError):
    """A shard is missing, damaged or does not fit the vocabulary."""


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write 1-D integer `tokens` as one shard, atomically; ValueError when they are empty or exceed 16 bits."""
    require(tokens.ndim == 1 and tokens.size > 0, "tokens", tokens.shape, "a 1-D array of at least one token")
    require(
        int(tokens.min()) >= 0 and int(tokens.max()) < 2**16,
        "tokens",
        (int(tokens.min()), int(tokens.max())),
        "ids of 16 bits",
    )
    header = np.zeros(SHARD_HEADER_WORDS, "<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, tokens.size
    with atomic_path(path) as partial, open(partial, "wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2").tobytes())


def open_shard(path: Path, vocab_size: int, *, check_ids: bool = True) -> np.ndarray:
    """Map a shard read-only as uint16 (M,); ShardError when it is missing, damaged or holds an id >= vocab_size.

    `check_ids=False` skips the ids, whose check reads the whole file: for ranks beside one that does check.
    """
    num_tokens = _checked_token_count(path)
    tokens_M = np.memmap(path, dtype="<u2", mode="r", offset=4 * SHARD_HEADER_WORDS, shape=(num_tokens,))
    largest = int(tokens_M.max()) if check_ids else 0
    if largest >= vocab_size:
        raise ShardError(
            f"{path}: token id {largest} lies beyond the vocabulary of {vocab_size}; set model.vocab_size and "
            "data.vocab_size to the tokenizer's, or run `dvc repro -f prepare` for shards of this tokenizer"
        )
    return tokens_M


def open_shards(paths: Sequence[Path], vocab_size: int, *, check_ids: bool = True) -> list[np.ndarray]:
    """Open every shard of a split as `open_shard` does; ShardError when there is none or one is bad."""
    if not paths:
        raise ShardError("no shards given; run `dvc repro -f prepare` or correct the data folder")
    return [open_shard(path, vocab_size, check_ids=check_ids) for path in paths]


def shard_paths(directory: Path, split: Literal["train", "val"]) -> list[Path]:
    """Return the split's shards in `directory` and one level below, sorted; ShardError when there is none.

    A file `<split>_shards.txt` beside or instead of them names shards kept elsewhere, a path per line, relative to it.
    """

    def named(pattern: str) -> list[Path]:
        return sorted([*directory.glob(pattern), *directory.glob(f"*/{pattern}")])

    pattern = f"*{split}_*.bin"
    paths = [path for path in named(pattern) if f"{split}_bytes_" not in path.name]  # case-ops exports: no tokens
    for listing in named(f"{split}_shards.txt"):
        lines = listing.read_text("utf-8", "replace").splitlines()
        if any({*line} & {"\0", "\ufffd"} or not 0 < len(line) < _TOO_LONG for line in lines):
            raise ShardError(f"{listing}: not a list of shards, a path per line; {_SHARD_REMEDY}")
        paths += [listing.parent / line for line in lines]
    if not paths:
        raise ShardError(
            f"{directory}: no {split} shards ({pattern}); run `dvc repro -f prepare` or correct the folder"
        )
    return paths


def _checked_token_count(path: Path) -> int:
    """Return the token count of a shard's header after checking it against the file's length."""
    header_bytes = 4 * SHARD_HEADER_WORDS
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = np.frombuffer(file.read(header_bytes), np.uint8)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such shard; run `dvc repro -f prepare` or correct the folder") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); {_SHARD_REMEDY}") from error
    if header.size < header_bytes:
        raise ShardError(f"{path}: truncated in the header ({size} bytes); {_SHARD_REMEDY}")
    magic, version, num_tokens = (int(word) for word in header.view("<i4")[:3])
    if magic != SHARD_MAGIC:
        raise ShardError(f"{path}: magic number {magic} instead of {SHARD_MAGIC}, not a token shard; {_SHARD_REMEDY}")
    if version != SHARD_VERSION:
        raise ShardError(f"{path}: shard version {version} instead of {SHARD_VERSION}; {_SHARD_REMEDY}")
    if num_tokens < 1:
        raise ShardError(f"{path}: the header promises {num_tokens} tokens; {_SHARD_REMEDY}")
    expected = header_bytes + 2 * num_tokens
    if size != expected:
        fault = "truncated" if size < expected else "too long"
        raise ShardError(f"{path}: {fault} ({size} bytes, {num_tokens} tokens need {expected}); {_SHARD_REMEDY}")
    return num_tokens
