"""From a float model and its calibration bundle to an artifact of the wanted size.

The one idea: everything that does not depend on the step is done once (roles, stacking of matrices that share their
input, one factorisation per Hessian), so that a trial of the size search is only a solve and an encode.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: shared/quantization.md, rungs A, C, D, F and G.
Differs: nothing is ever pruned or dropped to fit; one knob, a factor on all steps, moves alone.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checks import FairwayError, require
from pipeline.codec.container import ArtifactTensors, QuantizedTensor, decode_artifact, encode_artifact
from pipeline.progress import Progress
from pipeline.quant.budget import MAX_TRIALS, KnobWindow, search_knob
from pipeline.quant.config import ClipSteps, QuantizeConfig, RateSteps, SizeConfig
from pipeline.quant.curvature import conditional_variance, lookup_curvature, visit_weights
from pipeline.quant.gptq import Factor, factorise, round_to_nearest, solve
from pipeline.quant.layer_report import layer_entry, report_totals
from pipeline.quant.moments import bundle_entry, mean_moment, row_sensitivity, site_members, visit_names
from pipeline.quant.roles import Role, tensor_roles
from pipeline.quant.steps import SMALLEST_STEP, max_code_of, rate_factor, sdclip_step, tempered_curvature

_GAUSSIAN_BITS = 0.5 * math.log2(2 * math.pi * math.e)
"""Entropy of a unit Gaussian in bits: codes of step s cost this plus log2(std / s) each."""
_FINEST_BITS = 12.0
"""Bits per weight beyond which no step is refined under the rate rule."""
_LARGEST_CODE = 1 << 14
"""Largest code that steps aim at under the rate rule: half of what 16 bits hold."""
_CODED_FRAC = 0.99
"""Expected bytes over that entropy: columns of unequal scale save a little; only the first trial relies on it."""


class BudgetError(FairwayError):
    """No allowed step makes the artifact small enough."""


class TensorGroup(NamedTuple):
    """Tensors that are quantized in one solve: same input, same grid rule."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each member."""
    role: Role
    weight_RC: Tensor
    """The stacked rows, float32 on the CPU."""
    hessian_CC: Tensor | None
    """Mean second moment of the input, float64; None means nearest rounding."""
    factor: Factor | None
    curvature_R: Tensor | None
    """Nats that a unit squared error of a row costs, tempered; None under the clip rule."""
    step_C: Tensor | None
    """Step factors of the columns, the same at every knob; None is 1."""


class Grid(NamedTuple):
    """The steps of a group, as the file will hold them, float32."""

    step_R: Tensor
    step_C: Tensor | None
    """Factor by column; None is 1."""
    max_code: int | None
    """None clips nothing."""

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


def plan_quantization(model: nn.Module, bundle: Mapping[str, Tensor], config: QuantizeConfig) -> QuantizationPlan:
    """Assign every tensor of `model` a role, stack and factorise; raises ValueError or HessianError naming a tensor."""
    roles = tensor_roles(model)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    groups = [*_matrix_groups(roles, weights, bundle, config), *_lookup_groups(roles, weights, bundle, config)]
    passthrough = {name: _to_float16(name, weights[name]) for name, role in roles.items() if role == "passthrough"}
    return QuantizationPlan(tuple(groups), passthrough, tuple(roles), config)


def _matrix_groups(roles: Mapping[str, Role], weights: Mapping[str, Tensor], bundle: Mapping[str, Tensor],
                   config: QuantizeConfig) -> Iterator[TensorGroup]:  # fmt: skip
    missing = {name for name, role in roles.items() if role == "matrix"}
    for owner, members in site_members(bundle).items():
        missing -= set(members)
        parts = [weights[name] for name in members if name in weights]
        sensitivities: list[Tensor] = []
        if isinstance(config.steps, RateSteps):
            sensitivities = [row_sensitivity(bundle, visit_names(bundle, owner, name)) for name in members]
        hessian_CC = mean_moment(bundle, owner, visit_weights(sensitivities))
        _check_members(members, roles, weights, len(hessian_CC))
        factor = factorise(hessian_CC, config.damp_frac, owner)
        rows = columns = None
        if isinstance(config.steps, RateSteps):
            exponent = config.steps.row_exponent
            rows = torch.cat([tempered_curvature(visited.sum(0), exponent) for visited in sensitivities])
            columns = rate_factor(tempered_curvature(conditional_variance(factor), config.steps.column_exponent), 1.0)
        yield TensorGroup(tuple(members), tuple(len(part) for part in parts), "matrix", torch.cat(parts).float(),
                          hessian_CC, factor, rows, columns)  # fmt: skip
    require(not missing, "calibration bundle", f"no moments of {', '.join(sorted(missing))}",
            "moments of every matrix: calibrate this checkpoint again")  # fmt: skip


def _check_members(members: list[str], roles: Mapping[str, Role], weights: Mapping[str, Tensor],
                   columns: int) -> None:  # fmt: skip
    for name in members:
        require(roles.get(name) == "matrix" and weights[name].shape[1] == columns, "calibration bundle",
                f"moments of {name} with {columns} columns",
                "the matrices of this checkpoint: calibrate it again")  # fmt: skip


def _lookup_groups(roles: Mapping[str, Role], weights: Mapping[str, Tensor], bundle: Mapping[str, Tensor],
                   config: QuantizeConfig) -> Iterator[TensorGroup]:  # fmt: skip
    for name, role in roles.items():
        if role not in ("table", "embedding"):
            continue
        weight_RC = weights[name].float()
        hessian_CC = factor = None
        if role == "embedding":
            hessian_CC = bundle_entry(bundle, "head/moment").to(torch.float64)
            width = weight_RC.shape[1]
            require(hessian_CC.shape == (width, width), "calibration bundle: head/moment", tuple(hessian_CC.shape),
                    f"({width}, {width}) for {name}: calibrate this checkpoint again")  # fmt: skip
            factor = factorise(hessian_CC, config.damp_frac, name)
        rows, columns = lookup_curvature(name, bundle, factor, config.steps)
        yield TensorGroup((name,), (len(weight_RC),), role, weight_RC, hessian_CC, factor, rows, columns)


def _to_float16(name: str, tensor: Tensor) -> np.ndarray:
    require(tensor.is_floating_point(), f"tensor {name}", str(tensor.dtype), "a floating-point tensor")
    half = tensor.to(torch.float16)
    require(bool(torch.isfinite(half).all()), f"tensor {name}", "a value that float16 cannot hold",
            "finite values below 65504")  # fmt: skip
    return half.numpy()


def group_grid(group: TensorGroup, knob: float, rule: ClipSteps | RateSteps) -> Grid:
    """Return the steps of a group at one knob; twice the knob, twice the steps."""
    if isinstance(rule, RateSteps):
        assert group.curvature_R is not None, "the plan was made under this rule"
        # Codes must fit 16 bits, with room for the errors that a solver pushes onto a weight.
        least_C = 1.0 if group.step_C is None else float(group.step_C.min())
        finest_R = group.weight_RC.abs().amax(1) / (_LARGEST_CODE * least_C)
        return Grid(rate_factor(group.curvature_R.minimum((knob / finest_R) ** 2), knob), group.step_C, None)
    ratios = {"matrix": 1.0, "embedding": rule.embedding_clip_ratio, "table": rule.table_clip_ratio}
    max_code = role_max_code(group.role, rule)
    assert max_code is not None, "the clip rule clips"
    return Grid(sdclip_step(group.weight_RC, knob * ratios[group.role], max_code), None, max_code)


def role_max_code(role: Role, rule: ClipSteps | RateSteps) -> int | None:
    """Return the largest code magnitude of a role's tensors; None under the rate rule, which clips nothing."""
    if isinstance(rule, RateSteps):
        return None
    return max_code_of({"matrix": rule.matrix_bits, "embedding": rule.embedding_bits, "table": rule.table_bits}[role])


def quantize_plan(plan: QuantizationPlan, knob: float) -> ArtifactTensors:
    """Return the artifact's tensors at one knob."""
    tensors: ArtifactTensors = dict(plan.passthrough)
    for group in plan.groups:
        grid = group_grid(group, knob, plan.config.steps)
        if group.factor is None or plan.config.solver == "nearest":
            codes_RC = round_to_nearest(group.weight_RC, grid.step, grid.max_code)
        else:
            codes_RC = solve(group.weight_RC, group.factor, grid.step, grid.max_code, plan.config.block_columns)
        column_step = None if grid.step_C is None else grid.step_C.half().numpy()
        dtype = torch.int8 if int(codes_RC.abs().max()) <= max_code_of(8) else torch.int16
        for name, rows in _member_slices(group):
            codes, step = codes_RC[rows].to(dtype).numpy(), grid.step_R[rows].half().numpy()
            tensors[name] = QuantizedTensor(codes, step, column_step)
    return {name: tensors[name] for name in plan.order}


def fit_to_budget(model: nn.Module, bundle: Mapping[str, Tensor], config: QuantizeConfig, size: SizeConfig, meta: dict,
                  progress: Progress) -> tuple[bytes, dict]:  # fmt: skip
    """Return (artifact content, report): the largest artifact found that fits limit_bytes - code_reserve_bytes.

    It lands within tolerance_frac * limit_bytes below that budget, or further below in two cases, both accepted and
    said in report["budget"]: the finest allowed steps already give a smaller file, or no tried knob came closer,
    because file sizes jump over the tolerance or the search used up its trials. Deterministic. Raises BudgetError when
    no tried knob fits.
    """
    plan = plan_quantization(model, bundle, config)
    budget_bytes = size.limit_bytes - size.code_reserve_bytes
    tolerance_bytes = int(size.tolerance_frac * size.limit_bytes)
    trials = 0

    def encode(knob: float) -> bytes:
        nonlocal trials
        content = encode_artifact(quantize_plan(plan, knob), meta)
        trials += 1
        progress(trials, MAX_TRIALS, f"steps x {knob:.4g}: {len(content)} bytes")
        return content

    bits = _bits_at_one(plan)
    window = _knob_window(plan, bits, budget_bytes - tolerance_bytes, budget_bytes)
    guess, bytes_per_octave = _first_guess(plan, bits, (window.floor_bytes + budget_bytes) / 2)
    search = search_knob(encode, guess, window, bytes_per_octave)
    progress(trials, trials, "search done")
    if search.best is None:
        needed = min(num_bytes for _, num_bytes in search.trace)
        raise BudgetError(
            f"size.limit_bytes: {size.limit_bytes} leaves {budget_bytes} bytes for the artifact, which needs at least "
            f"{needed} at the coarsest steps tried: raise size.limit_bytes to at least "
            f"{needed + size.code_reserve_bytes}"
        )
    report = {"knob": search.best.knob, **describe_quantization(plan, decode_artifact(search.best.content)[0])}
    fitted = len(search.best.content)
    report["bytes"] = fitted
    report["budget"] = {"budget_bytes": budget_bytes, "tolerance_bytes": tolerance_bytes,
                        "unused_bytes": budget_bytes - fitted, "reached": fitted >= window.floor_bytes,
                        "finest_fits": search.best.knob == window.min_knob}  # fmt: skip
    report["search"] = [{"knob": knob, "bytes": num_bytes} for knob, num_bytes in search.trace]
    return search.best.content, report


def _bits_at_one(plan: QuantizationPlan) -> float:
    """Return the bits that Gaussian rows would take at a knob of 1; every doubling of the knob saves one per weight."""
    bits = 0.0
    for group in plan.groups:
        grid = group_grid(group, 1.0, plan.config.steps)
        spread_R = group.weight_RC.double().square().mean(1).sqrt().clamp(min=SMALLEST_STEP)
        octaves = torch.log2(spread_R / grid.step_R).mean()
        octaves -= 0.0 if grid.step_C is None else torch.log2(grid.step_C).mean()
        bits += group.weight_RC.numel() * (float(octaves) + _GAUSSIAN_BITS)
    return bits


def _num_weights(plan: QuantizationPlan) -> int:
    return max(sum(group.weight_RC.numel() for group in plan.groups), 1)


def _knob_window(plan: QuantizationPlan, bits_at_one: float, floor_bytes: int, limit_bytes: int) -> KnobWindow:
    """Return where the search may go: the rule's own limits, or from far too fine to nothing left."""
    rule = plan.config.steps
    if isinstance(rule, ClipSteps):
        return KnobWindow(rule.min_clip_std, rule.max_clip_std, floor_bytes, limit_bytes)
    bits = bits_at_one / _num_weights(plan)
    return KnobWindow(2.0 ** (bits - _FINEST_BITS), 2.0 ** (bits + _FINEST_BITS), floor_bytes, limit_bytes)


def _first_guess(plan: QuantizationPlan, bits_at_one: float, aim_bytes: float) -> tuple[float, float]:
    """Return the knob at which Gaussian rows would fill `aim_bytes`, and the bytes that each doubling of it saves."""
    overhead_bytes = sum(array.nbytes for array in plan.passthrough.values())
    overhead_bytes += sum(2 * len(group.weight_RC) for group in plan.groups)
    bits = 8 * max(aim_bytes - overhead_bytes, 1.0) / _CODED_FRAC
    octaves = (bits_at_one - bits) / _num_weights(plan)
    return 2.0 ** min(max(octaves, -32.0), 32.0), _num_weights(plan) / 8 * _CODED_FRAC


def describe_quantization(plan: QuantizationPlan, tensors: ArtifactTensors) -> dict:
    """Return the report of a plan's artifact: every quantized tensor's bits, losses and SQNR, and the totals."""
    layers = []
    for group in plan.groups:
        max_code = role_max_code(group.role, plan.config.steps)
        for name, rows in _member_slices(group):
            stored = tensors[name]
            assert isinstance(stored, QuantizedTensor), "the plan quantized it"
            codes_RC = torch.from_numpy(stored.codes.astype(np.int64))
            layers.append(layer_entry(name, group.role, group.weight_RC[rows], codes_RC,
                                      torch.from_numpy(stored.full_step()), max_code, group.hessian_CC))  # fmt: skip
    passthrough_values = sum(array.size for array in plan.passthrough.values())
    return {"layers": layers, "totals": report_totals(layers, passthrough_values)}


def _member_slices(group: TensorGroup) -> Iterator[tuple[str, slice]]:
    """Yield each tensor of a group with its rows in the stack."""
    start = 0
    for name, rows in zip(group.names, group.rows, strict=True):
        yield name, slice(start, start + rows)
        start += rows
