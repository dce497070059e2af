"""The phased protocol: documents' adapters per visit, lanes that keep what they may, and one phase for all weights."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class GlobalPhase:
    """SGD over the model's own weights, once, on the documents scored so far."""

    documents: int
    """Documents, the stream's first ones, after which the phase comes."""
    context_tokens: int
    """Sequence length; within a sequence no document sees another."""
    chunk_tokens: int
    """Targets whose sequences share a learning rate; the last chunk is not learnt from."""
    epochs: int
    """Passes over a chunk."""
    learning_rate: float
    """SGD's peak learning rate, decayed by a cosine over the chunks."""
    momentum: float
    """SGD's momentum."""
    grad_clip: float
    """Largest global gradient norm."""
    batch_sequences: int
    """Sequences per SGD step."""
    freeze_blocks = 0
    """All weights learn: no option."""

    def __post_init__(self) -> None:
        for name in ("documents", "context_tokens", "batch_sequences"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        for name in ("learning_rate", "grad_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        require(
            self.chunk_tokens >= self.context_tokens,
            "chunk_tokens",
            self.chunk_tokens,
            f"at least context_tokens ({self.context_tokens}): a chunk holds whole sequences",
        )


@dataclass(frozen=True, kw_only=True)
class PhasedProtocol:
    """Low-rank adapters of each document and visit, as in `lora-ttt`; documents of a lane may hand on a half of them.

    Documents are isolated where lanes hold one document and there is no global phase.
    """

    kind: Literal["phased-ttt"]
    bos_id: int
    """Token that starts a document."""
    context_tokens: int
    """Longest window: what a chunk is read and learnt with."""
    chunk_tokens: int
    """Targets scored, then learnt from, at a time."""
    short_chunks: tuple[tuple[int, ...], ...]
    """Pairs (targets, smaller chunk), ascending: up to so many targets of a document chunks are so small."""
    chunks_by: Literal["place", "length"]
    """What is held against these targets: a chunk's place in its document, or, as published, the document's length,
    which nobody knows yet: the audit refuses it."""
    batch_documents: int
    """Lanes that are open at a time, a document of each, in each of eight queues, which processes share."""
    lane_documents: int
    """Consecutive documents that read one after another and keep the adapters' first matrices (warm A); 1: none is."""
    rank: int
    """Rank of every adapter."""
    alpha: float
    """Adapters' products count alpha / rank times."""
    adapt_keys: bool
    """Adapt keys, too, not only queries and values."""
    learning_rate: float
    """AdamW's rate."""
    beta1: float
    """AdamW's decay of the mean gradient."""
    beta2: float
    """AdamW's decay of the mean square."""
    eps: float
    """AdamW's addend to the root."""
    weight_decay: float
    """AdamW's decay of the adapters."""
    global_phase: GlobalPhase | None
    """SGD over the model's own weights once some documents are scored; None: they never move."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")
        require(
            1 <= self.chunk_tokens <= self.context_tokens,
            "chunk_tokens",
            self.chunk_tokens,
            f"1 to context_tokens ({self.context_tokens})",
        )
        steps = [(0, 1), *self.short_chunks, (2**31, self.chunk_tokens)]
        are_pairs = all(len(step) == 2 for step in steps)
        ascending = are_pairs and all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(steps))
        expected = f"pairs (targets, chunk), both ascending, chunks of 1 to chunk_tokens ({self.chunk_tokens})"
        require(ascending, "short_chunks", self.short_chunks, expected)
        require(self.bos_id >= 0, "bos_id", self.bos_id, "a token id")
        for name in ("batch_documents", "lane_documents", "rank"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("alpha", "learning_rate", "eps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
