"""What a matrix should be quantized to when its inputs are already those of a quantized network.

The one idea: let y be the float model's input of a matrix W and x the quantized model's, token by token. The error that
counts is mean |W y - Q x|^2. With H = mean x x^T and C = mean y x^T it equals tr((T - Q) H (T - Q)^T) plus a constant,
T = W C H^-1: GPTQ on T instead of W also takes back what the layers before did wrong, as far as x tells it. GPTQ's
damping d adds d |W - Q|^2 to both sides, and T becomes W (C + d)(H + d)^-1.

Axes: R rows, C columns.
Source: GPTAQ (arXiv 2504.02692), Qronos (arXiv 2505.11695).
Differs: in closed form from stored moments, whole matrices at once; a share of the way may be taken.
Checked by: tests/quant/test_targets.py by brute force.
"""

import torch
from torch import Tensor


def sequential_target(weight_RC: Tensor, cross_CC: Tensor, hessian_CC: Tensor, damping: float, share: float) -> Tensor:
    """Return W + share * (T - W), float32; moments undamped float64, `damping` added to both diagonals, once."""
    # Without damping all inputs are zero, and nothing drifts.
    damped_CC = hessian_CC + (damping or 1.0) * torch.eye(len(hessian_CC), dtype=torch.float64)
    drift_RC = weight_RC.double() @ (cross_CC - hessian_CC)
    return (weight_RC + share * torch.linalg.solve(damped_CC, drift_RC.T).T).float()
