"""From a corpus to shards: tokenizer, token shards of both splits, byte table and manifest.

Text is read in two passes. The first counts the splits and samples training text for the tokenizer, the second
encodes batch by batch straight into shards; memory is bounded by the sample, one batch and one shard. The one idea: a
document's split is decided by a hash of its content alone (NFKC form, white space collapsed), so that duplicates, those
that differ in such form only included, never straddle the splits and adding documents moves none. Published shards
(`fineweb.py`) are taken as they are. Everything is written beside the destination and moved in place at the end.

Source: the shard export of the Parameter Golf challenge.
Differs: the challenge takes its validation split from the front of the data, not by a hash.
Checked by: tests/corpus/test_prepare.py.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.base.files import sha256_of_file, temporary_folder, write_bytes
from pipeline.base.progress import Progress
from pipeline.corpus.config import DataConfig
from pipeline.corpus.corpora import read_documents, text_digest
from pipeline.corpus.encoding import batch_documents, encode_documents
from pipeline.corpus.fineweb import write_fineweb
from pipeline.corpus.tokenizer_training import DocumentSample, train_tokenizer
from pipeline.corpus.totals import SPLITS, SplitTotals, write_manifest
from pipeline.data.byte_count import ByteTable, byte_table
from pipeline.data.shards import write_shard
from pipeline.data.tokenizer import SPACE_MARK, load_tokenizer

_SURVEY_NOTE_DOCUMENTS = 5000


def prepare(config: DataConfig, out_dir: Path, cache_dir: Path, progress: Progress) -> dict[str, Any]:
    """Write tokenizer, shards, byte table and manifest into `out_dir` and return the manifest.

    The same documents and configuration give the same bytes. ValueError, DownloadError or ShardError, and nothing
    written, when the corpus, the split, the tokenizer or a published shard does not do.
    """
    with temporary_folder(out_dir) as partial:
        if config.source == "fineweb":
            manifest = write_fineweb(config, partial, progress)
        else:
            manifest = _encode_corpus(config, partial, cache_dir, progress)
        _move_into_place(partial, out_dir)
    return manifest


def _encode_corpus(config: DataConfig, root: Path, cache_dir: Path, progress: Progress) -> dict[str, Any]:
    """Write a corpus of text into `root`: survey it, train or copy the tokenizer, encode; return the manifest."""
    sample, documents = _survey_corpus(config, cache_dir, progress)
    progress(0, documents, "training the tokenizer" if sample else "loading the tokenizer")
    _place_tokenizer(config, sample, root / "tokenizer.model")
    return _write_corpus(config, root, cache_dir, documents, progress)


def split_of(digest: bytes, val_frac: float) -> str:
    """Return `train` or `val` for a document's content digest: its first 8 bytes as a share of their range."""
    return "val" if int.from_bytes(digest[:8], "big") / 2**64 < val_frac else "train"


class SplitWriter:
    """Streams one split's tokens into shards and keeps its totals."""

    def __init__(self, root: Path, split: str, shard_tokens: int, vocab_size: int) -> None:
        self.totals = SplitTotals(vocab_size)
        self._root = root
        self._split = split
        self._shard_tokens = shard_tokens
        self._pending: list[np.ndarray] = []
        self._pending_tokens = 0

    def add(self, processor: sentencepiece.SentencePieceProcessor, table: ByteTable, documents: list[str]) -> None:
        """Encode documents and append them, writing every shard that fills up."""
        batch = encode_documents(processor, table, documents)
        if not batch.documents:
            return
        self.totals.add_tokens(batch.tokens_M, batch.documents, batch.bytes)
        self._pending.append(batch.tokens_M)
        self._pending_tokens += len(batch.tokens_M)
        if self._pending_tokens >= self._shard_tokens:
            self._write_full_shards()

    def finish(self) -> SplitTotals:
        """Write the last, shorter shard and return the split's totals."""
        if self._pending_tokens:
            self._write_shard(np.concatenate(self._pending))
            self._pending, self._pending_tokens = [], 0
        return self.totals

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
        name = f"{self._split}/{self._split}_{len(self.totals.shards):06d}.bin"
        write_shard(self._root / name, tokens)
        self.totals.add_shard(name, sha256_of_file(self._root / name), len(tokens))


def _survey_corpus(config: DataConfig, cache_dir: Path, progress: Progress) -> tuple[DocumentSample | None, int]:
    """Read the corpus once: return the tokenizer's training sample (None when one is reused) and the documents."""
    sample = None if config.tokenizer_model else DocumentSample()
    counts = dict.fromkeys(SPLITS, 0)
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


def _require_countable(processor: sentencepiece.SentencePieceProcessor) -> None:
    """Raise ValueError for a tokenizer whose documents have no start, or a space at their end that the text lacks."""
    faults = {
        "has no BOS piece": processor.bos_id() < 0,
        "adds a space to the end of every document": processor.normalize("a").endswith(SPACE_MARK),
    }
    for fault, found in faults.items():
        if found:
            raise ValueError(f"data.tokenizer_model: the tokenizer {fault}; use another or train one (null)")


def _write_corpus(
    config: DataConfig, root: Path, cache_dir: Path, documents: int, progress: Progress
) -> dict[str, Any]:
    """Encode every document into shards under `root` and write byte table and manifest; return the manifest."""
    processor = load_tokenizer(root / "tokenizer.model")
    _require_countable(processor)
    table = byte_table(processor)
    writers = {split: SplitWriter(root, split, config.shard_tokens, config.vocab_size) for split in SPLITS}
    done = 0
    for batch in batch_documents(read_documents(config, cache_dir)):
        for split, texts in _split_batch(batch, config.val_frac).items():
            writers[split].add(processor, table, texts)
        done += len(batch)
        progress(min(done, documents), documents, f"{sum(writer.totals.tokens for writer in writers.values())} tokens")
    if done != documents:
        raise ValueError(
            f"{config.source}: {documents} documents in the first pass, {done} in the second; "
            "leave the files alone while they are read and run again"
        )
    totals = {split: writer.finish() for split, writer in writers.items()}
    _require_both_splits({split: totals[split].documents for split in SPLITS}, config.val_frac)
    return write_manifest(root, {"source": config.source}, processor, table, totals)


def _split_batch(batch: Iterable[str], val_frac: float) -> dict[str, list[str]]:
    """Sort documents into their splits, keeping their order."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for text in batch:
        texts[split_of(text_digest(text), val_frac)].append(text)
    return texts


def _move_into_place(partial: Path, out_dir: Path) -> None:
    """Move finished outputs into `out_dir`, the manifest last: where it lies, the rest is complete."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "manifest.json").unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == "manifest.json"):
        target = out_dir / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
