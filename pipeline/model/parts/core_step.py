"""How far a pass may move the stream: a fixed fraction of what it wants, or a learned one.

Axes: B batch, T position, D model width.
Source: learned fractions, Parameter Golf pull request 1579; contractive step, pull request 1308.
Differs: 1579 stores a fraction for the first pass too, which it never reads; here there is none.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.parts.conditioning import CorePass, PassConditioner


class BlockStep(PassConditioner):
    """From the second pass on, a block's change of the stream counts `alpha[pass - 1]` times."""

    def __init__(self, num_loops: int) -> None:
        super().__init__()
        self.alpha = nn.ParameterList(torch.tensor(1.0) for _ in range(num_loops - 1))

    def after_block(self, x_BTD: Tensor, out_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return `x + alpha * (out - x)`."""
        if core_pass.loop == 0:
            return out_BTD
        return x_BTD + self.alpha[core_pass.loop - 1] * (out_BTD - x_BTD)


class PassStep(PassConditioner):
    """A whole pass, what is added before it included, counts a fixed fraction."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def after(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return `entry + fraction * (x - entry)`."""
        return torch.lerp(core_pass.entry_BTD, x_BTD, self.fraction)
