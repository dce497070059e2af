"""Causal attention with grouped key/value heads, normalised queries and keys, and exclusive self-attention.

Queries and keys are RMS-normalised per head, rotated, and queries multiplied by a learned gain, so the gain alone sets
the sharpness. Exclusive self-attention (XSA) subtracts from every head's output its projection on the value of the same
position: a head can no longer copy the token it sits on, which the residual stream carries anyway.

Axes: B batch, T position, D model width, H query heads, G key/value heads, J query heads per key/value head,
E head width, N = B * G, R = J * T.
Source: grouped queries arXiv 2305.13245; query-key norm arXiv 2010.04245; XSA Parameter Golf pull request 1535.
Differs: the gain belongs to queries only and follows the rotation.
Checked by: tests/model/test_network.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.config import ModelConfig
from pipeline.model.layers import rms_norm
from pipeline.model.rotary import Rotation, apply_rotation


def exclude_own_value(y_BTHE: Tensor, v_BTGE: Tensor) -> Tensor:
    """Return head outputs without their component along the value of the same position and group."""
    batch, num_tokens, num_groups, head_dim = v_BTGE.shape
    y_BTGJE = y_BTHE.reshape(batch, num_tokens, num_groups, -1, head_dim)
    unit_BTG1E = F.normalize(v_BTGE, dim=-1, eps=1e-12).unsqueeze(-2)
    y_BTGJE = y_BTGJE - (y_BTGJE * unit_BTG1E).sum(dim=-1, keepdim=True) * unit_BTG1E
    return y_BTGJE.reshape(y_BTHE.shape)


def attend(q_BTHE: Tensor, k_BTGE: Tensor, v_BTGE: Tensor) -> Tensor:
    """Return causal attention (B, T, H, E) at scale 1/sqrt(E)."""
    q_BHTE, k_BGTE, v_BGTE = (x.transpose(1, 2) for x in (q_BTHE, k_BTGE, v_BTGE))
    if q_BHTE.device.type == "cpu" and q_BHTE.dtype == torch.bfloat16:
        y_BHTE = attend_by_products(q_BHTE, k_BGTE, v_BGTE)
    else:
        y_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BGTE, v_BGTE, is_causal=True, enable_gqa=True)
    return y_BHTE.transpose(1, 2)


def attend_by_products(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """Return the same with all scores in memory; on a CPU torch's own bfloat16 kernel takes twice as long to train."""
    batch, num_groups, num_tokens, head_dim = k_BGTE.shape
    # Heads of a group share keys and values: stack their queries as rows of one product.
    q_NRE = (q_BHTE * head_dim**-0.5).reshape(batch * num_groups, -1, head_dim)
    scores_NRT = torch.bmm(q_NRE, k_BGTE.reshape(-1, num_tokens, head_dim).mT)
    future_TT = torch.full((num_tokens, num_tokens), -torch.inf, dtype=q_BHTE.dtype).triu(1)
    scores_NJTT = scores_NRT.unflatten(1, (-1, num_tokens)).add_(future_TT)
    with torch.autocast("cpu", enabled=False):  # it would copy the scores to float32; the kernel sums in it anyway
        weights_NRT = torch.softmax(scores_NJTT, dim=-1).flatten(1, 2)
    return torch.bmm(weights_NRT, v_BGTE.reshape(-1, num_tokens, head_dim)).view(q_BHTE.shape)


class Attention(nn.Module):
    """Causal self-attention of one block."""

    def __init__(self, config: ModelConfig, exclusive: bool) -> None:
        super().__init__()
        self.head_dim = config.model_dim // config.num_heads
        self.exclusive = exclusive
        kv_dim = config.num_kv_heads * self.head_dim
        self.query = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.key = nn.Linear(config.model_dim, kv_dim, bias=False)
        self.value = nn.Linear(config.model_dim, kv_dim, bias=False)
        self.output = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain))

    def forward(self, x_BTD: Tensor, rotation: Rotation, added_value: Tensor | None) -> Tensor:
        """Attend causally.

        Args:
            x_BTD: normalised stream.
            rotation: this visit's rotary angles.
            added_value: (B, T, G*E) added to the values before heads are split, or None.
        """
        q_BTHE = self._split_heads(self.query(x_BTD))
        k_BTGE = self._split_heads(self.key(x_BTD))
        value = self.value(x_BTD)
        if added_value is not None:
            value = value + added_value.to(value.dtype)
        v_BTGE = self._split_heads(value)

        q_BTHE = apply_rotation(rms_norm(q_BTHE), rotation) * self.gain.to(q_BTHE.dtype)[:, None]
        k_BTGE = apply_rotation(rms_norm(k_BTGE), rotation)
        y_BTHE = attend(q_BTHE, k_BTGE, v_BTGE)
        if self.exclusive:
            y_BTHE = exclude_own_value(y_BTHE, v_BTGE)
        return self.output(y_BTHE.flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))
