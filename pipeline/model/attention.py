"""Causal attention with grouped key/value heads, normalised queries and keys, and exclusive self-attention.

Queries and keys are RMS-normalised per head, rotated, and queries multiplied by a learned gain, so the gain alone sets
the sharpness. Exclusive self-attention (XSA) subtracts from every head's output its projection on the value of the same
position: a head can no longer copy the token it sits on, which the residual stream carries anyway. The sparse gate
lets a head fall silent, which otherwise takes an attention sink.

A sequence may pack several documents, which then do not see each other (`documents.py`).

Queries may be fewer than keys: then they are the last positions, and the mask's corner is the lower right one.

Axes: B batch, T position, D model width, H query heads, G key/value heads, J query heads per key/value head,
E head width, N = B * G, R = J * T; q_BTHE may be shorter than k_BTGE.
Source: grouped queries arXiv 2305.13245; query-key norm arXiv 2010.04245; XSA Parameter Golf pull request 1535;
sparse gate modded-nanogpt pull request 117, scaled as in Parameter Golf pull request 1855.
Differs: the gain belongs to queries only and follows the rotation.
Checked by: tests/model/test_network.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.config import ModelConfig
from pipeline.model.documents import DocumentView, attend_within
from pipeline.model.layers import rms_norm, tail
from pipeline.model.parts.config import AttentionGateConfig
from pipeline.model.rotary import Rotation, apply_rotation
from pipeline.model.stream_cache import StreamCache

LONGEST_PRODUCTS_TOKENS = 512
"""Contexts up to which a CPU in bfloat16 keeps all scores in memory: up to here training is faster with them, but their
memory grows with the square."""

PRODUCTS_BLOCK_TOKENS = 128
"""Queries of one block of those products: smaller blocks multiply less in vain, larger ones run faster."""


def exclude_own_value(y_BTHE: Tensor, v_BTGE: Tensor) -> Tensor:
    """Return head outputs without their component along the value of the same position and group."""
    batch, num_tokens, num_groups, head_dim = v_BTGE.shape
    y_BTGJE = y_BTHE.reshape(batch, num_tokens, num_groups, -1, head_dim)
    # Autocast on CUDA norms and sums in float32: back to the input dtype, or all products would run in it.
    unit_BTG1E = F.normalize(v_BTGE, dim=-1, eps=1e-12).to(v_BTGE.dtype).unsqueeze(-2)
    y_BTGJE = y_BTGJE - (y_BTGJE * unit_BTG1E).sum(dim=-1, keepdim=True).to(y_BTGJE.dtype) * unit_BTG1E
    return y_BTGJE.reshape(y_BTHE.shape)


def attend(q_BTHE: Tensor, k_BTGE: Tensor, v_BTGE: Tensor, view: DocumentView | None = None) -> Tensor:
    """Return causal attention in the shape of `q_BTHE` at scale 1/sqrt(E); queries are the keys' last positions.

    With a `view` within documents only.
    """
    if view is not None:
        return attend_within(q_BTHE, k_BTGE, v_BTGE, view)
    q_BHTE, k_BGTE, v_BGTE = (x.transpose(1, 2) for x in (q_BTHE, k_BTGE, v_BTGE))
    device_type, dtype = q_BHTE.device.type, q_BHTE.dtype
    if device_type == "cpu" and dtype == torch.bfloat16 and q_BHTE.size(2) <= LONGEST_PRODUCTS_TOKENS:
        y_BHTE = attend_by_products(q_BHTE, k_BGTE, v_BGTE)
    elif device_type == "cuda" and dtype == torch.float32:
        y_BHTE = attend_with_repeated_groups(q_BHTE, k_BGTE, v_BGTE)
    else:
        y_BHTE = attend_by_library(q_BHTE, k_BGTE, v_BGTE)
    return y_BHTE.transpose(1, 2)


def attend_by_library(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """Return the same from the kernel that the library picks; its `is_causal` alone would align first positions."""
    num_queries, num_keys = q_BHTE.size(2), k_BGTE.size(2)
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q_BHTE, k_BGTE, v_BGTE, is_causal=True, enable_gqa=True)
    if q_BHTE.device.type == "cuda" and q_BHTE.dtype == torch.bfloat16 and q_BHTE.size(-1) in range(8, 257, 8):
        # To this kernel causal is lower right, as in the mask below, for which the library would take a slower one.
        return torch.ops.aten._scaled_dot_product_flash_attention(q_BHTE, k_BGTE, v_BGTE, is_causal=True)[0]
    mask_TT = q_BHTE.new_ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    return F.scaled_dot_product_attention(q_BHTE, k_BGTE, v_BGTE, attn_mask=mask_TT, enable_gqa=True)


def attend_with_repeated_groups(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """Return the same with a copy of keys and values per query head.

    No fused CUDA kernel takes both float32 and grouped heads: the library would fall back to scores in memory.
    """
    repeats = q_BHTE.size(1) // k_BGTE.size(1)
    return attend_by_library(q_BHTE, *(x.repeat_interleave(repeats, dim=1) for x in (k_BGTE, v_BGTE)))


def attend_by_products(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """Return the same with all scores in memory, for a CPU in bfloat16: see `LONGEST_PRODUCTS_TOKENS`.

    Queries go in blocks, each against the keys up to its end: few products fall into the masked future.
    """
    k_NTE, v_NTE = k_BGTE.flatten(0, 1), v_BGTE.flatten(0, 1)
    # Heads of a group share keys and values: stack their queries as rows of one product.
    q_NJTE = (q_BHTE * q_BHTE.size(-1) ** -0.5).reshape(len(k_NTE), -1, *q_BHTE.shape[2:])
    y_NJTE = [_attend_block(q_NJTE, k_NTE, v_NTE, start) for start in range(0, q_NJTE.size(2), PRODUCTS_BLOCK_TOKENS)]
    return torch.cat(y_NJTE, dim=2).view(q_BHTE.shape)


def _attend_block(q_NJTE: Tensor, k_NTE: Tensor, v_NTE: Tensor, start: int) -> Tensor:
    q_NJSE = q_NJTE[:, :, start : start + PRODUCTS_BLOCK_TOKENS]
    size = q_NJSE.size(2)
    past = k_NTE.size(1) - q_NJTE.size(2) + start
    end = past + size
    scores_NRT = torch.bmm(q_NJSE.flatten(1, 2), k_NTE[:, :end].mT)
    future_ST = torch.full((size, end), -torch.inf, dtype=scores_NRT.dtype, device=scores_NRT.device).triu(past + 1)
    with torch.autocast("cpu", enabled=False):  # it would copy the scores to float32; the kernel sums in it anyway
        weights_NJST = torch.softmax(scores_NRT.unflatten(1, (-1, size)).add_(future_ST), dim=-1)
    return torch.bmm(weights_NJST.flatten(1, 2), v_NTE[:, :end]).view(q_NJSE.shape)


class HeadGate(nn.Module):
    """Sparse attention gate: every head's output times a sigmoid of a few channels of the attention's input."""

    def __init__(self, config: AttentionGateConfig, num_heads: int) -> None:
        super().__init__()
        self.width, self.scale = config.width, config.scale
        self.open = nn.Linear(config.width, num_heads, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the (B, T, H) factors."""
        return torch.sigmoid(self.scale * self.open(x_BTD[..., : self.width]))


class Attention(nn.Module):
    """Causal self-attention of one physical block."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        heads = config.attention
        self.head_dim = config.head_dim
        self.exclusive = index in heads.exclusive_blocks
        self.query = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.key = nn.Linear(config.model_dim, config.kv_dim, bias=False)
        self.value = nn.Linear(config.model_dim, config.kv_dim, bias=False)
        self.output = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.gain = nn.Parameter(
            torch.full((heads.num_heads,), heads.qk_gain if isinstance(heads.qk_gain, float) else heads.qk_gain[index])
        )
        self.gate = None if heads.gate is None else HeadGate(heads.gate, heads.num_heads)

    def writers(self) -> list[nn.Module]:
        """Return the matrices that write to the stream or open a gate: zero in a fresh network."""
        return [self.output] if self.gate is None else [self.output, self.gate.open]

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation,
        added_value: Tensor | None,
        num_scored: int | None = None,
        cache: StreamCache | DocumentView | None = None,
    ) -> Tensor:
        """Attend causally.

        Args:
            x_BTD: normalised stream.
            rotation: this visit's rotary angles.
            added_value: (B, T, G*E) added to the values before heads are split, or None.
            num_scored: only so many last positions are asked for; None returns all.
            cache: what came before, seen too and added to, or the view of what is seen.
        """
        scored_BTD = tail(x_BTD, num_scored)
        q_BTHE = self._split_heads(self.query(scored_BTD))
        k_BTGE = self._split_heads(self.key(x_BTD))
        value = self.value(x_BTD)
        if added_value is not None:
            value = value + added_value.to(value.dtype)
        v_BTGE = self._split_heads(value)

        # Autocast on CUDA norms in float32: back to the projections' dtype, or attention would run in it.
        q_BTHE, k_BTGE = rms_norm(q_BTHE).to(q_BTHE.dtype), rms_norm(k_BTGE).to(k_BTGE.dtype)
        q_BTHE = apply_rotation(q_BTHE, rotation.last(num_scored)) * self.gain.to(q_BTHE.dtype)[:, None]
        k_BTGE = apply_rotation(k_BTGE, rotation)
        seen: tuple = (k_BTGE, v_BTGE) if cache is None else cache.extend(k_BTGE, v_BTGE)
        y_BTHE = attend(q_BTHE, *seen)
        if self.exclusive:
            y_BTHE = exclude_own_value(y_BTHE, tail(v_BTGE, num_scored))
        if self.gate is not None:
            y_BTHE = y_BTHE * self.gate(scored_BTD).to(y_BTHE.dtype).unsqueeze(-1)
        return self.output(y_BTHE.flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))
