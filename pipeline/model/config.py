"""The `model` section: everything that decides which network is built."""

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
        for name in ("vocab_size", "context_tokens", "model_dim", "num_heads", "num_kv_heads", "num_loops"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("unique_blocks", "looped_blocks", "rope_dims", "flow_dim", "bigram_buckets",
                     "value_embedding_dim"):  # fmt: skip
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 (off) or more")
        require(self.vocab_size <= 65536, "vocab_size", self.vocab_size, "at most 65536: shards hold 16-bit tokens")
        require(self.model_dim % self.num_heads == 0, "model_dim", self.model_dim,
                f"a multiple of num_heads ({self.num_heads})")  # fmt: skip
        require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", self.num_kv_heads,
                f"a divisor of num_heads ({self.num_heads})")  # fmt: skip
        head_dim = self.model_dim // self.num_heads
        require(self.rope_dims % 2 == 0 and self.rope_dims <= head_dim, "rope_dims", self.rope_dims,
                f"an even number up to the head width ({head_dim})")  # fmt: skip
        require(len(self.rope_loop_scales) == self.num_loops, "rope_loop_scales", self.rope_loop_scales,
                f"one entry per loop ({self.num_loops})")  # fmt: skip
        require(self.xsa_last_looped <= self.looped_blocks, "xsa_last_looped", self.xsa_last_looped,
                f"at most looped_blocks ({self.looped_blocks})")  # fmt: skip
        require(all(0 <= i < self.looped_blocks for i in self.value_embedding_blocks), "value_embedding_blocks",
                self.value_embedding_blocks, f"looped-block indices below {self.looped_blocks}")  # fmt: skip
