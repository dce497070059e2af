"""Cross entropy of the soft-capped head without a full tensor of logits.

One idea: a few rows of logits at a time are made, reduced to nats and, for training, turned into their share of both
gradients at once, so nothing of the size rows x vocabulary outlives its chunk and the backward pass only multiplies by
a scalar. Matrix products run in autocast's dtype, everything between them in float32 or wider.

    z = h W^T    t = tanh(z / cap)    nats = log sum exp(cap t) - cap t[target]
    d nats / d z = (softmax(cap t) - onehot(target)) (1 - t^2)

Axes: N targets, R rows of a chunk, D width of the head's input, V vocabulary.
Source: gradients made in the forward pass, Liger Kernel arXiv 2410.10989.
Differs: the soft cap is part of the kernel; plain tensor operations, which a compiler may fuse further.
Checked by: tests/model/test_loss.py
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.model.layers import compute_dtype

CHUNK_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits that exist at a time: on a CPU they stay in a core's cache, on a GPU they fill it."""

LEAST_ROWS = 256
"""Rows of a chunk however large the vocabulary: with fewer, adding up the head's gradient costs more than its products.
"""


class _MeanNats(torch.autograd.Function):
    """The mean over all targets; both gradients are computed beside it and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, cap: float, dtype: torch.dtype
    ) -> Tensor:
        products_VD = weight_VD.to(dtype)
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        grad_VD = torch.zeros_like(weight_VD, dtype=wide)
        nats, grads = [], []
        for hidden_RD, targets_R in logit_chunks(hidden_ND.to(dtype), targets_N, len(weight_VD)):
            tanh_RV, exp_RV, sum_R1, nats_R1 = _row_nats(hidden_RD @ products_VD.mT, targets_R, cap)
            nats.append(nats_R1.sum())
            slope_RV, target_R1 = exp_RV.div_(sum_R1), targets_R[:, None]
            if torch.compiler.is_compiling():  # a scatter upon zeros becomes a comparison inside one kernel
                slope_RV = slope_RV - torch.zeros_like(slope_RV).scatter(1, target_R1, 1.0)
            else:
                slope_RV.scatter_add_(1, target_R1, torch.full_like(nats_R1, -1.0))
            slope_RV = slope_RV.mul_(1 - tanh_RV.square_()).mul_(1 / len(targets_N)).to(dtype)
            grads.append(slope_RV @ products_VD)
            grad_VD += slope_RV.mT @ hidden_RD
        ctx.save_for_backward(torch.cat(grads).to(hidden_ND.dtype), grad_VD.to(weight_VD.dtype))
        return torch.stack(nats).sum() / len(targets_N)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return grad_ND * grad.to(grad_ND.dtype), grad_VD * grad, None, None, None


def mean_nats(hidden: Tensor, weight_VD: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Return the mean nats per target, a differentiable scalar of at least float32.

    Args:
        hidden: (..., D) what the head reads.
        weight_VD: the head's matrix.
        targets: (...) token ids, int64.
        cap: soft cap of the logits.
    """
    if not torch.is_grad_enabled():
        return target_nats(hidden, weight_VD, targets, cap).mean()
    dtype = compute_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return _MeanNats.apply(hidden.flatten(0, -2), weight_VD, targets.flatten(), cap, dtype)


@torch.no_grad()
def target_nats(hidden: Tensor, weight_VD: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Return the nats of every target in the shape of `targets`, float32 or wider, without a gradient."""
    dtype = compute_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        products_DV = weight_VD.to(dtype).mT
        rows = logit_chunks(hidden.flatten(0, -2).to(dtype), targets.flatten(), len(weight_VD))
        nats = [_row_nats(hidden_RD @ products_DV, targets_R, cap)[-1] for hidden_RD, targets_R in rows]
    return torch.cat(nats).view(targets.shape)


def logit_chunks(hidden_ND: Tensor, targets_N: Tensor, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    """Return states and targets in rows whose logits may exist at a time."""
    rows = max(LEAST_ROWS, CHUNK_LOGITS.get(hidden_ND.device.type, 1 << 22) // vocab_size)
    return list(zip(hidden_ND.split(rows), targets_N.split(rows), strict=True))


def _row_nats(z_RV: Tensor, targets_R: Tensor, cap: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tanh(z / cap), exp of the capped logits below their row's largest, its row sums, and nats (R, 1)."""
    wide = torch.promote_types(z_RV.dtype, torch.float32)
    tanh_RV = torch.tanh(z_RV.to(wide) / cap)
    below_RV = (tanh_RV - tanh_RV.amax(1, keepdim=True)).mul_(cap)
    at_target_R1 = below_RV.gather(1, targets_R[:, None])
    exp_RV = below_RV.exp_()
    sum_R1 = exp_RV.sum(1, keepdim=True)
    return tanh_RV, exp_RV, sum_R1, sum_R1.log() - at_target_R1
