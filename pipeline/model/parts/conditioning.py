"""What changes from pass to pass of the looped core, so that the same weights can do different work.

Every idea is a small module with the interface of `PassConditioner`; the network runs all of them in order before a
pass and in reverse order after it (like the layers of an onion) and never asks which ones there are.

Axes: B batch, T position, D model width, P passes.
Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535).
Differs: nothing.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class CorePass(NamedTuple):
    """What a conditioner may know about the pass it conditions."""

    loop: int
    """Index of the pass."""
    entry_BTD: Tensor
    """The stream as the previous pass (or the encoder) left it."""
    encoder_outputs: tuple[Tensor, ...]
    """The (B, T, D) output of every encoder visit."""
    memory: dict[str, Tensor]
    """What conditioners keep between the passes of one forward, each under a name of its own."""


class PassConditioner(nn.Module):
    """A change of the stream around each pass; the default changes nothing."""

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return the stream with which the pass starts."""
        return x_BTD

    def after_block(self, x_BTD: Tensor, out_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return the stream after one block that was given `x_BTD` and returned `out_BTD`."""
        return out_BTD

    def after(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return the stream with which the pass ends."""
        return x_BTD

    def writers(self) -> list[nn.Module]:
        """Return the matrices that write to the stream: zero in a fresh network."""
        return []


class LoopSmear(PassConditioner):
    """Mix each pass's output with the previous one's (the encoder's before the first) through a gate per channel."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(model_dim))

    def after(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Return `(1 - g) * x + g * entry`."""
        gate_D = torch.sigmoid(self.gate)
        return (1 - gate_D) * x_BTD + gate_D * core_pass.entry_BTD
