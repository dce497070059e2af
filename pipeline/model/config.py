"""The `model` section: everything that decides which network is built.

Checked by: tests/model/test_model_config.py
"""

import math
import re
from dataclasses import dataclass, fields

from pipeline.base.checks import require
from pipeline.model.parts.config import (
    AsymmetricCapConfig,
    AttentionConfig,
    BigramConfig,
    ChannelSmear,
    ConditionersConfig,
    LanesConfig,
    MLPConfig,
    RopeConfig,
    TokenSmear,
    ValueEmbeddingConfig,
    check_above_zero,
    check_at_least,
)
from pipeline.model.schedule import build_schedule
from pipeline.model.schedule_config import CoreSchedule, FoldedSchedule, HelixSchedule


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A set of blocks, the order in which they are visited, and what every visit reads; tied embedding."""

    vocab_size: int
    """Number of token ids, the tokenizer's."""
    context_tokens: int
    """Sequence length in training; the RoPE base follows it, never a tensor's length."""
    model_dim: int
    """Width D of the residual stream."""
    embedding_dim: int
    """Width of the token table; projected to model_dim and back where they differ."""
    schedule: CoreSchedule | FoldedSchedule | HelixSchedule
    """Which blocks there are and when each is visited."""
    attention: AttentionConfig
    """Heads, exclusive self-attention, gate."""
    rope: RopeConfig
    """Rotary positions."""
    mlp: MLPConfig
    """Feed-forward half of a block."""
    looped_mlp: MLPConfig | None
    """The same for looped blocks of a core or helix; null takes `mlp`."""
    ln_scale: bool
    """Scale each norm's output by 1/sqrt(layer + 1)."""
    parallel_blocks: tuple[int, ...] | LanesConfig
    """Physical blocks whose MLP reads what their attention reads; or two lanes from a block on."""
    visit_controls: bool
    """Residual mix and branch scales of every visit's own, in place of every block's own."""
    skip_gates: bool
    """Blend skips in through a learned gate per channel, in place of adding them."""
    bigram: BigramConfig | None
    """Hashed bigram embedding."""
    smear: ChannelSmear | TokenSmear | None
    """Mix each embedding with its predecessor's."""
    value_embedding: ValueEmbeddingConfig | None
    """Token table added to attention values."""
    conditioners: ConditionersConfig
    """What changes from pass to pass."""
    logit_softcap: float | AsymmetricCapConfig
    """Logits are softcap * tanh(z / softcap); or with a cap of either sign's own."""
    embed_init_std: float
    """Standard deviation of the token embedding at initialisation."""
    unread: dict[str, tuple[int, ...]]
    """Tensors that are stored and counted but never read, name -> shape: what published checkpoints carry along."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("vocab_size", "context_tokens", "model_dim", "embedding_dim"))
        check_above_zero(self, ("embed_init_std",))
        if isinstance(self.logit_softcap, float):
            check_above_zero(self, ("logit_softcap",))
        require(self.vocab_size <= 65536, "vocab_size", self.vocab_size, "at most 65536: shards hold 16-bit tokens")
        self._check_heads()
        self._check_mlps()
        self._check_blocks()
        self._check_value_embedding()
        self._check_conditioners()
        for name, shape in self.unread.items():
            require(re.fullmatch("[a-z0-9_]+", name) is not None, "unread", name, "names of a-z, 0-9 and _")
            require(
                all(size >= 1 for size in shape) and math.prod(shape) < 2**31,
                f"unread.{name}",
                shape,
                "sizes of at least 1, fewer than 2^31 numbers",
            )

    @property
    def head_dim(self) -> int:
        """Width E of an attention head."""
        return self.model_dim // self.attention.num_heads

    @property
    def kv_dim(self) -> int:
        """Width of all key/value heads together."""
        return self.attention.num_kv_heads * self.head_dim

    @property
    def reads_spaces(self) -> bool:
        """Whether the network must be told which tokens have a leading space."""
        return self.bigram is not None and self.bigram.hash == "position"

    def mlp_of(self, block: int) -> MLPConfig:
        """Return the MLP of a physical block."""
        looped = block >= self.schedule.unique_blocks
        return self.looped_mlp if looped and self.looped_mlp is not None else self.mlp

    def _check_heads(self) -> None:
        require(
            self.model_dim % self.attention.num_heads == 0,
            "model_dim",
            self.model_dim,
            f"a multiple of attention.num_heads ({self.attention.num_heads})",
        )
        gains, blocks = self.attention.qk_gain, self.schedule.num_blocks
        require(
            isinstance(gains, float) or len(gains) == blocks,
            "attention.qk_gain",
            gains,
            f"a number, or one for each of the {blocks} blocks",
        )
        dims = self.rope.dims
        require(dims <= self.head_dim, "rope.dims", dims, f"at most the head width ({self.head_dim})")
        require(
            dims > 0 or self.head_dim % 2 == 0,
            "rope.dims",
            dims,
            f"an even number above 0: the head width ({self.head_dim}) is odd",
        )
        scales, passes = self.rope.loop_scales, self.schedule.num_passes
        require(
            scales is None or len(scales) == passes,
            "rope.loop_scales",
            scales,
            f"null or one entry per pass through looped blocks ({passes})",
        )
        bos_id = self.attention.document_bos_id
        require(
            bos_id is None or 0 <= bos_id < self.vocab_size,
            "attention.document_bos_id",
            bos_id,
            f"null or a token id below vocab_size ({self.vocab_size})",
        )
        gate = self.attention.gate
        require(
            gate is None or gate.width <= self.model_dim,
            "attention.gate.width",
            gate and gate.width,
            f"at most model_dim ({self.model_dim})",
        )

    def _check_mlps(self) -> None:
        require(self.mlp.choke is None, "mlp.choke", self.mlp.choke, "null: only looped_mlp passes more than once")
        for name, mlp in (("mlp", self.mlp), ("looped_mlp", self.looped_mlp)):
            hidden = 1 if mlp is None else int(mlp.mult * self.model_dim)
            require(
                hidden >= 1,
                f"{name}.mult",
                mlp and mlp.mult,
                f"a hidden width of at least 1 (times model_dim, {self.model_dim})",
            )
            choke = None if mlp is None else mlp.choke
            groups = choke.groups if choke is not None and choke.shape == "grouped" else 1
            require(hidden % groups == 0, f"{name}.choke.groups", groups, f"a divisor of the hidden width ({hidden})")
        require(
            self.looped_mlp is None or self.schedule.looped_blocks > 0,
            "looped_mlp",
            self.looped_mlp,
            "null: the schedule has no looped blocks",
        )

    def _check_blocks(self) -> None:
        parallel = self.parallel_blocks
        if isinstance(parallel, LanesConfig):
            self._check_lanes(parallel)
            parallel = ()
        for name, blocks in (
            ("attention.exclusive_blocks", self.attention.exclusive_blocks),
            ("parallel_blocks", parallel),
        ):
            ok = len(set(blocks)) == len(blocks) and all(0 <= block < self.schedule.num_blocks for block in blocks)
            require(ok, name, blocks, f"physical block indices below {self.schedule.num_blocks}, each once")
        smear = self.smear
        if isinstance(smear, TokenSmear):
            require(
                smear.width <= self.embedding_dim,
                "smear.width",
                smear.width,
                f"at most embedding_dim ({self.embedding_dim})",
            )
            require(
                smear.bos_id < self.vocab_size, "smear.bos_id", smear.bos_id, f"below vocab_size ({self.vocab_size})"
            )

    def _check_lanes(self, lanes: LanesConfig) -> None:
        schedule = self.schedule
        require(
            isinstance(schedule, FoldedSchedule),
            "parallel_blocks",
            "two lanes",
            "a list of blocks: only a folded schedule (num_loops 1: a plain U-Net) has lanes",
        )
        assert isinstance(schedule, FoldedSchedule)
        loops_end = schedule.loop_end + 1 if schedule.num_loops > 1 else 0
        first, last = max(loops_end, schedule.num_blocks // 2), schedule.num_blocks - 1
        require(
            first <= lanes.first_block <= last,
            "parallel_blocks.first_block",
            lanes.first_block,
            f"a block of the decoder behind the loop, {first} to {last}"
            if first <= last
            else "no block: the loop is last",
        )

    def _check_value_embedding(self) -> None:
        value = self.value_embedding
        if value is None:
            return
        by_visit = value.read_by == "visits"
        count = build_schedule(self.schedule).effective_depth if by_visit else self.schedule.looped_blocks
        if isinstance(self.schedule, HelixSchedule) and value.read_by == "looped_blocks":
            count = 1  # a helix reads the first looped block's addend in all of them
        require(
            all(reader < count for reader in value.readers),
            "value_embedding.readers",
            value.readers,
            f"indices below {count}",
        )

    def _check_conditioners(self) -> None:
        conditioners, schedule = self.conditioners, self.schedule
        folded = isinstance(schedule, FoldedSchedule)
        passes = schedule.num_loops if isinstance(schedule, FoldedSchedule) else schedule.num_passes
        core = isinstance(schedule, CoreSchedule) and passes > 0
        for name in (field.name for field in fields(conditioners)):
            value = getattr(conditioners, name)
            works = core or (folded and name == "positions")
            require(not value or works, f"conditioners.{name}", value, "off: this schedule has no core")
        for name in ("flow_dim", "positions", "anchor_dim"):
            value = getattr(conditioners, name)
            require(
                not value or passes >= 2,
                f"conditioners.{name}",
                value,
                "off: it tells passes apart, and this schedule has less than two",
            )
        if conditioners.tap is not None and isinstance(self.schedule, CoreSchedule):
            taps, outputs = conditioners.tap.encoder_visits, len(self.schedule.order) // 2
            require(
                len(taps) > 0 and all(0 <= tap < outputs for tap in taps),
                "conditioners.tap.encoder_visits",
                taps,
                f"one or more positions below {outputs}, the encoder's visits",
            )
