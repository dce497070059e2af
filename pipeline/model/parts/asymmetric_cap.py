"""The asymmetric soft cap: positive and negative logits are bounded by a number each, both parameters.

    capped(z) = s * tanh(z / s)     s = s+ where z >= 0, else s-

The two may train with all else, or stay as they are until something else trains them, such as test-time training.

Axes: N targets, R rows of a chunk, D width of the head's input, V vocabulary.
Source: programs of the last records of Parameter Golf.
Differs: nothing.
Checked by: tests/model/test_asymmetric_cap.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.model.layers import compute_dtype
from pipeline.model.loss import logit_chunks
from pipeline.model.parts.config import AsymmetricCapConfig


class AsymmetricCap(nn.Module):
    """Caps of a head's logits, and the head's nats, chunk by chunk."""

    def __init__(self, config: AsymmetricCapConfig) -> None:
        super().__init__()
        self.caps = nn.Parameter(torch.tensor([config.positive, config.negative]), requires_grad=config.trained)

    def forward(self, z: Tensor) -> Tensor:
        """Return capped logits in the shape of `z`."""
        caps = self.caps.to(z.dtype)
        cap = torch.where(z >= 0, caps[0], caps[1])
        return cap * torch.tanh(z / cap)

    def nats(self, hidden: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of every target in the shape of `targets`; differentiable, no chunk's logits are kept."""
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            nats = [
                checkpoint(self._nats_of_chunk, *chunk, weight_VD, dtype, use_reentrant=False)
                for chunk in logit_chunks(hidden.flatten(0, -2), targets.flatten(), len(weight_VD))
            ]
        return torch.cat(nats).view(targets.shape)

    def _nats_of_chunk(self, hidden_RD: Tensor, targets_R: Tensor, weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
        z_RV = F.linear(hidden_RD.to(dtype), weight_VD.to(dtype))
        wide = torch.promote_types(z_RV.dtype, torch.float32)
        return F.cross_entropy(self(z_RV.to(wide)), targets_R, reduction="none")
