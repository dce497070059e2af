"""The `model` section: everything that decides which network is built."""

import math
from dataclasses import dataclass

from pipeline.checks import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A looped U-Net: unique encoder blocks, looped core, unique decoder blocks, tied embedding."""

    vocab_size: int
    """Number of token ids, the tokenizer's."""
    context_tokens: int
    """Sequence length in training; the RoPE base follows it, never a tensor's length."""
    model_dim: int
    """Width D of the residual stream."""
    num_heads: int
    """Query heads H of every attention."""
    num_kv_heads: int
    """Key/value heads G, a divisor of num_heads."""
    unique_blocks: int
    """Blocks visited once; the first half (rounded down) encodes, the rest decodes."""
    looped_blocks: int
    """Blocks of the looped core."""
    num_loops: int
    """Passes P through the looped core."""
    mlp_mult: float
    """MLP hidden width over model_dim, unique blocks."""
    looped_mlp_mult: float
    """The same for looped blocks."""
    mlp_slope: float
    """Slope of the leaky ReLU below zero before it is squared, unique blocks; 0 is relu squared."""
    looped_mlp_slope: float
    """The same for looped blocks."""
    rope_dims: int
    """Rotated dimensions of each head (even); 0 rotates the whole head."""
    rope_base: float
    """RoPE base at context_tokens <= rope_base_tokens."""
    rope_base_tokens: int
    """Contexts longer than this raise the base in proportion (NTK scaling)."""
    rope_loop_scales: tuple[float, ...]
    """Pass k divides the RoPE frequencies of looped blocks by entry k; all 1 is off."""
    qk_gain: float
    """Initial gain per query head after q and k are RMS-normalised."""
    xsa_last_looped: int
    """Exclusive self-attention in this many of the last looped blocks."""
    ln_scale: bool
    """Scale each norm's output by 1/sqrt(layer + 1)."""
    flow_dim: int
    """Width of the FLOW instruction bottleneck between passes; 0 is off."""
    bigram_buckets: int
    """Rows of the hashed bigram embedding; 0 is off."""
    bigram_dim: int
    """Width of a bigram row before its projection to model_dim."""
    smear_gate: bool
    """Mix each embedding with its predecessor's through a learned gate."""
    value_embedding_dim: int
    """Width of the token table added to attention values; 0 is off."""
    value_embedding_blocks: tuple[int, ...]
    """Looped-block indices that read the value embedding."""
    logit_softcap: float
    """Logits are softcap * tanh(z / softcap)."""
    embed_init_std: float
    """Standard deviation of the token embedding at initialisation."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_tokens", "model_dim", "num_heads", "num_kv_heads", "num_loops",
                     "rope_base_tokens"):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("unique_blocks", "looped_blocks", "rope_dims", "flow_dim", "bigram_buckets", "bigram_dim",
                     "value_embedding_dim"):  # fmt: skip
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 (off) or more")
        for name in ("mlp_mult", "looped_mlp_mult", "rope_base", "logit_softcap", "embed_init_std"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a finite number above 0")
        for name in ("mlp_slope", "looped_mlp_slope", "qk_gain"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        require(self.vocab_size <= 65536, "vocab_size", self.vocab_size, "at most 65536: shards hold 16-bit tokens")
        self._check_heads()
        self._check_blocks()
        require(self.bigram_buckets != 1, "bigram_buckets", self.bigram_buckets, "0 (off) or at least 2")
        require(self.bigram_dim >= 1 or not self.bigram_buckets, "bigram_dim", self.bigram_dim,
                "at least 1 with bigram_buckets above 0")  # fmt: skip

    def _check_heads(self) -> None:
        require(self.model_dim % self.num_heads == 0, "model_dim", self.model_dim,
                f"a multiple of num_heads ({self.num_heads})")  # fmt: skip
        require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", self.num_kv_heads,
                f"a divisor of num_heads ({self.num_heads})")  # fmt: skip
        head_dim = self.model_dim // self.num_heads
        require(self.rope_dims % 2 == 0 and self.rope_dims <= head_dim, "rope_dims", self.rope_dims,
                f"an even number up to the head width ({head_dim})")  # fmt: skip
        require(self.rope_dims > 0 or head_dim % 2 == 0, "rope_dims", self.rope_dims,
                f"an even number above 0: the head width ({head_dim}) is odd")  # fmt: skip

    def _check_blocks(self) -> None:
        require(self.unique_blocks + self.looped_blocks >= 1, "unique_blocks", self.unique_blocks,
                "at least 1 without looped_blocks: a network has a block")  # fmt: skip
        for name, mult in (("mlp_mult", self.mlp_mult), ("looped_mlp_mult", self.looped_mlp_mult)):
            require(int(mult * self.model_dim) >= 1, name, mult,
                    f"a hidden width of at least 1 (times model_dim, {self.model_dim})")  # fmt: skip
        require(len(self.rope_loop_scales) == self.num_loops, "rope_loop_scales", self.rope_loop_scales,
                f"one entry per loop ({self.num_loops})")  # fmt: skip
        require(all(0 < scale < math.inf for scale in self.rope_loop_scales), "rope_loop_scales",
                self.rope_loop_scales, "finite numbers above 0")  # fmt: skip
        require(0 <= self.xsa_last_looped <= self.looped_blocks, "xsa_last_looped", self.xsa_last_looped,
                f"0 to looped_blocks ({self.looped_blocks})")  # fmt: skip
        readers = self.value_embedding_blocks
        require(all(0 <= i < self.looped_blocks for i in readers) and len(set(readers)) == len(readers),
                "value_embedding_blocks", readers,
                f"looped-block indices below {self.looped_blocks}, each once")  # fmt: skip
