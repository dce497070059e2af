"""From a corpus to shards: tokenizer, token shards of both splits, byte table and manifest.

Two passes over the documents. The first counts the splits and samples training text for the tokenizer, the second
encodes batch by batch straight into shards; memory is bounded by the sample, one batch and one shard. The one idea: a
document's split is decided by a hash of its content alone (NFKC form, white space collapsed), so that duplicates, those
that differ in such form only included, never straddle the splits and adding documents moves none. Everything is written
beside the destination and moved in place at the end.

Source: the shard export of the Parameter Golf challenge.
Differs: the challenge takes its validation split from the front of the data, not by a hash.
Checked by: tests/data/test_prepare.py.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.data.byte_count import ByteTable, bits_per_byte, byte_table, save_byte_table
from pipeline.data.config import DataConfig
from pipeline.data.corpora import read_documents, text_digest
from pipeline.data.encoding import batch_documents, encode_documents
from pipeline.data.shards import write_shard
from pipeline.data.tokenizer import load_tokenizer
from pipeline.data.tokenizer_training import DocumentSample, train_tokenizer
from pipeline.files import sha256_of_file, write_bytes
from pipeline.progress import Progress

_SPLITS = ("train", "val")
_SURVEY_NOTE_DOCUMENTS = 5000


def prepare(config: DataConfig, out_dir: Path, cache_dir: Path, progress: Progress) -> dict[str, Any]:
    """Write tokenizer, shards, byte table and manifest into `out_dir` and return the manifest.

    The same documents and configuration give the same bytes. ValueError, and nothing written, when the corpus, the
    split or the tokenizer does not do.
    """
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        sample, documents = _survey_corpus(config, cache_dir, progress)
        progress(0, documents, "training the tokenizer" if sample else "loading the tokenizer")
        _place_tokenizer(config, sample, partial / "tokenizer.model")
        manifest = _write_corpus(config, partial, cache_dir, documents, progress)
        _move_into_place(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def split_of(digest: bytes, val_frac: float) -> str:
    """Return `train` or `val` for a document's content digest: its first 8 bytes as a share of their range."""
    return "val" if int.from_bytes(digest[:8], "big") / 2**64 < val_frac else "train"


class SplitWriter:
    """Streams one split's tokens into shards and keeps its totals."""

    def __init__(self, root: Path, split: str, shard_tokens: int, vocab_size: int) -> None:
        self.documents = 0
        self.tokens = 0
        self.bytes = 0
        self.counts_V = np.zeros(vocab_size, np.int64)
        self.first_token: int | None = None
        self._root = root
        self._split = split
        self._shard_tokens = shard_tokens
        self._pending: list[np.ndarray] = []
        self._pending_tokens = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, processor: sentencepiece.SentencePieceProcessor, table: ByteTable, documents: list[str]) -> None:
        """Encode documents and append them, writing every shard that fills up."""
        batch = encode_documents(processor, table, documents)
        if not batch.documents:
            return
        self.documents += batch.documents
        self.tokens += len(batch.tokens_M)
        self.bytes += batch.bytes
        self.counts_V += np.bincount(batch.tokens_M, minlength=len(self.counts_V))
        self.first_token = int(batch.tokens_M[0]) if self.first_token is None else self.first_token
        self._pending.append(batch.tokens_M)
        self._pending_tokens += len(batch.tokens_M)
        if self._pending_tokens >= self._shard_tokens:
            self._write_full_shards()

    def finish(self) -> dict[str, Any]:
        """Write the last, shorter shard and return the split's part of the manifest."""
        if self._pending_tokens:
            self._write_shard(np.concatenate(self._pending))
            self._pending, self._pending_tokens = [], 0
        assert sum(shard["tokens"] for shard in self._shards) == self.tokens == int(self.counts_V.sum())
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "targets": self.tokens - 1,
            "bytes": self.bytes,
            "shards": self._shards,
        }

    def _write_full_shards(self) -> None:
        """Write every shard that the pending batches fill and keep the rest, joined once per shard, not per batch."""
        tokens = np.concatenate(self._pending)
        stop = len(tokens) - len(tokens) % self._shard_tokens
        for start in range(0, stop, self._shard_tokens):
            self._write_shard(tokens[start : start + self._shard_tokens])
        # A copy: a view would keep the written tokens in memory.
        self._pending, self._pending_tokens = [tokens[stop:].copy()], len(tokens) - stop

    def _write_shard(self, tokens: np.ndarray) -> None:
        """Write one shard and note its name, digest and tokens."""
        name = f"{self._split}/{self._split}_{len(self._shards):06d}.bin"
        write_shard(self._root / name, tokens)
        self._shards.append({"file": name, "sha256": sha256_of_file(self._root / name), "tokens": len(tokens)})


def _survey_corpus(config: DataConfig, cache_dir: Path, progress: Progress) -> tuple[DocumentSample | None, int]:
    """Read the corpus once: return the tokenizer's training sample (None when one is reused) and the documents."""
    sample = None if config.tokenizer_model else DocumentSample()
    counts = dict.fromkeys(_SPLITS, 0)
    # How many documents there are is not known yet, so the bar stands still and the note counts.
    progress(0, 1, f"reading {config.source}")
    for number, text in enumerate(read_documents(config, cache_dir), start=1):
        digest = text_digest(text)
        split = split_of(digest, config.val_frac)
        counts[split] += 1
        if sample and split == "train":
            sample.add(digest, text)
        if number % _SURVEY_NOTE_DOCUMENTS == 0:
            progress(0, 1, f"read {number} documents")
    _require_both_splits(counts, config.val_frac)
    return sample, sum(counts.values())


def _require_both_splits(counts: dict[str, int], val_frac: float) -> None:
    """Raise ValueError with the remedy when a split has no documents."""
    remedies = {"train": "lower data.val_frac or add documents", "val": "raise data.val_frac or add documents"}
    for split, remedy in remedies.items():
        if not counts[split]:
            total = sum(counts.values())
            raise ValueError(f"data.val_frac: got {val_frac}, which leaves {split} none of {total} documents; {remedy}")


def _place_tokenizer(config: DataConfig, sample: DocumentSample | None, path: Path) -> None:
    """Train the tokenizer on the sample, or copy the configured one after checking its size."""
    if sample is not None:
        write_bytes(path, train_tokenizer(sample.documents(), config.vocab_size))
        return
    assert config.tokenizer_model is not None
    reused = Path(config.tokenizer_model).expanduser()
    pieces = load_tokenizer(reused).vocab_size()
    if pieces != config.vocab_size:
        raise ValueError(
            f"data.tokenizer_model: {reused} has {pieces} pieces, but data.vocab_size is {config.vocab_size}; "
            f"set data.vocab_size and model.vocab_size to {pieces} or give another tokenizer"
        )
    write_bytes(path, reused.read_bytes())


def _write_corpus(
    config: DataConfig, root: Path, cache_dir: Path, documents: int, progress: Progress
) -> dict[str, Any]:
    """Encode every document into shards under `root` and write byte table and manifest; return the manifest."""
    processor = load_tokenizer(root / "tokenizer.model")
    if processor.bos_id() < 0:
        raise ValueError("data.tokenizer_model: the tokenizer has no BOS piece; use another or train one (null)")
    table = byte_table(processor)
    writers = {split: SplitWriter(root, split, config.shard_tokens, config.vocab_size) for split in _SPLITS}
    done = 0
    for batch in batch_documents(read_documents(config, cache_dir)):
        for split, texts in _split_batch(batch, config.val_frac).items():
            writers[split].add(processor, table, texts)
        done += len(batch)
        progress(min(done, documents), documents, f"{sum(writer.tokens for writer in writers.values())} tokens")
    if done != documents:
        raise ValueError(f"{config.source}: {documents} documents in the first pass, {done} in the second; "
                         "leave the files alone while they are read and run again")  # fmt: skip
    _require_both_splits({split: writer.documents for split, writer in writers.items()}, config.val_frac)
    manifest = {
        "source": config.source,
        "vocab_size": config.vocab_size,
        "tokenizer_sha256": hashlib.sha256((root / "tokenizer.model").read_bytes()).hexdigest(),
        "splits": {split: writer.finish() for split, writer in writers.items()},
        "unigram_bpb": unigram_bits_per_byte(writers["train"], writers["val"]),
    }
    save_byte_table(root / "byte_table.npz", table)
    write_bytes(root / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return manifest


def _split_batch(batch: Iterable[str], val_frac: float) -> dict[str, list[str]]:
    """Sort documents into their splits, keeping their order."""
    texts: dict[str, list[str]] = {split: [] for split in _SPLITS}
    for text in batch:
        texts[split_of(text_digest(text), val_frac)].append(text)
    return texts


def unigram_bits_per_byte(train: SplitWriter, val: SplitWriter) -> float:
    """Score val's targets with the add-one-smoothed token frequencies of train: what a model must beat clearly."""
    smoothed_V = train.counts_V + 1.0
    nats_V = np.log(smoothed_V.sum()) - np.log(smoothed_V)
    assert val.first_token is not None
    total_nats = float(val.counts_V @ nats_V) - float(nats_V[val.first_token])  # the first token is no target
    return bits_per_byte(total_nats, val.bytes)


def _move_into_place(partial: Path, out_dir: Path) -> None:
    """Move finished outputs into `out_dir`, the manifest last: where it lies, the rest is complete."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "manifest.json").unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == "manifest.json"):
        target = out_dir / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
