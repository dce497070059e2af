"""From a corpus to shards: tokenizer, token shards of both splits, byte table and manifest.

Text is read in two passes. The first counts the splits and samples training text for the tokenizer, the second
encodes batch by batch straight into shards; memory is bounded by the sample, one batch and one shard. The one idea: a
document's split is decided by a hash of its content alone (NFKC form, white space collapsed), so that duplicates, those
that differ in such form only included, never straddle the splits and adding documents moves none. Where `val_files`
name val, train leaves out what has the hash of one of its documents. Published shards (`fineweb.py`) are taken as they
are. Everything is written beside the destination and moved in place at the end.

Source: the shard export of the Parameter Golf challenge.
Differs: the challenge takes its validation split from the front of the data, not by a hash.
Checked by: tests/corpus/test_prepare.py.
"""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from pipeline.base.checks import counted
from pipeline.base.files import sha256_of_file, temporary_folder, write_bytes
from pipeline.base.progress import Progress
from pipeline.corpus.config import DataConfig
from pipeline.corpus.corpora import read_documents, read_val_documents, text_digest
from pipeline.corpus.encoding import batch_documents, encode_documents
from pipeline.corpus.fineweb import write_fineweb
from pipeline.corpus.tokenizer_training import DocumentSample, train_tokenizer
from pipeline.corpus.totals import SPLITS, SplitTotals, write_manifest
from pipeline.data.byte_count import ByteTable, byte_table
from pipeline.data.case_ops import CASE_FORMS, require_case_form
from pipeline.data.shards import write_shard
from pipeline.data.tokenizer import SPACE_MARK, load_tokenizer

LEFT_OUT = "left out"
"""Where documents of `data.files` go that `data.val_files` hold too."""
LEFT_OUT_KEY = "left_out_documents"
"""Their number in the manifest."""
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
    survey = _survey_corpus(config, cache_dir, progress)
    progress(0, survey.documents, "training the tokenizer" if survey.sample else "loading the tokenizer")
    _place_tokenizer(config, survey.sample, root / "tokenizer.model")
    return _write_corpus(config, root, cache_dir, survey, progress)


class SplitDocument(NamedTuple):
    """A document and the split that it belongs to."""

    split: str
    """`train`, `val`, or LEFT_OUT."""
    digest: bytes
    text: str


def split_documents(config: DataConfig, cache_dir: Path) -> Iterator[SplitDocument]:
    """Yield all documents with their splits: those of `val_files` first, those of train that val holds as LEFT_OUT."""
    held_out = set()
    for text in read_val_documents(config):
        held_out.add(digest := text_digest(text))
        yield SplitDocument("val", digest, text)
    for text in read_documents(config, cache_dir):
        digest = text_digest(text)
        if config.val_frac is None:
            split = LEFT_OUT if digest in held_out else "train"
        else:
            split = split_of(digest, config.val_frac)
        yield SplitDocument(split, digest, text)


def split_of(digest: bytes, val_frac: float) -> str:
    """Return `train` or `val` for a document's content digest: its first 8 bytes as a share of their range."""
    return "val" if _share(digest) < val_frac else "train"


def _share(digest: bytes) -> float:
    return int.from_bytes(digest[:8], "big") / 2**64


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


class Survey(NamedTuple):
    """What one pass over a corpus finds."""

    sample: DocumentSample | None
    """Text to train the tokenizer on; None when one is reused."""
    counts: dict[str, int]
    """Documents of each split, and LEFT_OUT."""
    shares: tuple[float, float]
    """Lowest and highest share of a document's digest: with a `val_frac` between them no split is empty."""

    @property
    def documents(self) -> int:
        """Number of all documents."""
        return sum(self.counts.values())


def _survey_corpus(config: DataConfig, cache_dir: Path, progress: Progress) -> Survey:
    """Read the corpus once; ValueError with the remedy when a split is empty."""
    sample = None if config.tokenizer_model else DocumentSample()
    counts, lowest, highest = dict.fromkeys((*SPLITS, LEFT_OUT), 0), 1.0, 0.0
    # How many documents there are is not known yet, so the bar stands still and the note counts.
    progress(0, 1, f"reading {config.source}")
    for number, document in enumerate(split_documents(config, cache_dir), start=1):
        counts[document.split] += 1
        lowest, highest = min(lowest, _share(document.digest)), max(highest, _share(document.digest))
        if sample and document.split == "train":
            sample.add(document.digest, document.text)
        if number % _SURVEY_NOTE_DOCUMENTS == 0:
            progress(0, 1, f"read {number} documents")
    survey = Survey(sample, counts, (lowest, highest))
    _require_both_splits(config.val_frac, survey)
    return survey


def _require_both_splits(val_frac: float | None, survey: Survey) -> None:
    """Raise ValueError with the remedy when a split has no documents."""
    empty = next((split for split in SPLITS if not survey.counts[split]), None)
    if not empty:
        return
    if val_frac is None:
        left_out = survey.counts[LEFT_OUT]
        raise ValueError(
            f"data.files: got {counted(left_out, 'document')}, all in data.val_files too; name other text to train on"
        )
    lowest, highest = survey.shares
    if lowest == highest:
        found = "one document" if survey.documents == 1 else f"{survey.documents} copies of one document"
        raise ValueError(
            f"data.files: got {found}, expected at least two; set data.document_separator to what stands between the "
            "documents of a .txt, or data.val_files to text to score on, with data.val_frac null"
        )
    shares = (f"{lowest + (highest - lowest) / 10:.{digits}g}" for digits in range(2, 18))
    works = next(share for share in shares if lowest < float(share) <= highest)
    raise ValueError(
        f"data.val_frac: got {val_frac}, which leaves {empty} none of {survey.documents} documents; set it to {works}, "
        "add documents, or set data.val_files to text to score on, with data.val_frac null"
    )


def _place_tokenizer(config: DataConfig, sample: DocumentSample | None, path: Path) -> None:
    """Train the tokenizer on the sample, or copy the configured one after checking its size."""
    if sample is not None:
        form = config.case_ops and CASE_FORMS[config.case_ops]
        write_bytes(path, train_tokenizer(sample.documents(), config.vocab_size, form))
        return
    assert config.tokenizer_model is not None
    reused = Path(config.tokenizer_model).expanduser()
    pieces = (processor := load_tokenizer(reused)).vocab_size()
    if pieces != config.vocab_size:
        raise ValueError(
            f"data.tokenizer_model: {reused} has {pieces} pieces, but data.vocab_size is {config.vocab_size}; "
            f"set data.vocab_size and model.vocab_size to {pieces} or give another tokenizer"
        )
    require_case_form(processor, config.case_ops)
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
    config: DataConfig, root: Path, cache_dir: Path, survey: Survey, progress: Progress
) -> dict[str, Any]:
    """Encode every document into shards under `root` and write byte table and manifest; return the manifest."""
    processor = load_tokenizer(root / "tokenizer.model")
    _require_countable(processor)
    table = byte_table(processor)
    writers = {split: SplitWriter(root, split, config.shard_tokens, config.vocab_size) for split in SPLITS}
    done, documents = 0, survey.documents
    for batch in batch_documents(split_documents(config, cache_dir), lambda document: document.text):
        for split, writer in writers.items():
            writer.add(processor, table, [document.text for document in batch if document.split == split])
        done += len(batch)
        progress(min(done, documents), documents, f"{sum(writer.totals.tokens for writer in writers.values())} tokens")
    if done != documents:
        raise ValueError(
            f"{config.source}: {documents} documents in the first pass, {done} in the second; "
            "leave the files alone while they are read and run again"
        )
    totals = {split: writer.finish() for split, writer in writers.items()}
    for split in SPLITS:
        if not totals[split].documents:
            raise ValueError(f"data.files: the tokenizer leaves nothing of {split}'s text; add documents")
    left_out = {LEFT_OUT_KEY: survey.counts[LEFT_OUT]} if config.val_files else {}
    log = partial(progress, documents, documents)
    return write_manifest(root, {"source": config.source, **left_out}, processor, table, totals, log)


def _move_into_place(partial: Path, out_dir: Path) -> None:
    """Move finished outputs into `out_dir`, the manifest last: where it lies, the rest is complete."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "manifest.json").unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == "manifest.json"):
        target = out_dir / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
