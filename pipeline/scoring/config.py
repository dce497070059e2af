"""The `evaluate` section and the protocols: what is scored, in which windows, with which adaptation."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require
from pipeline.scoring.phased_config import PhasedProtocol


@dataclass(frozen=True, kw_only=True)
class BlocksProtocol:
    """Non-overlapping windows; the last, shorter one included."""

    kind: Literal["blocks"]
    context_tokens: int
    """Window length L."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")


@dataclass(frozen=True, kw_only=True)
class DocumentBlocksProtocol:
    """Windows that also start at every document, so that none sees another; a document scores the next one's BOS."""

    kind: Literal["blocks"]
    documents: Literal[True]
    """Documents are isolated."""
    bos_id: int
    """Token that starts a document."""
    context_tokens: int
    """Longest window."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")
        require(self.bos_id >= 0, "bos_id", self.bos_id, "a token id")


@dataclass(frozen=True, kw_only=True)
class SlidingProtocol:
    """Overlapping windows; every target but those of window 0 is scored with at least L - S tokens of context."""

    kind: Literal["sliding"]
    context_tokens: int
    """Window length L."""
    stride_tokens: int
    """Distance S between windows."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")
        require(
            1 <= self.stride_tokens <= self.context_tokens,
            "stride_tokens",
            self.stride_tokens,
            f"1 to context_tokens ({self.context_tokens})",
        )


@dataclass(frozen=True, kw_only=True)
class StreamProtocol:
    """One pass with a sliding window of cached keys and values; every target but the first has L - S tokens and more.

    Lanes begin at fixed places of the stream with a window of their own, so that no score depends on what follows.
    """

    kind: Literal["stream"]
    context_tokens: int
    """Tokens L that the last token of a step attends to."""
    stride_tokens: int
    """Tokens S fed per step."""
    lane_tokens: int
    """Targets of a lane: what is fed into one cache; lanes of S targets are sliding windows."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")
        require(
            1 <= self.stride_tokens <= self.context_tokens,
            "stride_tokens",
            self.stride_tokens,
            f"1 to context_tokens ({self.context_tokens})",
        )
        require(
            self.lane_tokens >= self.stride_tokens,
            "lane_tokens",
            self.lane_tokens,
            f"at least stride_tokens ({self.stride_tokens})",
        )


@dataclass(frozen=True, kw_only=True)
class TTTProtocol:
    """Windows, or lanes, in chunks; after a chunk is scored the model trains on it (score first)."""

    kind: Literal["ttt"]
    context_tokens: int
    """Window and training-sequence length L."""
    stride_tokens: int
    """Distance S between windows."""
    chunk_tokens: int
    """Targets per chunk C."""
    epochs: int
    """Passes over a scored chunk."""
    learning_rate: float
    """SGD's peak learning rate, decayed by a cosine over the chunks."""
    momentum: float
    """SGD's momentum, never reset."""
    grad_clip: float
    """Largest global gradient norm."""
    batch_sequences: int
    """Sequences per SGD step."""
    freeze_blocks: int
    """The first n unique and the first n looped blocks stay as they are."""
    lane_tokens: int | None
    """Targets of a lane, as in `stream`: a chunk is scored in lanes; None: in sliding windows."""
    mixture: Literal["document", "stream"] | None
    """Counts of what was scored, mixed in: of the document, or of the stream and of the document; None: no counts."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")
        require(
            1 <= self.stride_tokens <= self.context_tokens,
            "stride_tokens",
            self.stride_tokens,
            f"1 to context_tokens ({self.context_tokens})",
        )
        for name in ("chunk_tokens", "batch_sequences"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("epochs", "freeze_blocks"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("learning_rate", "grad_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        require(
            self.lane_tokens is None or self.stride_tokens <= self.lane_tokens <= self.chunk_tokens,
            "lane_tokens",
            self.lane_tokens,
            f"null or stride_tokens to chunk_tokens ({self.stride_tokens} to {self.chunk_tokens})",
        )


@dataclass(frozen=True, kw_only=True)
class LoraProtocol:
    """Low-rank adapters of each document's own: score a chunk, take one Adam step on it, score the next."""

    kind: Literal["lora-ttt"]
    documents: Literal[True]
    """Documents are isolated."""
    bos_id: int
    """Token that starts a document."""
    context_tokens: int
    """Longest window: what a chunk is read and learnt with."""
    chunk_tokens: int
    """Targets scored, then learnt from, at a time."""
    batch_documents: int
    """Documents that are open at a time in each of eight queues, which processes share."""
    rank: int
    """Rank of every adapter."""
    learning_rate: float
    """Adam's rate."""
    beta1: float
    """Adam's decay of the mean gradient."""
    beta2: float
    """Adam's decay of the mean square."""
    eps: float
    """Adam's addend to the root."""
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
        require(self.bos_id >= 0, "bos_id", self.bos_id, "a token id")
        for name in ("batch_documents", "rank"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "eps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")


Protocol = (
    BlocksProtocol
    | DocumentBlocksProtocol
    | SlidingProtocol
    | StreamProtocol
    | TTTProtocol
    | LoraProtocol
    | PhasedProtocol
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which items are scored, each with its protocol."""

    items: tuple[str, ...]
    """Protocols the artifact is scored under, one cached stage item each; the last one is the record's headline."""
    batch_tokens: int
    """Tokens per forward pass: speed and memory, not part of any protocol."""
    limit_seconds: float | None
    """Seconds that the stage may take for an item; one that cannot meet them is stopped early. Null is no limit."""
    protocols: dict[str, Protocol]
    """Protocol of each item, and of `float`, the float checkpoint's own score."""

    def __post_init__(self) -> None:
        require(self.batch_tokens >= 1, "batch_tokens", self.batch_tokens, "at least 1")
        require(
            self.limit_seconds is None or self.limit_seconds > 0, "limit_seconds", self.limit_seconds, "null or above 0"
        )
        require("float" in self.protocols, "protocols", tuple(self.protocols), "an entry `float`")
        require("float" not in self.items, "items", self.items, "artifact items only: `float` always runs")
        for name in self.protocols:
            require(
                re.fullmatch(r"[\w.-]+", name) is not None,
                "protocols",
                name,
                "names of letters, digits, _, . and -: files and stages are called by them",
            )
        known = ", ".join(self.protocols)
        for item in self.items:
            require(item in self.protocols, "items", item, f"names among protocols ({known})")
        require(len(set(self.items)) == len(self.items), "items", self.items, "each name once")
        require(len(self.items) > 0, "items", self.items, "at least one: the last is the record's")

    @property
    def headline(self) -> str:
        """The item that a record ships, and whose score is the record's."""
        return self.items[-1]
