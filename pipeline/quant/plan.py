"""What of a quantization does not depend on the knob: tensors grouped and factorised, and the grids they will get.

The one idea: everything that does not depend on the step is done once (roles, stacking of matrices that share their
input, one factorisation per Hessian), so that a trial of the size search is only a solve and an encode.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: GPTQ, arXiv 2210.17323; SDClip, challenge PR 1394; docs/concepts.md, "One price of a bit".
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import ClipSteps, QuantizeConfig, RateSteps
from pipeline.quant.curvature import conditional_variance, lookup_curvature, visit_pool
from pipeline.quant.gptq import Factor, factorise
from pipeline.quant.roles import Role, code_owners, tensor_roles
from pipeline.quant.statistics import pooled_mean, row_sensitivity, site_members, square_entry, visit_names
from pipeline.quant.steps import max_code_of, rate_factor, sdclip_step, tempered_curvature
from pipeline.quant.targets import sequential_target

_LARGEST_CODE = 1 << 14
"""Largest code that steps aim at under the rate rule: half of what 16 bits hold."""


class TensorGroup(NamedTuple):
    """Tensors that are quantized in one solve: same input, same grid rule."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each member."""
    role: Role
    weight_RC: Tensor
    """What codes aim at, float32 on the CPU: the stacked rows, moved towards sequential targets if asked for."""
    hessian_CC: Tensor | None
    """Mean second moment of the input, float64; None means nearest rounding."""
    factor: Factor | None
    curvature_R: Tensor | None
    """Nats that a unit squared error of a row costs, tempered; None under the clip rule."""
    step_C: Tensor | None
    """Step factors of the columns, the same at every knob; None is 1."""
    max_code: int | None
    """Largest code magnitude; None under the rate rule, which clips nothing."""


class Grid(NamedTuple):
    """The steps of a group, as the file will hold them, float32."""

    step_R: Tensor
    step_C: Tensor | None
    """Factor by column; None is 1."""

    @property
    def step(self) -> Tensor:
        """The product: (R,), or (R, C) when columns have factors."""
        return self.step_R if self.step_C is None else self.step_R[:, None] * self.step_C


class QuantizationPlan(NamedTuple):
    """All that a trial needs: the prepared groups and the tensors that pass through."""

    groups: tuple[TensorGroup, ...]
    passthrough: dict[str, np.ndarray]
    order: tuple[str, ...]
    """Names in state-dict order, the order of the file."""
    config: QuantizeConfig


def plan_quantization(model: LoopedUNet, statistics: Mapping[str, Tensor], config: QuantizeConfig) -> QuantizationPlan:
    """Assign every tensor of `model` a role, stack and factorise; raises ValueError or HessianError naming a tensor."""
    roles = tensor_roles(model)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    max_codes = _max_codes(model, config.steps)
    groups = [
        *_matrix_groups(roles, weights, statistics, config, max_codes),
        *_lookup_groups(roles, weights, statistics, config, max_codes),
    ]
    passthrough = {name: _to_float16(name, weights[name]) for name, role in roles.items() if role == "passthrough"}
    return QuantizationPlan(tuple(groups), passthrough, tuple(roles), config)


def _max_codes(model: LoopedUNet, rule: ClipSteps | RateSteps) -> dict[str, int | None]:
    """Return the largest code magnitude of every quantized tensor; None under the rate rule, which clips nothing."""
    bits = asdict(rule.bits) if isinstance(rule, ClipSteps) else {}
    return {name: max_code_of(bits[owner]) if bits else None for name, owner in code_owners(model).items()}


def _matrix_groups(
    roles: Mapping[str, Role],
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    config: QuantizeConfig,
    max_codes: Mapping[str, int | None],
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
        rows = columns = None
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
        if isinstance(config.steps, RateSteps):
            exponent = config.steps.row_exponent
            rows = torch.cat([tempered_curvature(visited.sum(0), exponent) for visited in sensitivities])
            columns = rate_factor(tempered_curvature(conditional_variance(factor), config.steps.column_exponent), 1.0)
        parts = dict(zip(members, weight_RC.split([len(weights[name]) for name in members]), strict=True))
        for max_code in dict.fromkeys(max_codes[name] for name in members):
            names = tuple(name for name in members if max_codes[name] == max_code)
            yield TensorGroup(
                names,
                tuple(len(parts[name]) for name in names),
                "matrix",
                torch.cat([parts[name] for name in names]),
                hessian_CC,
                factor,
                rows,
                columns,
                max_code,
            )
    require(
        not missing,
        "calibration statistics",
        "no moments of " + ", ".join(sorted(missing)),
        "moments of every matrix: calibrate this checkpoint again",
    )


def _lookup_groups(
    roles: Mapping[str, Role],
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    config: QuantizeConfig,
    max_codes: Mapping[str, int | None],
) -> Iterator[TensorGroup]:
    for name, role in roles.items():
        if role not in ("table", "embedding"):
            continue
        weight_RC = weights[name].float()
        hessian_CC = factor = None
        if role == "embedding":
            hessian_CC = square_entry(statistics, "moment/head", weight_RC.shape[1])
            factor = factorise(hessian_CC, config.damp_frac, name)
        rows, columns = lookup_curvature(name, statistics, factor, config.steps)
        yield TensorGroup(
            (name,), (len(weight_RC),), role, weight_RC, hessian_CC, factor, rows, columns, max_codes[name]
        )


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


def group_grid(group: TensorGroup, knob: float, rule: ClipSteps | RateSteps) -> Grid:
    """Return the steps of a group at one knob; twice the knob, twice the steps."""
    if isinstance(rule, RateSteps):
        assert group.curvature_R is not None, "the plan was made under this rule"
        # Codes must fit 16 bits, with room for the errors that a solver pushes onto a weight.
        least_C = 1.0 if group.step_C is None else float(group.step_C.min())
        finest_R = group.weight_RC.abs().amax(1) / (_LARGEST_CODE * least_C)
        return Grid(rate_factor(group.curvature_R.minimum((knob / finest_R) ** 2), knob), group.step_C)
    ratios = {"matrix": 1.0, "embedding": rule.embedding_clip_ratio, "table": rule.table_clip_ratio}
    assert group.max_code is not None, "the clip rule clips"
    return Grid(sdclip_step(group.weight_RC, knob * ratios[group.role], group.max_code, group.names[0]), None)
