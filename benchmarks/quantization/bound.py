"""How many bits Gaussian weights would need for the distortion that an artifact has: the rate-distortion bound.

The one idea: GPTQ rounds each weight after adding what the errors before it ask for, so what was coded is the code's
value plus its rounding error, and both follow from the artifact and the factorised Hessian. Its elements are taken as
independent Gaussians whose variance is a product of a row's and a column's, known to the decoder for nothing. (Of all
sources of a variance they need the most: what rows share, the coder's profiles, could go below.) Errors count in steps,
as they cost under the rate rule; the bound is that of reverse water-filling at their summed squares.

Axes: R rows, C columns (in act-order beside a factor), N coded elements of all tensors.
Source: Cover & Thomas, Elements of Information Theory, theorem 10.3.3.
Checked by: tests/benchmarks/test_quantization_bound.py.
"""

import math

import torch
from torch import Tensor

from pipeline.codec.container import ArtifactTensors, QuantizedTensor
from pipeline.codec.integers import IntegerWriter
from pipeline.quant.plan import QuantizationPlan, TensorGroup

_VECTORS = 4
"""Runs of a matrix that come before its codes: load, profile, row and column indices."""
_FIT_ROUNDS = 4
_HALVINGS = 60
_SMALLEST = 1e-12


def gaussian_bits(plan: QuantizationPlan, tensors: ArtifactTensors) -> float:
    """Return the least bits of Gaussians like the plan's quantized tensors, solved by GPTQ, at their distortion."""
    assert plan.config.solver == "gptq", "nearest rounding feeds no errors back"
    parts = [_in_steps(group, tensors) for group in plan.groups]
    variance_N = torch.cat([_rank_one_variance(wanted_RC).flatten() for wanted_RC, _ in parts])
    return water_filling_bits(variance_N, sum(float(error_RC.square().sum()) for _, error_RC in parts))


def code_bits(tensors: ArtifactTensors) -> float:
    """Return the codelength of all codes of a file of ours, without scale indices, steps or header."""
    bits = 0.0
    for tensor in tensors.values():
        if isinstance(tensor, QuantizedTensor):
            writer = IntegerWriter()
            writer.add_matrix(tensor.codes, tensor.states, tensor.on_path)
            writer.runs, writer.excess = writer.runs[_VECTORS:], writer.excess[_VECTORS:]
            bits += writer.num_bits()
    return bits


def _in_steps(group: TensorGroup, tensors: ArtifactTensors) -> tuple[Tensor, Tensor]:
    """Return what was coded and its error, (R, C) each, float64, in whole steps."""
    stored = [tensor for name in group.names if isinstance(tensor := tensors[name], QuantizedTensor)]
    step_RC = torch.cat([torch.from_numpy(tensor.full_step()).expand(tensor.codes.shape) for tensor in stored]).double()
    value_RC = torch.cat([torch.from_numpy(tensor.codes) for tensor in stored]).double() * step_RC
    error_RC = group.weight_RC.double() - value_RC
    if group.factor is not None:
        dead_C = group.factor.variance_C == 0
        error_CR = error_RC.T[group.factor.order_C].masked_fill(dead_C[:, None], 0)
        error_RC.T[group.factor.order_C] = group.factor.feedback_CC @ error_CR
    whole_RC = step_RC * (2 if stored[0].states > 1 else 1)
    return (value_RC + error_RC) / whole_RC, error_RC / whole_RC


def _rank_one_variance(value_RC: Tensor) -> Tensor:
    """Return the likeliest variances that are a row's factor times a column's."""
    square_RC = value_RC.square().clamp_min_(_SMALLEST)
    column_C = torch.ones(square_RC.shape[1], dtype=square_RC.dtype)
    for _ in range(_FIT_ROUNDS):
        row_R = (square_RC / column_C).mean(1)
        column_C = (square_RC / row_R[:, None]).mean(0)
    return row_R[:, None] * column_C


def water_filling_bits(variance_N: Tensor, distortion: float) -> float:
    """Return the fewest bits that describe independent Gaussians up to a sum of squared errors."""
    low, high = math.log(_SMALLEST), math.log(float(variance_N.max()))
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        if float(variance_N.clamp(max=math.exp(level)).sum()) > distortion:
            high = level
        else:
            low = level
    return float((variance_N.log2() - low / math.log(2)).clamp_min_(0).sum() / 2)
