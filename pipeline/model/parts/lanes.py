"""Two lanes: from a block on, attention and MLP work at the same time, each on a stream of its own.

    A = attention_scale * attention(norm(mix0 * a + mix1 * x0) * s)      a <- r0 * a + p00 * A + p01 * M
    M = mlp_scale * mlp(norm(m) * s)                                     m <- r1 * m + p10 * A + p11 * M

Where the first such block begins, both lanes are the stream; skips from the encoder enter lane a only; behind the last
block the stream is the lanes' mean. A parallel block (`block.py`) is another thing: there both branches read one stream
and add to it.

Axes: B batch, T position, D model width, L lanes (a, m).
Source: Parameter Golf pull requests 1523, 1529 and 1518.
Differs: nothing.
Checked by: tests/model/test_lanes.py, tests/model/test_network.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.block import Block, VisitInputs
from pipeline.model.config import ModelConfig
from pipeline.model.layers import tail
from pipeline.model.parts.config import LanesConfig


class LaneBlock(Block):
    """A block of two lanes: takes and returns both, (B, T, L, D)."""

    def __init__(self, config: ModelConfig, index: int, lanes: LanesConfig) -> None:
        super().__init__(config, index)
        own, other = lanes.own, lanes.other
        self.lane_keep = nn.Parameter(torch.tensor([lanes.keep, lanes.keep]))
        self.lane_write = nn.Parameter(torch.tensor([[own, other], [other, own]]))

    def forward(self, x_BTLD: Tensor, inputs: VisitInputs) -> Tensor:
        """Return both lanes after this block, of the last `inputs.num_scored` positions only where that is set."""
        mix_2D, attention_scale, mlp_scale = self.controls(inputs)
        lanes_BTLD = x_BTLD.to(inputs.x0_BTD.dtype)
        read_BTD = self.normed(mix_2D[0] * lanes_BTLD[:, :, 0] + mix_2D[1] * inputs.x0_BTD)
        attended_BTD = self.attention(read_BTD, inputs.rotation, inputs.added_value, inputs.num_scored, inputs.cache)
        lanes_BTLD = tail(lanes_BTLD, inputs.num_scored)
        attended_BT1D = (attention_scale * attended_BTD).unsqueeze(2)
        changed_BT1D = (mlp_scale * self.mlp(self.normed(lanes_BTLD[:, :, 1]), inputs.loop)).unsqueeze(2)
        keep_L1, write_LL1 = (factor.to(lanes_BTLD.dtype).unsqueeze(-1) for factor in (self.lane_keep, self.lane_write))
        return keep_L1 * lanes_BTLD + write_LL1[:, 0] * attended_BT1D + write_LL1[:, 1] * changed_BT1D


def block_of(config: ModelConfig, index: int) -> Block:
    """Return a block of the network, in two lanes where these have begun."""
    lanes = config.parallel_blocks
    if isinstance(lanes, LanesConfig) and index >= lanes.first_block:
        return LaneBlock(config, index, lanes)
    return Block(config, index)
