"""Telling a pass which one it is: FLOW instructions, or fixed offsets (pass embeddings).

Axes: B batch, T position, D model width, P passes.
Source: FLOW instructions, Parameter Golf pull requests 1140 and 1535; offsets as in universal transformers; in a
folded stack, Parameter Golf pull request 1518.
Differs: nothing.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.parts.conditioning import CorePass, PassConditioner


class Flow(PassConditioner):
    """FLOW instruction: tell the pass what to do from what the stream holds, through a bottleneck.

    `down` is shared, `up` belongs to the pass; the instruction is computed anew before every pass.
    """

    def __init__(self, model_dim: int, flow_dim: int, num_loops: int) -> None:
        super().__init__()
        self.down = nn.Linear(model_dim, flow_dim, bias=False)
        self.up = nn.ModuleList(nn.Linear(flow_dim, model_dim, bias=False) for _ in range(num_loops))

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Add this pass's instruction."""
        return x_BTD + self.up[core_pass.loop](self.down(x_BTD))

    def writers(self) -> list[nn.Module]:
        """Return the up-projections."""
        return list(self.up)


class LoopPositions(PassConditioner):
    """One learned vector per pass, whatever the stream holds; a folded stack's passes are the runs of its loop."""

    def __init__(self, model_dim: int, num_loops: int) -> None:
        super().__init__()
        self.offsets = nn.ParameterList(torch.zeros(model_dim) for _ in range(num_loops))

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Add this pass's vector."""
        return x_BTD + self.offsets[core_pass.loop]
