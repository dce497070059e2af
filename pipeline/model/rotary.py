"""Rotary positions: which frequencies a visit rotates with, and the rotation itself.

The base follows the configured context, never a tensor's length, so that a score does not depend on padding. Looped
blocks may rotate at another speed in every pass (the RoPE battery): pass k divides the frequencies by its scale.

Axes: T position, K rotated pairs of a head (half of the rotated dimensions), P passes, E head width.
Source: RoFormer arXiv 2104.09864; the base is raised as in NTK-aware scaling.
Differs: pairs are (i, i + K), the halves of the rotated dimensions; a battery uses the base as it is, not raised.
Checked by: tests/model/test_network.py
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.model.parts.config import RopeConfig
from pipeline.model.schedule import Visit


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, float32."""

    cos_TK: Tensor
    sin_TK: Tensor

    def last(self, num_tokens: int | None) -> "Rotation":
        """Return the rotation of the last positions; None keeps all."""
        return self if num_tokens is None else Rotation(self.cos_TK[-num_tokens:], self.sin_TK[-num_tokens:])


def apply_rotation(x_BTHE: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the first 2K dimensions of every head by its position's angles; the rest passes unchanged."""
    cos_TK, sin_TK = rotation
    num_pairs = cos_TK.size(-1)
    cos_T1K = cos_TK.to(x_BTHE.dtype).unsqueeze(1)
    sin_T1K = sin_TK.to(x_BTHE.dtype).unsqueeze(1)
    a, b, rest = x_BTHE.split((num_pairs, num_pairs, x_BTHE.size(-1) - 2 * num_pairs), dim=-1)
    return torch.cat((a * cos_T1K + b * sin_T1K, b * cos_T1K - a * sin_T1K, rest), dim=-1)


def raised_base(base: float, context_tokens: int, base_tokens: int | None, rotated_dims: int) -> float:
    """Return the RoPE base for a context; contexts beyond `base_tokens` raise it (None: never)."""
    # A single pair rotates with frequency 1 whatever the base, and the exponent below would not exist.
    if base_tokens is None or context_tokens <= base_tokens or rotated_dims == 2:
        return base
    return base * (context_tokens / base_tokens) ** (rotated_dims / (rotated_dims - 2))


def inverse_frequencies(base: float, rotated_dims: int, frequency_dims: int) -> Tensor:
    """Return the float32 angle per position of every rotated pair, fastest first: base^(-2i / frequency_dims)."""
    return 1.0 / base ** (torch.arange(0, rotated_dims, 2, dtype=torch.float32, device="cpu") / frequency_dims)


class RotaryTable(nn.Module):
    """Rotations of one model: row 0 of the frequencies is for unique blocks, row 1 + k of a battery for pass k."""

    inv_freq_PK: Tensor  # (1 + P, K), or (1, K) without a battery

    def __init__(self, config: RopeConfig, head_dim: int, context_tokens: int) -> None:
        super().__init__()
        self.rotated_dims = config.dims or head_dim
        self.frequency_dims = config.frequency_dims or self.rotated_dims
        self.base = config.base
        self.base_tokens = config.base_tokens
        self.loop_scales = config.loop_scales
        self.register_buffer("inv_freq_PK", torch.empty(0), persistent=False)
        self.set_context(context_tokens)

    def set_context(self, context_tokens: int) -> None:
        """Recompute the frequencies for a context length, in place."""
        self.inv_freq_PK = self._frequencies(context_tokens).to(self.inv_freq_PK.device)

    def _frequencies(self, context_tokens: int) -> Tensor:
        base = raised_base(self.base, context_tokens, self.base_tokens, self.rotated_dims)
        raised_K = inverse_frequencies(base, self.rotated_dims, self.frequency_dims)
        plain_K = inverse_frequencies(self.base, self.rotated_dims, self.frequency_dims)
        return torch.stack([raised_K] + [plain_K / scale for scale in self.loop_scales or ()])

    def forward(self, num_tokens: int, start: int = 0) -> list[Rotation]:
        """Return one rotation per row for positions start .. start + num_tokens - 1."""
        # Far into a stream float32 has no digits left for the fraction of a turn.
        dtype = torch.float64 if start else torch.float32
        position_T = torch.arange(start, start + num_tokens, device=self.inv_freq_PK.device, dtype=dtype)
        angle_PTK = position_T[:, None] * self.inv_freq_PK[:, None, :]
        turns = (turn_PTK.to(self.inv_freq_PK.dtype) for turn_PTK in (angle_PTK.cos(), angle_PTK.sin()))
        return [Rotation(cos_TK, sin_TK) for cos_TK, sin_TK in zip(*turns, strict=True)]

    def row(self, visit: Visit) -> int:
        """Return the row a visit rotates with."""
        return 1 + visit.loop if visit.phase == "core" and self.loop_scales is not None else 0
