"""Muon: momentum SGD whose update, for a matrix, is replaced by the nearest semi-orthogonal matrix.

The one idea: the update's singular values are all pushed towards one, so that no direction of a weight matrix is
starved. Matrices that have the same shape, up to a transpose, share one batched iteration.

Axes: S matrices of a stack, R the shorter and C the longer side of a matrix (rows and columns of its wide view).

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): Nesterov momentum, scale
    sqrt(max(1, rows / columns)). D. Chang et al., "MuonEq" (2026, arXiv 2603.28254), variant R: rows of unit norm.
Differs: momentum is an exponential average (as in torch.optim.Muon), which the scale-free orthogonalisation makes the
    same as the classic sum while momentum is constant.
Checked by: tests/optim/test_muon.py against torch.optim.Muon; over ranks: tests/training/test_sharded_muon.py.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.checks import require
from pipeline.optim.newton_schulz import newton_schulz_quintics, orthogonalise_stack


def wide_view(matrix: Tensor) -> Tensor:
    """Return a view of the matrix, or of its transpose, that is at least as wide as it is high."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def equal_shapes(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the matrices in stacks of one shape, up to a transpose, in the order given."""
    stacks: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        stacks.setdefault(wide_view(weight).shape, []).append(weight)
    return list(stacks.values())


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; `lr`, `momentum` and `weight_decay` are read from each group at every step.

    `newton_schulz` is classic or polar-express; `normalize_rows` gives every row (output feature) of the look-ahead
    gradient unit norm before the orthogonalisation, which multiplies in `dtype`. Parameters without a gradient are
    left alone.
    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        newton_schulz: str,
        newton_schulz_steps: int,
        normalize_rows: bool,
        dtype: torch.dtype,
    ) -> None:
        """Store the settings of each group; state is one fp32 momentum buffer per matrix."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.quintics = newton_schulz_quintics(newton_schulz, newton_schulz_steps)
        self.normalize_rows, self.dtype = normalize_rows, dtype
        for group in self.param_groups:
            for weight in group["params"]:
                require(weight.ndim == 2, "Muon parameter", tuple(weight.shape), "a matrix (2-D); give others to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, one batched iteration per shape."""
        assert closure is None, "Muon evaluates no closure"
        for group in self.param_groups:
            for weights in equal_shapes(weight for weight in group["params"] if weight.grad is not None):
                self._move(weights, self._directions(weights, group["momentum"]), group)

    def _directions(self, weights: list[Tensor], momentum: float) -> Tensor:
        """Advance the momentum of matrices of one shape; return their semi-orthogonal directions (S, R, C)."""
        ahead_SRC = weights[0].new_empty(len(weights), *wide_view(weights[0]).shape)
        for row_RC, weight in zip(ahead_SRC, weights, strict=True):
            gradient, state = weight.grad, self.state[weight]
            assert gradient is not None, "step() hands over matrices that have a gradient"
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            ahead = gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - momentum), momentum)
            row_RC.copy_(wide_view(F.normalize(ahead, dim=1) if self.normalize_rows else ahead))
        return orthogonalise_stack(ahead_SRC, self.quintics, self.dtype)

    @staticmethod
    def _move(weights: list[Tensor], directions: Iterable[Tensor], group: dict[str, Any]) -> None:
        """Decay matrices of one shape and move them along their wide directions (R, C)."""
        shrink = 1 - group["lr"] * group["weight_decay"]
        for weight, direction_RC in zip(weights, directions, strict=True):
            rows, columns = weight.shape
            scaled_lr = group["lr"] * max(1, rows / columns) ** 0.5
            wide_view(weight).mul_(shrink).add_(direction_RC, alpha=-scaled_lr)
