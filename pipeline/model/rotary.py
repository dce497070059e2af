"""Rotary positions: which frequencies a visit rotates with, and the rotation itself.

The base follows the configured context, never a tensor's length, so that a score does not depend on padding. Looped
blocks may rotate at another speed in every pass (the RoPE battery): pass k divides the frequencies by its scale.

Axes: T position, K rotated pairs of a head (half of the rotated dimensions), P passes, E head width.
Source: RoFormer arXiv 2104.09864; the base is raised as in NTK-aware scaling.
Differs: pairs are (i, i + K), the halves of the rotated dimensions; a battery uses the base as it is, not raised.
Checked by: tests/model/test_network.py
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.model.config import ModelConfig
from pipeline.model.schedule import Visit


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, float32."""

    cos_TK: Tensor
    sin_TK: Tensor


def apply_rotation(x_BTHE: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the first 2K dimensions of every head by its position's angles; the rest passes unchanged."""
    cos_TK, sin_TK = rotation
    num_pairs = cos_TK.size(-1)
    cos_T1K = cos_TK.to(x_BTHE.dtype).unsqueeze(1)
    sin_T1K = sin_TK.to(x_BTHE.dtype).unsqueeze(1)
    a, b, rest = x_BTHE.split((num_pairs, num_pairs, x_BTHE.size(-1) - 2 * num_pairs), dim=-1)
    return torch.cat((a * cos_T1K + b * sin_T1K, b * cos_T1K - a * sin_T1K, rest), dim=-1)


def raised_base(base: float, context_tokens: int, base_tokens: int, rotated_dims: int) -> float:
    """Return the RoPE base for a context; contexts beyond `base_tokens` raise it."""
    # A single pair rotates with frequency 1 whatever the base, and the exponent below would not exist.
    if context_tokens <= base_tokens or rotated_dims == 2:
        return base
    return base * (context_tokens / base_tokens) ** (rotated_dims / (rotated_dims - 2))


def inverse_frequencies(base: float, rotated_dims: int) -> Tensor:
    """Return the float32 angle per position of every rotated pair, fastest first."""
    return 1.0 / base ** (torch.arange(0, rotated_dims, 2, dtype=torch.float32) / rotated_dims)


class RotaryTable(nn.Module):
    """Rotations of one model: row 0 of the frequencies is for unique blocks, row 1 + k for pass k of the core."""

    inv_freq_PK: Tensor  # (1 + P, K)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        head_dim = config.model_dim // config.num_heads
        self.rotated_dims = config.rope_dims or head_dim
        self.base = config.rope_base
        self.base_tokens = config.rope_base_tokens
        self.loop_scales: Sequence[float] = config.rope_loop_scales
        self.register_buffer("inv_freq_PK", self._frequencies(config.context_tokens), persistent=False)

    def set_context(self, context_tokens: int) -> None:
        """Recompute the frequencies for a context length, in place."""
        self.inv_freq_PK = self._frequencies(context_tokens).to(self.inv_freq_PK.device)

    def _frequencies(self, context_tokens: int) -> Tensor:
        base = raised_base(self.base, context_tokens, self.base_tokens, self.rotated_dims)
        raised_K = inverse_frequencies(base, self.rotated_dims)
        if all(scale == 1.0 for scale in self.loop_scales):
            return torch.stack([raised_K] * (1 + len(self.loop_scales)))
        plain_K = inverse_frequencies(self.base, self.rotated_dims)
        return torch.stack([raised_K] + [plain_K / scale for scale in self.loop_scales])

    def forward(self, num_tokens: int) -> list[Rotation]:
        """Return one rotation per row for positions 0 .. num_tokens - 1."""
        position_T = torch.arange(num_tokens, device=self.inv_freq_PK.device, dtype=torch.float32)
        angle_PTK = position_T[:, None] * self.inv_freq_PK[:, None, :]
        return [Rotation(cos_TK, sin_TK) for cos_TK, sin_TK in zip(angle_PTK.cos(), angle_PTK.sin(), strict=True)]

    @staticmethod
    def row(visit: Visit) -> int:
        """Return the row a visit rotates with."""
        return 1 + visit.loop if visit.phase == "core" else 0
