"""The parts of the `model` section: one small dataclass per idea; `null` in the section leaves the idea out.

Checked by: tests/model/test_model_config.py
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.base.checks import require


def check_at_least(config: object, least: int, names: tuple[str, ...]) -> None:
    """Raise ValueError naming the first field below `least`."""
    for name in names:
        value = getattr(config, name)
        require(value >= least, name, value, f"at least {least}" if least else "0 (off) or more")


def check_above_zero(config: object, names: tuple[str, ...]) -> None:
    """Raise ValueError naming the first field that is not above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, name, value, "above 0")


@dataclass(frozen=True, kw_only=True)
class AttentionGateConfig:
    """A gate per head, computed from the first few channels of what the attention reads."""

    width: int
    """Channels of the normalised stream that the gate reads."""
    scale: float
    """Factor before the sigmoid."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("width",))
        check_above_zero(self, ("scale",))


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Causal attention with grouped key/value heads."""

    num_heads: int
    """Query heads H of every attention."""
    num_kv_heads: int
    """Key/value heads G, a divisor of num_heads."""
    qk_gain: float | tuple[float, ...]
    """Initial gain of query heads after q and k are RMS-normalised, or one for every physical block."""
    exclusive_blocks: tuple[int, ...]
    """Physical blocks (unique first, looped after them) with exclusive self-attention."""
    gate: AttentionGateConfig | None
    """Sparse output gate of every attention."""
    document_bos_id: int | None
    """Positions see their own document only, which begins with this token id (`bos_id` of the data manifest); null lets
    them see all of a sequence."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("num_heads", "num_kv_heads"))
        require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            self.num_kv_heads,
            f"a divisor of num_heads ({self.num_heads})",
        )


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions."""

    dims: int
    """Rotated dimensions of each head (even); 0 rotates the whole head."""
    frequency_dims: int | None
    """Pair i rotates with base^(-2i / frequency_dims); null is the rotated dimensions."""
    base: float
    """Base at contexts up to base_tokens."""
    base_tokens: int | None
    """Contexts longer than this raise the base in proportion (NTK scaling); null never raises it."""
    loop_scales: tuple[float, ...] | None
    """Pass k divides the (unraised) frequencies of looped blocks by entry k; null rotates them like the others."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, ("dims",))
        require(self.dims % 2 == 0, "dims", self.dims, "an even number")
        check_above_zero(self, ("base",))
        for name in ("frequency_dims", "base_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "null or at least 1")
        require(all(scale > 0 for scale in self.loop_scales or ()), "loop_scales", self.loop_scales, "numbers above 0")


@dataclass(frozen=True, kw_only=True)
class ChokeConfig:
    """A bottleneck of its own for every pass, in place of the MLP's output matrix."""

    shape: Literal["flat", "pyramid", "pyramid_res", "grouped", "residual"]
    """How the bottleneck is wired: see choke.py."""
    dim: int
    """Width of the bottleneck."""
    groups: int
    """Groups of the shape `grouped`, a divisor of dim and of the hidden width."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("dim", "groups"))
        require(
            self.shape != "grouped" or self.dim % self.groups == 0,
            "groups",
            self.groups,
            f"a divisor of dim ({self.dim})",
        )


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The feed-forward half of a block."""

    mult: float
    """Hidden width over model_dim."""
    slope: float
    """Slope of the leaky ReLU below zero before it is squared; 0 is relu squared."""
    choke: ChokeConfig | None
    """Bottleneck per pass (looped blocks only)."""

    def __post_init__(self) -> None:
        check_above_zero(self, ("mult",))


@dataclass(frozen=True, kw_only=True)
class LanesConfig:
    """From a block on, attention and MLP have a stream each: see lanes.py; its four numbers train."""

    first_block: int
    """Block before which the stream divides; all later ones have two lanes."""
    keep: float
    """Initial factor of what a lane held."""
    own: float
    """Initial factor of what a lane's own branch adds to it: attention to the first, MLP to the second."""
    other: float
    """Initial factor of what the other lane's branch adds to it."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, ("keep", "own", "other"))


@dataclass(frozen=True, kw_only=True)
class BigramConfig:
    """Hashed bigram embedding."""

    buckets: int
    """Rows of the table."""
    dim: int
    """Width of a row before its projection."""
    hash: Literal["xor", "linear", "position"]
    """xor: the first position has a bucket of its own; linear: its predecessor counts as token 0; position: as xor, the
    other buckets halved between tokens with a leading space and tokens without."""
    scaled: bool
    """Multiply by a learned scalar."""

    def __post_init__(self) -> None:
        check_at_least(self, {"xor": 2, "linear": 1, "position": 3}[self.hash], ("buckets",))
        check_at_least(self, 1, ("dim",))


@dataclass(frozen=True, kw_only=True)
class ChannelSmear:
    """Mix every embedding with its predecessor's through one gate per channel."""

    kind: Literal["channel"]


@dataclass(frozen=True, kw_only=True)
class TokenSmear:
    """Add the predecessor's embedding through a gate per token that is shut where a document begins."""

    kind: Literal["token"]
    width: int
    """Channels that the gate reads."""
    bos_id: int
    """Token that begins a document: nothing of the previous document reaches it."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("width",))
        check_at_least(self, 0, ("bos_id",))


@dataclass(frozen=True, kw_only=True)
class ValueEmbeddingConfig:
    """A token table added to the values of some attentions."""

    dim: int
    """Width of a row before its projection to the key/value width."""
    shared_scale: bool
    """A learned scalar common to all readers, besides the one of each."""
    read_by: Literal["looped_blocks", "visits"]
    """What `readers` counts: looped blocks (all their passes), or positions in the schedule's list of visits."""
    readers: tuple[int, ...]
    """Who reads; each has a learned scale."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("dim",))
        require(
            len(self.readers) > 0 and len(set(self.readers)) == len(self.readers) and min(self.readers) >= 0,
            "readers",
            self.readers,
            "one or more indices, each once",
        )


@dataclass(frozen=True, kw_only=True)
class TapConfig:
    """Every pass hears the encoder's outputs again."""

    dim: int
    """Width of the projection of each tapped output."""
    encoder_visits: tuple[int, ...]
    """Tapped encoder outputs, by position in the encoder."""
    per_loop: bool
    """One up-projection per pass, or one for all."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("dim",))


@dataclass(frozen=True, kw_only=True)
class AsymmetricCapConfig:
    """A soft cap of positive and one of negative logits."""

    positive: float
    """Initial cap of logits of 0 and more."""
    negative: float
    """Initial cap of logits below 0."""
    trained: bool
    """Train both with the scalars; false leaves them to test-time training."""

    def __post_init__(self) -> None:
        check_above_zero(self, ("positive", "negative"))


@dataclass(frozen=True, kw_only=True)
class LearnedStep:
    """From the second pass a looped block moves the stream by a learned fraction of its change."""

    kind: Literal["learned"]


@dataclass(frozen=True, kw_only=True)
class ContractiveStep:
    """Every pass moves the stream by a fixed fraction of its change."""

    kind: Literal["contractive"]
    fraction: float
    """dt in x' = (1 - dt) x + dt F(x)."""

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction", self.fraction, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class ConditionersConfig:
    """What changes from pass to pass of a looped core; a folded stack may have positions."""

    flow_dim: int | None
    """Width of the FLOW instruction bottleneck."""
    positions: bool
    """A learned offset per pass, added before its first block."""
    anchor_dim: int | None
    """Width of the note that each pass leaves for the next."""
    tap: TapConfig | None
    """Access to the encoder's outputs."""
    smear: bool
    """Mix each pass's output with the previous one's through one gate per channel."""
    step: LearnedStep | ContractiveStep | None
    """Shorten what a pass changes."""

    def __post_init__(self) -> None:
        for name in ("flow_dim", "anchor_dim"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "null or at least 1")
        require(
            not (self.flow_dim and self.positions),
            "positions",
            self.positions,
            "false with flow_dim: passes have instructions or offsets, not both",
        )
