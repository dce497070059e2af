"""Check T10: the val shards are those of the record, and what they say was not trained on.

One idea: texts are compared by runs of tokens, not by whole documents, so that shifted, cut or joined copies are found:
a val document recurs when more than half of its runs of `RUN_TOKENS` tokens, taken end to end from its BOS, stand
anywhere in the train shards.

Axes: M tokens of a stream.
Checked by: tests/audit/test_split.py, tests/stages/test_audit.py.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.audit.evaluator import Finding, failed, not_applicable, passed
from pipeline.audit.record_files import ANY_VOCABULARY, NO_RUN, Evidence, RecordFolder
from pipeline.audit.untrusted import field, one_line
from pipeline.base.checks import require
from pipeline.data.shards import open_shard

RUN_TOKENS = 16
"""A power of two; shorter documents mean nothing."""
RECURRING_FRAC = 1e-3
"""Share of val documents that may recur: crawls hold a few texts twice."""
_PIECE_TOKENS = 1 << 22
"""Train tokens in memory at a time."""


def check_split(record: RecordFolder, evidence: Evidence | None, bos_id: int) -> Finding:
    """T10: val shards and tokenizer are those of the manifest and the logs; no val document was trained on."""
    if evidence is None:
        return not_applicable(NO_RUN)
    manifest = evidence.report("manifest")
    listed = field(manifest, "manifest", "splits", "val", "shards")
    shards = evidence.shards("val")
    if not isinstance(listed, list) or len(listed) != len(shards):
        return failed(f"{len(shards)} val shards, the manifest lists {one_line(len(listed))}")
    wanted = {path.name: field(entry, "manifest: shard", "sha256") for path, entry in zip(shards, listed, strict=True)}
    wanted[record.tokenizer.name] = field(manifest, "manifest", "tokenizer_sha256")
    for path in (*shards, record.tokenizer):
        stated = {record.log(seed).digests.get(path.name) for seed in record.seeds}
        if {evidence.digest(path), *stated} != {wanted[path.name]}:
            return failed(f"{path.name}: file, manifest and logs do not state one digest")
    recurring, documents = recurring_documents(shards, evidence.shards("train"), bos_id)
    if not recurring <= RECURRING_FRAC * documents:
        return failed(f"{recurring} of {documents} val documents are in the train shards")
    return passed(f"digests of val shards and tokenizer agree; {recurring} of {documents} val documents recur in train")


def recurring_documents(val: Sequence[Path], train: Sequence[Path], bos_id: int) -> tuple[int, int]:
    """Return how many val documents recur in the train shards, and how many are long enough to tell."""
    val_M = np.concatenate([open_shard(path, ANY_VOCABULARY, check_ids=False) for path in val])
    starts = np.append(np.flatnonzero(val_M == bos_id), len(val_M))
    runs = [np.arange(first + 1, last - RUN_TOKENS + 1, RUN_TOKENS) for first, last in itertools.pairwise(starts)]
    runs = [each for each in runs if len(each)]
    require(bool(runs), "val shards", "no document", f"documents of at least {RUN_TOKENS} tokens")
    wanted = run_digests(val_M)[np.concatenate(runs)]
    ordered, found = np.unique(wanted), np.zeros(0, np.uint64)
    for digests in _digests_of(train):
        found = np.union1d(found, digests[_may_hold(ordered, digests)])
    hits = np.split(np.isin(wanted, found), np.cumsum([len(each) for each in runs])[:-1])
    return sum(bool(each.mean() > 0.5) for each in hits), len(hits)


def run_digests(tokens_M: np.ndarray) -> np.ndarray:
    """Return uint64 (M - RUN_TOKENS + 1,): a digest of the run of tokens that begins at each position."""
    digests = (tokens_M.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    digests ^= digests >> np.uint64(29)
    length = 1
    while length < RUN_TOKENS:
        digests = digests[:-length] * np.uint64(0xBF58476D1CE4E5B9) + digests[length:]
        digests ^= digests >> np.uint64(31)
        length *= 2
    return digests


def _digests_of(shards: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield the digests of all runs of a stream, a piece at a time; runs may cross from shard to shard."""
    rest = np.empty(0, np.uint16)
    for path in shards:
        shard_M = open_shard(path, ANY_VOCABULARY, check_ids=False)
        for first in range(0, len(shard_M), _PIECE_TOKENS):
            tokens_M = np.concatenate([rest, shard_M[first : first + _PIECE_TOKENS]])
            rest = tokens_M[-RUN_TOKENS + 1 :]
            if len(tokens_M) >= RUN_TOKENS:
                yield run_digests(tokens_M)


def _may_hold(ordered: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Return bool: digests that are among `ordered`; a table of their low bits sorts out nearly all others at once."""
    table = np.zeros(1 << 24, bool)
    table[ordered & np.uint64(len(table) - 1)] = True
    likely = table[digests & np.uint64(len(table) - 1)]
    likely[likely] = np.isin(digests[likely], ordered)
    return likely
