"""What of a quantization does not depend on the knob: tensors grouped and factorised, and the grids they will get.

The one idea: everything that does not depend on the step is done once (roles, stacking of matrices that share their
input, one factorisation per Hessian), so that a trial of the size search is only a solve and an encode.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: GPTQ, arXiv 2210.17323; SDClip, challenge PR 1394; docs/concepts.md, "One price of a bit".
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.base.ranks import ALONE, Ranks, errors_shared, share_of
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import ClipSteps, QuantizeConfig, RateSteps
from pipeline.quant.curvature import conditional_variance, lookup_curvature, visit_pool
from pipeline.quant.gptq import Factor, factorise
from pipeline.quant.roles import Role, code_owners, tensor_roles
from pipeline.quant.statistics import pooled_mean, row_sensitivity, site_members, square_entry, visit_names
from pipeline.quant.steps import ClipGrids, RateGrids, max_code_of, rate_factor, tempered_curvature
from pipeline.quant.targets import sequential_target

_SEARCHED = 3000
"""Columns of a matrix from which on a weight takes longer for what other columns ask of it than for its own code."""


class TensorGroup(NamedTuple):
    """Tensors that are quantized in one solve: same input, same grid rule."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each member."""
    role: Role
    weight_RC: Tensor
    """What codes aim at, float32 on the CPU: the stacked rows, moved towards sequential targets if asked for."""
    factor: Factor | None
    """Of the mean second moment of the input; None means nearest rounding."""
    steps: ClipGrids | RateGrids
    """What grid the group has at which knob."""


class QuantizationPlan(NamedTuple):
    """All that a trial needs: the prepared groups and the tensors that pass through."""

    groups: tuple[TensorGroup, ...]
    """Those of this rank."""
    passthrough: dict[str, np.ndarray]
    order: tuple[str, ...]
    """Names in state-dict order, the order of the file."""
    config: QuantizeConfig


def plan_quantization(
    model: LoopedUNet, statistics: Mapping[str, Tensor], config: QuantizeConfig, ranks: Ranks = ALONE
) -> QuantizationPlan:
    """Assign every tensor of `model` a role, stack and factorise; raises ValueError or HessianError naming a tensor.

    Ranks share the tensors, those of one input together; what one of them raises all of them raise.
    """
    roles = tensor_roles(model)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    max_codes = _max_codes(model, config.steps)
    lookups = {name: [name] for name, role in roles.items() if role in ("table", "embedding")}
    costs = {
        owner: sum(weights[name].numel() * (_SEARCHED + weights[name].shape[1]) for name in members if name in weights)
        for owner, members in (lookups | site_members(statistics)).items()
    }
    share = share_of(costs, ranks)
    with errors_shared(ranks):
        groups = [
            *_matrix_groups(roles, weights, statistics, config, max_codes, share),
            *_lookup_groups(roles, weights, statistics, config, max_codes, share),
        ]
    passthrough = {name: _to_float16(name, weights[name]) for name, role in roles.items() if role == "passthrough"}
    return QuantizationPlan(tuple(groups), passthrough, tuple(roles), config)


def _max_codes(model: LoopedUNet, rule: ClipSteps | RateSteps) -> dict[str, int]:
    """Return the largest code magnitude of every quantized tensor; nothing under the rate rule, which clips nothing."""
    if isinstance(rule, RateSteps):
        return {}
    bits = asdict(rule.bits)
    return {name: max_code_of(bits[owner]) for name, owner in code_owners(model).items()}


def _matrix_groups(
    roles: Mapping[str, Role],
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    config: QuantizeConfig,
    max_codes: Mapping[str, int],
    share: Collection[str],
) -> Iterator[TensorGroup]:
    missing = {name for name, role in roles.items() if role == "matrix"}
    for owner, members in site_members(statistics).items():
        missing -= set(members)
        width = weights[owner].shape[-1] if owner in weights else 0
        for name in members:
            require(
                roles.get(name) == "matrix" and weights[name].shape[1] == width,
                "calibration statistics",
                f"moments of {name} beside {owner}",
                "the matrices of this checkpoint: calibrate it again",
            )
        if owner not in share:
            continue
        sensitivities: list[Tensor] = []
        if isinstance(config.steps, RateSteps) or config.visit_weights == "sensitivity":
            sensitivities = [row_sensitivity(statistics, visit_names(statistics, owner, name)) for name in members]
        pool = visit_pool(config.visit_weights, sensitivities, len(visit_names(statistics, owner, owner)), owner)
        hessian_CC = pooled_mean(statistics, "moment", owner, width, pool)
        factor = factorise(hessian_CC, config.damp_frac, owner)
        weight_RC = torch.cat([weights[name] for name in members]).float()
        if config.target_share:
            cross_CC = pooled_mean(statistics, "cross", owner, width, pool)
            weight_RC = sequential_target(weight_RC, cross_CC, hessian_CC, factor.damping, config.target_share)
        lengths = tuple(len(weights[name]) for name in members)
        if isinstance(config.steps, RateSteps):
            exponent = config.steps.row_exponent
            curvature_R = torch.cat([tempered_curvature(visited.sum(0), exponent) for visited in sensitivities])
            step_C = rate_factor(tempered_curvature(conditional_variance(factor), config.steps.column_exponent), 1.0)
            steps = RateGrids(weight_RC, curvature_R, step_C)
            yield TensorGroup(tuple(members), lengths, "matrix", weight_RC, factor, steps)
        else:
            yield from _clip_groups(dict(zip(members, weight_RC.split(lengths), strict=True)), factor, max_codes)
    require(
        not missing,
        "calibration statistics",
        "no moments of " + ", ".join(sorted(missing)),
        "moments of every matrix: calibrate this checkpoint again",
    )


def _clip_groups(members: Mapping[str, Tensor], factor: Factor, max_codes: Mapping[str, int]) -> Iterator[TensorGroup]:
    """Yield the matrices of one input, those with the same limit of codes together."""
    for max_code in dict.fromkeys(max_codes[name] for name in members):
        names = tuple(name for name in members if max_codes[name] == max_code)
        weight_RC = torch.cat([members[name] for name in names])
        steps = ClipGrids(names[0], weight_RC, 1.0, max_code)
        yield TensorGroup(names, tuple(len(members[name]) for name in names), "matrix", weight_RC, factor, steps)


def _lookup_groups(
    roles: Mapping[str, Role],
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    config: QuantizeConfig,
    max_codes: Mapping[str, int],
    share: Collection[str],
) -> Iterator[TensorGroup]:
    for name, role in roles.items():
        if role == "matrix" or name not in share:
            continue
        weight_RC = weights[name].float()
        factor, rule = None, config.steps
        if role == "embedding":
            factor = factorise(square_entry(statistics, "moment/head", weight_RC.shape[1]), config.damp_frac, name)
        steps: ClipGrids | RateGrids
        if isinstance(rule, RateSteps):
            steps = RateGrids(weight_RC, *lookup_curvature(name, statistics, factor, rule))
        else:
            ratio = rule.embedding_clip_ratio if role == "embedding" else rule.table_clip_ratio
            steps = ClipGrids(name, weight_RC, ratio, max_codes[name])
        yield TensorGroup((name,), (len(weight_RC),), role, weight_RC, factor, steps)


def _to_float16(name: str, tensor: Tensor) -> np.ndarray:
    require(tensor.is_floating_point(), f"tensor {name}", str(tensor.dtype), "a floating-point tensor")
    half = tensor.to(torch.float16)
    require(
        bool(torch.isfinite(half).all()),
        f"tensor {name}",
        "a value that float16 cannot hold",
        "finite values below 65504",
    )
    return half.numpy()
