"""What a prepared corpus says about itself: totals of its splits, the unigram baseline, byte table and manifest.

The one idea: both ways to shards (encoding text, taking published shards) end here, so that their manifests read alike.

Axes: M tokens, V vocabulary.
Checked by: tests/corpus/test_prepare.py, tests/corpus/test_fineweb.py.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.base.files import write_bytes
from pipeline.base.progress import Log
from pipeline.data.byte_count import ByteTable, bits_per_byte, save_byte_table
from pipeline.data.overlap import find_overlap
from pipeline.data.shards import shard_paths

SPLITS = ("train", "val")


class SplitTotals:
    """Running totals of one split's stream and of the shards that hold it."""

    def __init__(self, vocab_size: int) -> None:
        self.documents = 0
        self.tokens = 0
        self.bytes = 0
        self.counts_V = np.zeros(vocab_size, np.int64)
        self.first_token: int | None = None
        self.shards: list[dict[str, Any]] = []

    def add_tokens(self, tokens_M: np.ndarray, documents: int, num_bytes: int) -> None:
        """Count the stream's next tokens, at least one, with the documents that begin in them and their bytes."""
        self.documents += documents
        self.tokens += len(tokens_M)
        self.bytes += num_bytes
        self.counts_V += np.bincount(tokens_M, minlength=len(self.counts_V))
        self.first_token = int(tokens_M[0]) if self.first_token is None else self.first_token

    def add_shard(self, file: str, sha256: str, tokens: int) -> None:
        """Note a shard's name, digest and tokens."""
        self.shards.append({"file": file, "sha256": sha256, "tokens": tokens})

    def entry(self) -> dict[str, Any]:
        """Return the split's part of the manifest."""
        assert sum(shard["tokens"] for shard in self.shards) == self.tokens == int(self.counts_V.sum())
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "targets": self.tokens - 1,
            "bytes": self.bytes,
            "shards": self.shards,
        }


def unigram_bits_per_byte(train: SplitTotals, val: SplitTotals) -> float:
    """Score val's targets with the add-one-smoothed token frequencies of train: what a model must beat clearly."""
    smoothed_V = train.counts_V + 1.0
    nats_V = np.log(smoothed_V.sum()) - np.log(smoothed_V)
    assert val.first_token is not None
    total_nats = float(val.counts_V @ nats_V) - float(nats_V[val.first_token])  # the first token is no target
    return bits_per_byte(total_nats, val.bytes)


def write_manifest(
    root: Path,
    source: Mapping[str, Any],
    processor: sentencepiece.SentencePieceProcessor,
    table: ByteTable,
    totals: Mapping[str, SplitTotals],
    log: Log,
) -> dict[str, Any]:
    """Write byte table and manifest beside tokenizer and shards in `root`; return the manifest, which holds `source`.

    Train is searched for val's documents. The text that the manifest then shows stands in both splits.
    """
    val, train = shard_paths(root / "val", "val"), shard_paths(root / "train", "train")
    overlap = find_overlap(val, train, processor.bos_id(), log)
    manifest = {
        **source,
        "vocab_size": processor.vocab_size(),
        "bos_id": processor.bos_id(),
        "tokenizer_sha256": hashlib.sha256((root / "tokenizer.model").read_bytes()).hexdigest(),
        "splits": {split: totals[split].entry() for split in SPLITS},
        "overlap": overlap.summary(processor),
        "unigram_bpb": unigram_bits_per_byte(totals["train"], totals["val"]),
    }
    save_byte_table(root / "byte_table.npz", table)
    write_bytes(root / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return manifest
