"""Published additions to a quantizer, as arms of `benchmarks.quantization`: each one alone, for comparison only.

Corrections (LQER): a product of two small factors is added to the tensors whose error it lowers most. The best product
under the loss tr(E H E^T), rows weighted by their curvature where it is known, is a truncated singular value
decomposition of the error between the square roots of both weights.

Scales (AWQ): columns of an MLP's second matrix are multiplied by the size of their input to a power, rows of the first
one divided so that the network stays what it was: its activation, a square, takes a factor out as its square. No other
matrix of ours has a neighbour that could: streams are normalised without gains, exclusive attention mixes the channels
of a head.

Pruning: of all codes of +-1 those are zeroed whose removal costs least, each by itself. (Beside the errors of other
codes a removal may cost less than nothing; but then those of a row go together that lean one way, and together they
cost far more than their sum on inputs that are never negative.)

Clips (percentiles): each row's grid ends at that quantile of its weights whose rounding error is least.

Axes: R rows (out features), C columns (in features), K rank, F hidden width of an MLP, N candidates.
Source: LQER, arXiv 2402.02446; AWQ, arXiv 2306.00978; the 9F+1C scripts and Parameter Golf pull requests 1855 and 2135.
Differs: corrections and pruning see H, AWQ's sizes are root mean squares, and clips have no floor.
Checked by: tests/benchmarks/test_quantization_additions.py.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.quantization.published_solver import CLIP_QUANTILES
from pipeline.codec.container import ArtifactTensors, QuantizedTensor, dequantize
from pipeline.model.mlp import MLP
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import QuantizeConfig
from pipeline.quant.fit import member_slices, quantize_plan
from pipeline.quant.gptq import proxy_loss, quantization_error, round_to_nearest, solve
from pipeline.quant.plan import QuantizationPlan, TensorGroup, plan_quantization
from pipeline.quant.statistics import Statistics, pooled_mean, visit_names
from pipeline.quant.steps import SMALLEST_STEP, RateGrids, max_code_of, sdclip_step

CORRECTED_TENSORS = 3
CORRECTION_RANK = 4
_CORRECTION_BITS = 6
"""With four, as published, corrections save half as much."""
_LEFT, _RIGHT = "/left", "/right"
SCALE_EXPONENTS = tuple(index / 20 for index in range(21))
_LEAST_SIZE = 1e-4
_SCALE_BITS = 6
_SCALE_CLIP_STD = 12.85
_BLOCK_COLUMNS = 128


class Member(NamedTuple):
    """One tensor of a plan that has moments, with its error."""

    name: str
    group: TensorGroup
    stored: QuantizedTensor
    error_RC: Tensor
    """float64."""
    curvature_R: Tensor
    """What rows' errors cost, float64; ones where the rule of steps does not say."""


def members(plan: QuantizationPlan, tensors: ArtifactTensors) -> Iterator[Member]:
    """Yield the tensors that were solved with moments."""
    for group in plan.groups:
        if group.factor is None:
            continue
        for name, rows in member_slices(group):
            stored = tensors[name]
            assert isinstance(stored, QuantizedTensor), "the plan quantized it"
            codes_RC, step = torch.from_numpy(stored.codes), torch.from_numpy(stored.full_step())
            curvature_R = torch.ones(len(codes_RC), dtype=torch.float64)
            if isinstance(group.steps, RateGrids):
                curvature_R = group.steps.curvature_R[rows].double()
            yield Member(name, group, stored, quantization_error(group.weight_RC[rows], codes_RC, step), curvature_R)


def corrected(plan: QuantizationPlan, knob: float) -> ArtifactTensors:
    """Return the tensors of a plan and, under names of their own, the factors of the corrections that save most."""
    tensors = quantize_plan(plan, knob)
    worth = [member for member in members(plan, tensors) if member.curvature_R.any()]
    found = sorted(map(correction, worth), key=lambda each: -each[0])
    for _, factors in found[:CORRECTED_TENSORS]:
        tensors.update(factors)
    return tensors


def correction(member: Member) -> tuple[float, ArtifactTensors]:
    """Return what a correction of this rank saves of the weighted loss, and its factors (K, R) and (K, C)."""
    factor = member.group.factor
    assert factor is not None, "members have moments"
    damped_CC = factor.hessian_CC + factor.damping * torch.eye(len(factor.hessian_CC), dtype=torch.float64)
    left_RK, right_KC = best_product(member.error_RC, damped_CC, member.curvature_R, CORRECTION_RANK)
    factors: ArtifactTensors = {
        member.name + _LEFT: _small_integers(left_RK.T),
        member.name + _RIGHT: _small_integers(right_KC),
    }
    rest_RC = member.error_RC - torch.from_numpy(_product(factors, member.name))
    before, after = (weighted_loss(each_RC, damped_CC, member.curvature_R) for each_RC in (member.error_RC, rest_RC))
    return before - after, factors


def weighted_loss(error_RC: Tensor, hessian_CC: Tensor, curvature_R: Tensor) -> float:
    """Return the sum over rows of curvature_r * (E H E^T)_rr, all float64."""
    return float((error_RC @ hessian_CC).mul(error_RC).sum(1) @ curvature_R)


def best_product(error_RC: Tensor, hessian_CC: Tensor, curvature_R: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors (R, K) and (K, C), float64, of the product that leaves the least weighted loss."""
    root_CC, root_R1 = torch.linalg.cholesky(hessian_CC), curvature_R.sqrt()[:, None]
    left_RK, size_K, right_KC = torch.linalg.svd(root_R1 * error_RC @ root_CC, full_matrices=False)
    root_K = size_K[:rank].sqrt()
    right_KC = torch.linalg.solve_triangular(root_CC, right_KC[:rank], left=False, upper=False)
    return left_RK[:, :rank] * root_K / root_R1, root_K[:, None] * right_KC


def _small_integers(factor_KN: Tensor) -> QuantizedTensor:
    max_code = max_code_of(_CORRECTION_BITS)
    step_K = (factor_KN.abs().amax(1) / max_code).half().clamp(min=SMALLEST_STEP)
    codes_KN = round_to_nearest(factor_KN, step_K.float(), max_code)
    return QuantizedTensor(codes_KN.to(torch.int8).numpy(), step_K.numpy())


def _product(tensors: Mapping[str, QuantizedTensor | np.ndarray], name: str) -> np.ndarray:
    factors = dequantize({side: tensors[name + side] for side in (_LEFT, _RIGHT)})
    return factors[_LEFT].T @ factors[_RIGHT]


def folded(tensors: ArtifactTensors) -> ArtifactTensors:
    """Return tensors that a model can load: corrections added to what they correct, in float32."""
    names = [name.removesuffix(_LEFT) for name in tensors if name.endswith(_LEFT)]
    sums = {name: dequantize({name: tensors[name]})[name] + _product(tensors, name) for name in names}
    return {name: sums.get(name, tensor) for name, tensor in tensors.items() if not name.endswith((_LEFT, _RIGHT))}


def scaled_plan(model: LoopedUNet, statistics: Statistics, config: QuantizeConfig) -> QuantizationPlan:
    """Return the plan of a network that computes the same, its MLPs' second matrices scaled by their input's sizes."""
    return plan_quantization(*scaled_network(model, statistics), config)


@torch.no_grad()
def scaled_network(model: LoopedUNet, statistics: Statistics) -> tuple[LoopedUNet, Statistics]:
    """Return the same function with scaled MLPs, and the statistics that calibrating it would have given."""
    model, statistics = copy.deepcopy(model), dict(statistics)
    for prefix, module in model.named_modules():
        if not isinstance(module, MLP):
            continue
        up, down = f"{prefix}.up.weight", f"{prefix}.down.weight"
        moment_FF = pooled_mean(statistics, "moment", down, module.down.in_features)
        scale_F = best_scale(module.down.weight, moment_FF)
        module.down.weight.mul_(scale_F)
        module.up.weight.div_(scale_F.sqrt()[:, None])
        for visit in visit_names(statistics, down, down):
            statistics[f"moment/{visit}"] = statistics[f"moment/{visit}"] / (scale_F[:, None] * scale_F)
        for visit in visit_names(statistics, up, up):
            if f"sensitivity/{visit}" in statistics:
                statistics[f"sensitivity/{visit}"] = statistics[f"sensitivity/{visit}"] * scale_F
    return model, statistics


def best_scale(weight_RC: Tensor, moment_CC: Tensor) -> Tensor:
    """Return the factors of columns (C,), float32, under which nearest rounding to six bits costs least."""
    size_C = moment_CC.diagonal().sqrt()
    scales = [(size_C**exponent).clamp(min=_LEAST_SIZE) for exponent in SCALE_EXPONENTS]
    scales = [(scale_C / (scale_C.max() * scale_C.min()).sqrt()).float() for scale_C in scales]
    return min(scales, key=lambda scale_C: scaled_loss(weight_RC, scale_C, moment_CC))


def scaled_loss(weight_RC: Tensor, scale_C: Tensor, moment_CC: Tensor) -> float:
    """Return tr(E H E^T) of rounding to nearest with scaled columns."""
    scaled_RC, max_code = weight_RC * scale_C, max_code_of(_SCALE_BITS)
    step_R = sdclip_step(scaled_RC, _SCALE_CLIP_STD, max_code)
    codes_RC = round_to_nearest(scaled_RC, step_R, max_code)
    return proxy_loss(scaled_RC, codes_RC, step_R, moment_CC / (scale_C[:, None] * scale_C))


def pruned(share: float, plan: QuantizationPlan, knob: float) -> ArtifactTensors:
    """Return the tensors of a plan, a share of their codes of +-1 zeroed: those that cost least."""
    tensors = quantize_plan(plan, knob)
    found = list(members(plan, tensors))
    costs = [removal_cost(member) for member in found]
    cost_N = torch.cat([cost_RC[cost_RC.isfinite()] for cost_RC in costs]).sort().values
    num_zeroed = round(share * len(cost_N))
    most = float(cost_N[num_zeroed - 1]) if num_zeroed else -math.inf
    for member, cost_RC in zip(found, costs, strict=True):
        codes_RC = np.where((cost_RC <= most).numpy(), 0, member.stored.codes)
        tensors[member.name] = member.stored._replace(codes=codes_RC.astype(member.stored.codes.dtype))
    return tensors


def removal_cost(member: Member) -> Tensor:
    """Return the weighted loss of each code of +-1 if it alone is zeroed, (R, C) float64; infinite for others."""
    assert member.stored.states == 1, "a path has no code to spare"
    assert member.group.factor is not None, "members have moments"
    codes_RC, step_RC = torch.from_numpy(member.stored.codes), torch.from_numpy(member.stored.full_step()).double()
    cost_RC = member.curvature_R[:, None] * step_RC.square() * member.group.factor.hessian_CC.diagonal()
    return torch.where(codes_RC.abs() == 1, cost_RC, torch.inf)


def percentile_codes(group: TensorGroup, max_code: int) -> tuple[Tensor, Tensor]:
    """Return GPTQ's codes (R, C) and steps (R,) of a group whose rows end at the quantile that rounds best."""
    assert group.factor is not None, "matrices have moments"
    step_R = percentile_step(group.weight_RC, max_code)
    return solve(group.weight_RC, group.factor, step_R, max_code, _BLOCK_COLUMNS), step_R


def percentile_step(weight_RC: Tensor, max_code: int) -> Tensor:
    """Return float32 steps (R,), representable in float16, of least squared rounding error among the quantiles'."""
    quantile_QR = torch.quantile(weight_RC.abs(), torch.tensor(CLIP_QUANTILES), dim=1)
    step_QR = (quantile_QR / max_code).half().float().clamp(min=SMALLEST_STEP)
    error_QR = torch.stack(
        [
            quantization_error(weight_RC, round_to_nearest(weight_RC, step_R, max_code), step_R).square().sum(1)
            for step_R in step_QR
        ]
    )
    return step_QR.gather(0, error_QR.argmin(0)[None])[0]
