"""One block: attention and MLP on a residual stream that can be mixed with the embedding.

    x_in = mix0 * x + mix1 * x0
    x    = x_in + attention_scale * attention(norm(x_in) * s)
    x    = x + mlp_scale * mlp(norm(x) * s)

`x0` is the embedding after the smear, `s` falls with the layer when `ln_scale` is on. A parallel block feeds its MLP
from norm(x_in) too; two lanes are another thing (`parts/lanes.py`). Mix and scales belong to the block, or to every
visit.

Axes: B batch, T position, D model width, N visits.
Source: the residual mix of modded-nanogpt, in the form of Parameter Golf pull requests 1535, 1493 and 1579.
Differs: a looped block counts as a layer after all unique visits, whichever the pass.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.model.attention import Attention
from pipeline.model.config import ModelConfig
from pipeline.model.documents import DocumentView
from pipeline.model.layers import compute_dtype, rms_norm, tail
from pipeline.model.mlp import MLP
from pipeline.model.parts.choke import ChokeMLP
from pipeline.model.parts.config import LanesConfig
from pipeline.model.rotary import Rotation
from pipeline.model.stream_cache import StreamCache


class BlockControls(NamedTuple):
    """Mix of stream and embedding (2, D) and scales of both branches (D,)."""

    residual_mix: Tensor
    attention_scale: Tensor
    mlp_scale: Tensor


class VisitInputs(NamedTuple):
    """What a visit reads besides the stream: embedding, rotary angles, addend of the values, pass, controls."""

    x0_BTD: Tensor
    rotation: Rotation
    added_value: Tensor | None
    """(B, T, kv_dim), or None."""
    loop: int
    controls: BlockControls | None
    """This visit's own; None takes the block's."""
    num_scored: int | None = None
    """Last positions of which anybody will read the output; None: all."""
    cache: StreamCache | DocumentView | None = None
    """What came before these positions, or which of it they see; None: nothing."""


class VisitControls(nn.Module):
    """Residual mixes and branch scales of every visit."""

    def __init__(self, num_visits: int, model_dim: int) -> None:
        super().__init__()
        self.residual_mixes = nn.Parameter(torch.tensor([[[1.0] * model_dim, [0.0] * model_dim]] * num_visits))
        self.attention_scales = nn.Parameter(torch.ones(num_visits, model_dim))
        self.mlp_scales = nn.Parameter(torch.ones(num_visits, model_dim))

    def of(self, slot: int) -> BlockControls:
        """Return the controls of one visit."""
        return BlockControls(self.residual_mixes[slot], self.attention_scales[slot], self.mlp_scales[slot])


class Block(nn.Module):
    """Physical block `index`: unique below `config.schedule.unique_blocks`, looped from there on."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        dim = config.model_dim
        self.norm_scale = (config.schedule.layer(index) + 1) ** -0.5 if config.ln_scale else 1.0
        self.parallel = not isinstance(config.parallel_blocks, LanesConfig) and index in config.parallel_blocks
        self.attention = Attention(config, index)
        self.mlp = _block_mlp(config, index)
        if not config.visit_controls:
            self.residual_mix = nn.Parameter(torch.tensor([[1.0] * dim, [0.0] * dim]))
            self.attention_scale = nn.Parameter(torch.ones(dim))
            self.mlp_scale = nn.Parameter(torch.ones(dim))

    def forward(self, x_BTD: Tensor, inputs: VisitInputs) -> Tensor:
        """Return the stream after this block, of the last `inputs.num_scored` positions only where that is set.

        Keys and values need every position, all else only those.
        """
        mix_2D, attention_scale, mlp_scale = self.controls(inputs)
        x_BTD = mix_2D[0] * x_BTD.to(mix_2D.dtype) + mix_2D[1] * inputs.x0_BTD
        read_BTD = self.normed(x_BTD)
        attended_BTD = self.attention(read_BTD, inputs.rotation, inputs.added_value, inputs.num_scored, inputs.cache)
        x_BTD = tail(x_BTD, inputs.num_scored) + attention_scale * attended_BTD
        read_BTD = tail(read_BTD, inputs.num_scored) if self.parallel else self.normed(x_BTD)
        return x_BTD + mlp_scale * self.mlp(read_BTD, inputs.loop)

    def controls(self, inputs: VisitInputs) -> tuple[Tensor, ...]:
        """Return mix and scales of a visit, in the dtype of the stream."""
        controls = inputs.controls or (self.residual_mix, self.attention_scale, self.mlp_scale)
        return tuple(control.to(inputs.x0_BTD.dtype) for control in controls)

    def normed(self, x_BTD: Tensor) -> Tensor:
        """Return what a branch reads of a stream."""
        # One cast here spares autocast one for every matrix that reads the result.
        return (rms_norm(x_BTD) * self.norm_scale).to(compute_dtype(x_BTD))


def _block_mlp(config: ModelConfig, index: int) -> MLP | ChokeMLP:
    mlp = config.mlp_of(index)
    hidden = int(mlp.mult * config.model_dim)
    if mlp.choke is None:
        return MLP(config.model_dim, hidden, mlp.slope)
    return ChokeMLP(config.model_dim, hidden, mlp.slope, mlp.choke, config.schedule.num_passes)
