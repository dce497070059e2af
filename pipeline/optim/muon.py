"""Muon: momentum SGD whose update, for a matrix, is replaced by the nearest semi-orthogonal matrix.

The one idea: the update's singular values are all pushed towards one, so that no direction of a weight matrix is
starved. Five bf16 Newton-Schulz iterations do it with matrix products alone, no SVD. They run on stacks: matrices that
have the same shape, up to a transpose, share one batched iteration.

Axes: S matrices of a stack, R the shorter and C the longer side of a matrix (rows and columns after the transpose).

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): Nesterov momentum, quintic
    coefficients, scale sqrt(max(1, rows / columns)).
Differs: momentum is an exponential average (as in torch.optim.Muon), which the scale-free orthogonalisation makes the
    same as the classic sum while momentum is constant; the Frobenius norm is taken in fp32, before the cast to bf16.
    The step is not sharded over ranks yet: every rank updates all matrices.
Checked by: tests/optim/test_muon.py against torch.optim.Muon and against a float64 SVD.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.checks import require

QUINTIC_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5: the steepest slope at zero that keeps singular values near one."""

_SMALLEST_NORM = 1e-7


def orthogonalise_stack(matrices_SRC: Tensor, num_iterations: int) -> Tensor:
    """Return a bf16 stack with the singular vectors of `matrices_SRC` and singular values near one.

    Every matrix must be at least as wide as it is high (rows <= columns), where the Gram matrix is the small one.
    A zero matrix stays zero. Singular values below about 1e-3 of the matrix's norm do not reach one in five iterations.
    """
    assert matrices_SRC.shape[-2] <= matrices_SRC.shape[-1], "the caller transposes tall matrices"
    a, b, c = QUINTIC_COEFFICIENTS
    norm_S11 = torch.linalg.vector_norm(matrices_SRC, dim=(-2, -1), keepdim=True).clamp_(min=_SMALLEST_NORM)
    x_SRC = (matrices_SRC / norm_S11).bfloat16()
    for _ in range(num_iterations):
        gram_SRR = x_SRC @ x_SRC.mT
        cubic_SRR = torch.baddbmm(gram_SRR, gram_SRR, gram_SRR, beta=b, alpha=c)
        x_SRC = torch.baddbmm(x_SRC, cubic_SRR, x_SRC, beta=a)
    return x_SRC


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; `lr`, `momentum` and `weight_decay` are read from each group at every step.

    Parameters without a gradient are left alone. Given equal gradients, every rank computes the identical update.
    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, momentum: float, weight_decay: float,
                 newton_schulz_steps: int) -> None:  # fmt: skip
        """Store the settings of each group; state is one fp32 momentum buffer per matrix."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                  "newton_schulz_steps": newton_schulz_steps})  # fmt: skip
        for group in self.param_groups:
            for weight in group["params"]:
                require(weight.ndim == 2, "Muon parameter", tuple(weight.shape), "a matrix (2-D); give others to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, one batched iteration per shape."""
        assert closure is None, "Muon evaluates no closure"
        for group in self.param_groups:
            stacks: dict[tuple[int, int], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    stacks.setdefault((min(weight.shape), max(weight.shape)), []).append(weight)
            for weights in stacks.values():
                self._update_equal_shapes(weights, group)

    def _update_equal_shapes(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape, up to a transpose."""
        updates = orthogonalise_stack(self._nesterov_stack(weights, group["momentum"]), group["newton_schulz_steps"])
        shrink = 1 - group["lr"] * group["weight_decay"]
        for weight, update_RC in zip(weights, updates, strict=True):
            rows, columns = weight.shape
            scaled_lr = group["lr"] * max(1, rows / columns) ** 0.5
            weight.mul_(shrink).add_(update_RC.mT if rows > columns else update_RC, alpha=-scaled_lr)

    def _nesterov_stack(self, weights: list[Tensor], momentum: float) -> Tensor:
        """Advance the momentum buffers; return the look-ahead gradients, wide side last, as one fp32 stack."""
        wide: list[Tensor] = []
        for weight in weights:
            gradient = weight.grad
            assert gradient is not None, "step() hands over matrices that have a gradient"
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            ahead = gradient.lerp(state["momentum_buffer"], momentum)
            wide.append(ahead.mT if ahead.shape[0] > ahead.shape[1] else ahead)
        return torch.stack(wide)
