"""What changes from pass to pass of the looped core, so that the same weights can do different work.

Every idea is a small module with the interface of `PassConditioner`; the network runs all of them in order before a
pass and in reverse order after it (like the layers of an onion) and never asks which ones there are.

Axes: B batch, T position, D model width, P passes.
Source: FLOW instructions, Parameter Golf pull requests 1140 and 1535.
Differs: nothing.
Checked by: tests/model/test_network.py
"""

from typing import NamedTuple

from torch import Tensor, nn


class CorePass(NamedTuple):
    """What a conditioner may know about the pass it conditions."""

    loop: int
    """Index of the pass."""
    entry_BTD: Tensor
    """The stream as the previous pass (or the encoder) left it."""
    encoder_outputs: tuple[Tensor, ...]
    """The (B, T, D) output of every encoder visit."""


class PassConditioner(nn.Module):
    """A change of the stream around each pass; the default changes nothing."""

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return the stream with which the pass starts."""
        return x_BTD

    def after(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return the stream with which the pass ends."""
        return x_BTD


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
