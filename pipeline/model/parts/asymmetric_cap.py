"""The asymmetric soft cap: positive and negative logits are bounded by a number each, both parameters.

    c = s * tanh(z / s)     s = s+ where z >= 0, else s-
    dc / dz = 1 - t^2       dc / ds = t - (z / s) (1 - t^2)       t = tanh(z / s)

The two may train with all else, or stay as they are until something else trains them, such as test-time training. The
loss is that of `loss.py` with these slopes: a few rows of logits at a time.

Axes: N targets, R rows of a chunk, D width of the head's input, V vocabulary.
Source: programs of the last records of Parameter Golf.
Differs: nothing.
Checked by: tests/model/test_asymmetric_cap.py
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.layers import compute_dtype
from pipeline.model.loss import logit_chunks
from pipeline.model.parts.config import AsymmetricCapConfig


class _CappedNats(torch.autograd.Function):
    """The mean over all targets; gradients are computed beside it and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        caps: Tensor,
        targets_N: Tensor,
        dtype: torch.dtype,
        trained: bool,
    ) -> Tensor:
        products_VD = weight_VD.to(dtype)
        grad_VD, caps_grad = torch.zeros_like(weight_VD), torch.zeros_like(caps)
        nats, grads = [], []
        for hidden_RD, targets_R in logit_chunks(hidden_ND.to(dtype), targets_N, len(weight_VD)):
            z_RV = _wide(hidden_RD @ products_VD.mT)
            cap_RV = _cap_of(z_RV, caps)
            tanh_RV = torch.tanh(z_RV / cap_RV)
            logs_RV = torch.log_softmax(cap_RV * tanh_RV, dim=1)
            nats.append(-logs_RV.gather(1, targets_R[:, None]).sum())
            grad_RV = logs_RV.exp().scatter_add(1, targets_R[:, None], torch.full_like(logs_RV[:, :1], -1.0))
            grad_RV, slope_RV = grad_RV / len(targets_N), 1 - tanh_RV.square()
            if trained:
                by_cap_RV = grad_RV * (tanh_RV - z_RV / cap_RV * slope_RV)
                caps_grad += torch.stack([(by_cap_RV * side_RV).sum() for side_RV in (z_RV >= 0, z_RV < 0)])
            z_grad_RV = (grad_RV * slope_RV).to(dtype)
            grads.append(z_grad_RV @ products_VD)
            grad_VD += z_grad_RV.mT @ hidden_RD
        ctx.save_for_backward(torch.cat(grads).to(hidden_ND.dtype), grad_VD, caps_grad)
        return torch.stack(nats).sum() / len(targets_N)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad_ND, grad_VD, caps_grad = ctx.saved_tensors
        return grad_ND * grad.to(grad_ND.dtype), grad_VD * grad, caps_grad * grad, None, None, None


class AsymmetricCap(nn.Module):
    """Caps of a head's logits, and the head's nats, chunk by chunk."""

    def __init__(self, config: AsymmetricCapConfig) -> None:
        super().__init__()
        self.caps = nn.Parameter(torch.tensor([config.positive, config.negative]), requires_grad=config.trained)

    def forward(self, z: Tensor) -> Tensor:
        """Return capped logits in the shape of `z`."""
        cap = _cap_of(z, self.caps)
        return cap * torch.tanh(z / cap)

    def mean_nats(self, hidden: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
        """Return the mean nats per target, differentiable, without a full tensor of logits."""
        if not torch.is_grad_enabled():
            return self.nats(hidden, weight_VD, targets).mean()
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            rows_ND, targets_N, trained = hidden.flatten(0, -2), targets.flatten(), self.caps.requires_grad
            return _CappedNats.apply(rows_ND, weight_VD, self.caps, targets_N, dtype, trained)

    @torch.no_grad()
    def nats(self, hidden: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of every target in the shape of `targets`, without a gradient."""
        dtype, nats = compute_dtype(hidden), []
        with torch.autocast(hidden.device.type, enabled=False):
            products_DV = weight_VD.to(dtype).mT
            for hidden_RD, targets_R in logit_chunks(
                hidden.flatten(0, -2).to(dtype), targets.flatten(), len(weight_VD)
            ):
                logs_RV = torch.log_softmax(self(_wide(hidden_RD @ products_DV)), dim=1)
                nats.append(-logs_RV.gather(1, targets_R[:, None])[:, 0])
        return torch.cat(nats).view(targets.shape)


def _cap_of(z: Tensor, caps: Tensor) -> Tensor:
    return torch.where(z >= 0, caps[0], caps[1]).to(z.dtype)


def _wide(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))
