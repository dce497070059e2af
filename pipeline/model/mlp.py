"""The feed-forward half of a block: widen, square a leaky ReLU, narrow.

Axes: B batch, T position, D model width, F hidden width.
Source: squared ReLU arXiv 2109.08668.
Differs: below zero the ReLU leaks before it is squared; slope 0 is the plain squared ReLU.
Checked by: tests/model/test_network.py
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _SquaredLeakyReLU(torch.autograd.Function):
    """`leaky_relu(x, slope) ** 2` with the short backward pass.

    The value is x times a leaky ReLU of the squared slope, and the derivative is twice that leaky ReLU: one saved
    tensor and no power, which on a CPU is a tenth of the whole training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        half_derivative = F.leaky_relu(x, slope * slope)
        ctx.save_for_backward(half_derivative)
        return x * half_derivative

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (half_derivative,) = ctx.saved_tensors
        return (grad * half_derivative).mul_(2), None


def squared_leaky_relu(x: Tensor, slope: float) -> Tensor:
    """Square a ReLU that leaks with `slope` below zero; slope 0 is the plain squared ReLU."""
    return _SquaredLeakyReLU.apply(x, slope)


class MLP(nn.Module):
    """`down(leaky_relu(up(x)) ** 2)`."""

    def __init__(self, model_dim: int, hidden_dim: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.up = nn.Linear(model_dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, model_dim, bias=False)

    def writers(self) -> list[nn.Module]:
        """Return the matrices that write to the stream: zero in a fresh network."""
        return [self.down]

    def forward(self, x_BTD: Tensor, loop: int) -> Tensor:
        """Apply the MLP to every position; it is the same in every pass."""
        h_BTF = self.up(x_BTD)
        return self.down(squared_leaky_relu(h_BTF, self.slope))
