"""Functions that every part of the network uses: the norm, the soft cap, the dtype of matrix products, the tail.

Source: RMSNorm arXiv 1910.07467; logit soft-capping arXiv 2408.00118.
Differs: the norm has no weights, and its epsilon is that of the tensor's dtype.
Checked by: tests/model/test_network.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last axis to unit root mean square; same shape and dtype."""
    return F.rms_norm(x, (x.size(-1),))


def tail(x: Tensor, num_tokens: int | None) -> Tensor:
    """Return the last positions of (B, T, ...): `x` itself for None, or when it has no others."""
    return x if num_tokens is None or num_tokens == x.size(1) else x[:, -num_tokens:]


def softcap(z: Tensor, cap: float) -> Tensor:
    """Bound `z` smoothly to (-cap, cap); the slope at zero is 1."""
    return cap * torch.tanh_(z / cap)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of `x` runs: autocast's where it is on, else that of `x`."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype


def stream_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of the residual stream that begins with `x`: under autocast its own on a GPU, float32 on a CPU.

    Half the bytes of all that lies between two products is what a GPU gains by it.
    """
    is_wide = torch.is_autocast_enabled("cpu") and not x.is_cuda
    return torch.promote_types(x.dtype, torch.float32) if is_wide else compute_dtype(x)
