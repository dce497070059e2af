"""Val text that stands among train shards: found by hashes of short runs of tokens, confirmed by the tokens.

The one idea: texts are compared by runs of tokens, not by whole documents, so that copies are found that are shifted,
joined, or cut by the end of a shard. A val document recurs when more than half of its runs of `RUN_TOKENS` tokens,
taken end to end from its BOS, stand anywhere in the train shards; a shorter document says nothing. Of other documents
`STRETCH_RUNS` runs in a row that all stand there are copied text; fewer are a phrase or a notice. Train streams by, a
piece that fits the processor's cache at a time: each of its runs is hashed, a table of the hashes' first bits sorts out
nearly all of them, and what is left is compared token by token, so that no hash raises a false alarm.

Axes: M tokens of a stream, D documents, R runs of val, U their distinct contents, S stretches: runs in a row that all
stand in train, or all do not.
Source: none; that 80 % of a published val split stood in train is known from records 2018 and 2118 of the challenge.
Checked by: tests/data/test_overlap.py (slow oracle: Python sets of tuples).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from pipeline.base.checks import counted, one_line
from pipeline.base.progress import Log
from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.data.shards import open_shard
from pipeline.data.text import decode_texts

RUN_TOKENS = 16
"""A power of two; shorter documents mean nothing."""
STRETCH_RUNS = 4
"""Runs of val in a row that are copied text when all of them stand in train."""
DOCUMENTS_PER_RECURRING = 1000
"""Of so many val documents one may recur, and one of fewer: crawls hold a few texts twice."""
COPIED_FRAC = 0.05
"""Share of val's text that may be copied: overlap affects over 4 % of standard val sets (arXiv 2107.06499)."""
_PIECE_TOKENS = 1 << 16
"""Train tokens in work at a time: their hashes stay in the cache."""
_PLACES_PER_RUN = 32
"""Of the table of first bits: one foreign run in so many is looked up in vain."""
_ANY_VOCABULARY = 1 << 16
_SHARDS_PER_NOTE = 10
_SHOWN_TOKENS = 64


class Overlap(NamedTuple):
    """What val and train share."""

    documents: int
    """Val documents that are long enough to tell."""
    recurring: list[np.ndarray]
    """Tokens of those that recur, in order, BOS first."""
    by_shard: dict[str, int]
    """Train shard -> val documents that recur in it alone; shards without any are left out."""
    tokens: int
    """Of all runs of val."""
    copied_M: np.ndarray
    """Tokens of the runs that are copied text, in order: those found of documents that recur, and stretches."""

    def summary(self, processor: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
        """Return how many documents recur, their bytes and shards, how much text is copied and how that begins."""
        table = byte_table(processor)
        return {
            "documents": self.documents,
            "recurring": len(self.recurring),
            "bytes": sum(int(count_bytes(tokens_M, table).sum()) for tokens_M in self.recurring),
            "by_shard": self.by_shard,
            "tokens": self.tokens,
            "copied_tokens": len(self.copied_M),
            "first": one_line(decode_texts(processor, [self.copied_M[:_SHOWN_TOKENS].tolist()])[0], 80),
        }


class _ValRuns(NamedTuple):
    """The runs of all val documents, to look up."""

    tokens_M: np.ndarray
    document_D: list[slice]
    """Where in the stream a document of at least one run lies."""
    first_run_D: np.ndarray
    """Its first run."""
    start_R: np.ndarray
    """Where in the stream a run begins."""
    content_R: np.ndarray
    """Which distinct content a run has."""
    digest_U: np.ndarray
    """uint64, ascending."""
    start_U: np.ndarray
    """Where in the stream the first such run begins."""
    likely: np.ndarray
    """bool, by a digest's first bits: whether one of val begins so."""

    def found(self, tokens_M: np.ndarray) -> np.ndarray:
        """Return which contents stand in a piece of train."""
        digests = run_digests(tokens_M)
        places = np.flatnonzero(self.likely[_first_bits(digests, self.likely)])
        content = np.searchsorted(self.digest_U, digests[places]).clip(max=len(self.digest_U) - 1)
        runs, wanted = _runs(tokens_M)[places], _runs(self.tokens_M)[self.start_U[content]]
        return np.unique(content[(runs == wanted).all(1)])

    def recurring(self, found_U: np.ndarray) -> np.ndarray:
        """Return bool (D,): documents of which more than half of the runs were found."""
        hits_D = np.add.reduceat(found_U[self.content_R].astype(np.int64), self.first_run_D)
        return 2 * hits_D > np.diff(self.first_run_D, append=len(self.content_R))

    def copied(self, found_U: np.ndarray) -> np.ndarray:
        """Return the tokens of the found runs of documents that recur and of `STRETCH_RUNS` or more found in a row."""
        found_R = found_U[self.content_R]
        begins_R = np.append(True, found_R[1:] != found_R[:-1])
        begins_R[self.first_run_D] = True
        length_S = np.diff(np.flatnonzero(begins_R), append=len(found_R))
        in_stretch_R = np.repeat(length_S >= STRETCH_RUNS, length_S)
        recurs_R = np.repeat(self.recurring(found_U), np.diff(self.first_run_D, append=len(found_R)))
        return _runs(self.tokens_M)[self.start_R[found_R & (in_stretch_R | recurs_R)]].ravel()


def find_overlap(val: Sequence[Path], train: Sequence[Path], bos_id: int, log: Log = lambda line: None) -> Overlap:
    """Return what val and train share; reads every token, in time that train's length decides.

    Memory: a few bytes per val token and a few MiB per core, however long train is. Raises ShardError for a damaged
    shard.
    """
    runs = _runs_of_val(np.concatenate([_open(path) for path in val]), bos_id)
    if runs is None:
        return Overlap(0, [], {}, 0, np.empty(0, np.uint16))
    found_U, by_shard = np.zeros(len(runs.digest_U), bool), {}
    pool = ThreadPoolExecutor()
    try:
        shards = zip(train, pool.map(partial(_found_in_shard, runs), train, _before(train)), strict=True)
        for number, (path, content) in enumerate(shards, start=1):
            if number % _SHARDS_PER_NOTE == 0 or number == len(train):
                log(f"looked for val text in {number} of {len(train)} train shards")
            of_shard_U = np.zeros_like(found_U)
            of_shard_U[content] = True
            found_U |= of_shard_U
            if documents := int(runs.recurring(of_shard_U).sum()):
                by_shard[path.name] = documents
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, too
    recurring = [runs.tokens_M[runs.document_D[number]] for number in np.flatnonzero(runs.recurring(found_U))]
    tokens = RUN_TOKENS * len(runs.start_R)
    return Overlap(len(runs.document_D), recurring, by_shard, tokens, runs.copied(found_U))


def overlap_line(summary: Mapping[str, Any]) -> str:
    """Return in words what an overlap's summary says."""
    documents, recurring, by_shard = summary["documents"], summary["recurring"], summary["by_shard"]
    share = f" ({recurring / documents:.2%}, {summary['bytes']:,} bytes)" if recurring else ""
    copied = summary["copied_tokens"] / max(1, summary["tokens"])
    line = f"{recurring:,} of {documents:,} val documents{share} and {copied:.2%} of val's text recur in train"
    if by_shard:
        most = max(by_shard, key=by_shard.__getitem__)
        line += f", {by_shard[most]:,} of the documents in {most}"
    return f"{line}; the text begins: {summary['first']}" if copied else line


def overlap_limit(summary: Mapping[str, Any]) -> str | None:
    """Return in words how much may recur where an overlap's summary has more; None where it has not."""
    documents = max(1, summary["documents"] // DOCUMENTS_PER_RECURRING)
    if summary["recurring"] <= documents and summary["copied_tokens"] <= COPIED_FRAC * summary["tokens"]:
        return None
    return f"at most {counted(documents, 'document')} and {COPIED_FRAC:.0%} of the text may recur"


def run_digests(tokens_M: np.ndarray) -> np.ndarray:
    """Return uint64 (..., M - RUN_TOKENS + 1): a digest of the run of tokens that begins at each position."""
    digests = (tokens_M.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    digests ^= digests >> np.uint64(29)
    length = 1
    while length < RUN_TOKENS:
        digests = digests[..., :-length] * np.uint64(0xBF58476D1CE4E5B9) + digests[..., length:]
        digests ^= digests >> np.uint64(31)
        length *= 2
    return digests


def _runs_of_val(tokens_M: np.ndarray, bos_id: int) -> _ValRuns | None:
    """Cut the documents of a stream into runs; a document reaches to the next BOS. None when all are too short."""
    ends = itertools.pairwise([*np.flatnonzero(tokens_M == bos_id).tolist(), len(tokens_M)])
    document_D = [slice(first, stop) for first, stop in ends if stop - first > RUN_TOKENS]
    if not document_D:
        return None
    starts = [np.arange(each.start + 1, each.stop - RUN_TOKENS + 1, RUN_TOKENS) for each in document_D]
    start_R = np.concatenate(starts)
    parts = np.array_split(start_R, 1 + len(start_R) * RUN_TOKENS // _PIECE_TOKENS)
    digest_R = np.concatenate([run_digests(_runs(tokens_M)[part])[:, 0] for part in parts])
    digest_U, first_U, content_R = np.unique(digest_R, return_index=True, return_inverse=True)
    likely = np.zeros(1 << (_PLACES_PER_RUN * len(digest_U)).bit_length(), bool)
    likely[_first_bits(digest_U, likely)] = True
    first_run_D = np.cumsum([0, *map(len, starts[:-1])])
    return _ValRuns(tokens_M, document_D, first_run_D, start_R, content_R, digest_U, start_R[first_U], likely)


def _found_in_shard(runs: _ValRuns, path: Path, before_M: np.ndarray) -> np.ndarray:
    """Return which contents of val end in a train shard; `before_M`: the tokens before it, to complete a run."""
    shard_M, found = _open(path), [np.empty(0, np.int64)]
    for first in range(0, len(shard_M), _PIECE_TOKENS):
        tokens_M = np.concatenate([before_M, shard_M[first : first + _PIECE_TOKENS]])
        before_M = tokens_M[1 - RUN_TOKENS :]
        if len(tokens_M) >= RUN_TOKENS:
            found.append(runs.found(tokens_M))
    return np.unique(np.concatenate(found))


def _before(shards: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield for each shard the last tokens before it, one less than a run has."""
    before_M = np.empty(0, np.uint16)
    for path in shards:
        yield before_M
        before_M = np.concatenate([before_M, _open(path)[1 - RUN_TOKENS :]])[1 - RUN_TOKENS :]


def _runs(tokens_M: np.ndarray) -> np.ndarray:
    """Return a view (M - RUN_TOKENS + 1, RUN_TOKENS) of the run that begins at each position."""
    return np.lib.stride_tricks.sliding_window_view(tokens_M, RUN_TOKENS)


def _first_bits(digests: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return a digest's place in a table whose length is a power of two."""
    return digests >> np.uint64(65 - len(table).bit_length())


def _open(path: Path) -> np.ndarray:
    return open_shard(path, _ANY_VOCABULARY, check_ids=False)
