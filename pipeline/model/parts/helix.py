"""The helix: looped blocks on a stream of their own, beside the unique blocks, with hints in both directions.

Axes: B batch, T position, D model width.
Source: Parameter Golf pull requests 1308 and 1535.
Differs: nothing.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.attention import attend
from pipeline.model.documents import DocumentView
from pipeline.model.schedule_config import HelixSchedule
from pipeline.model.stream_cache import StreamCache


class LinearHint(nn.Module):
    """A hint from one stream to the other through a linear bottleneck."""

    def __init__(self, model_dim: int, hint_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(model_dim, hint_dim, bias=False)
        self.up = nn.Linear(hint_dim, model_dim, bias=False)

    def forward(
        self, listener_BTD: Tensor, speaker_BTD: Tensor, cache: StreamCache | DocumentView | None = None
    ) -> Tensor:
        """Return what to add to the listener; no position hears another, so there is no past to keep."""
        return self.up(self.down(speaker_BTD))

    def writers(self) -> list[nn.Module]:
        """Return the matrix that writes to the other stream: zero in a fresh network."""
        return [self.up]


class AttentionHint(nn.Module):
    """A hint by causal attention with one head and no positions: the listener asks, the speaker answers."""

    def __init__(self, model_dim: int, hint_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(model_dim, hint_dim, bias=False)
        self.key = nn.Linear(model_dim, hint_dim, bias=False)
        self.value = nn.Linear(model_dim, hint_dim, bias=False)
        self.output = nn.Linear(hint_dim, model_dim, bias=False)

    def forward(
        self, listener_BTD: Tensor, speaker_BTD: Tensor, cache: StreamCache | DocumentView | None = None
    ) -> Tensor:
        """Return what to add to the listener."""
        q_BT1E = self.query(listener_BTD).unsqueeze(2)
        k_BT1E, v_BT1E = self.key(speaker_BTD).unsqueeze(2), self.value(speaker_BTD).unsqueeze(2)
        seen: tuple = (k_BT1E, v_BT1E) if cache is None else cache.extend(k_BT1E, v_BT1E)
        return self.output(attend(q_BT1E, *seen).squeeze(2))

    def writers(self) -> list[nn.Module]:
        """Return the matrix that writes to the other stream: zero in a fresh network."""
        return [self.output]


class Helix(nn.Module):
    """Hints to the looped stream and back, and the gate through which the looped stream joins at the end."""

    def __init__(self, config: HelixSchedule, model_dim: int) -> None:
        super().__init__()
        hint = LinearHint if config.bridge == "linear" else AttentionHint
        self.to_loop = hint(model_dim, config.bridge_dim)
        self.to_main = hint(model_dim, config.bridge_dim)
        self.merge_gate = nn.Parameter(torch.zeros(model_dim))

    def hints(
        self, x_BTD: Tensor, loop_BTD: Tensor, cache: StreamCache | DocumentView | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (hint to the looped stream, hint to the main stream), both from the streams as they are now."""
        return self.to_loop(loop_BTD, x_BTD, cache), self.to_main(x_BTD, loop_BTD, cache)

    def merge(self, x_BTD: Tensor, loop_BTD: Tensor) -> Tensor:
        """Return both streams as one."""
        return x_BTD + torch.sigmoid(self.merge_gate) * loop_BTD
