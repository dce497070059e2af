"""From a float model and its calibration bundle to an artifact of the wanted size.

The one idea: everything that does not depend on the step is done once (roles, stacking of matrices that share their
input, one factorisation per Hessian), so that a trial of the size search is only a solve and an encode.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: shared/quantization.md, rungs C and D.
Differs: nothing is ever pruned or dropped to fit; the clip alone moves.
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
from pipeline.quant.budget import MAX_TRIALS, ClipWindow, search_clip
from pipeline.quant.config import QuantizeConfig, SizeConfig
from pipeline.quant.gptq import Factor, factorise, round_to_nearest, solve
from pipeline.quant.layer_report import layer_entry, report_totals
from pipeline.quant.moments import bundle_entry, mean_moment, site_members
from pipeline.quant.roles import Role, tensor_roles
from pipeline.quant.steps import max_code_of, sdclip_step

_GAUSSIAN_BITS = 0.5 * math.log2(2 * math.pi * math.e)
"""Entropy of a unit Gaussian in bits: codes of step s cost this plus log2(std / s) each."""
_CODED_FRAC = 0.99
"""Expected bytes over that entropy: columns of unequal scale save a little; only the first trial relies on it."""


class BudgetError(FairwayError):
    """No allowed clip makes the artifact small enough."""


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
    bits: int
    clip_ratio: float
    """Clip of this group over the common clip."""


class QuantizationPlan(NamedTuple):
    """All that a trial needs: the prepared groups and the tensors that pass through."""

    groups: tuple[TensorGroup, ...]
    passthrough: dict[str, np.ndarray]
    order: tuple[str, ...]
    """Names in state-dict order, the order of the file."""
    block_columns: int


def plan_quantization(model: nn.Module, bundle: Mapping[str, Tensor], config: QuantizeConfig) -> QuantizationPlan:
    """Assign every tensor of `model` a role, stack and factorise; raises ValueError or HessianError naming a tensor."""
    roles = tensor_roles(model)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    groups = [*_matrix_groups(roles, weights, bundle, config), *_lookup_groups(roles, weights, bundle, config)]
    passthrough = {name: _to_float16(name, weights[name]) for name, role in roles.items() if role == "passthrough"}
    return QuantizationPlan(tuple(groups), passthrough, tuple(roles), config.block_columns)


def _matrix_groups(roles: Mapping[str, Role], weights: Mapping[str, Tensor], bundle: Mapping[str, Tensor],
                   config: QuantizeConfig) -> Iterator[TensorGroup]:  # fmt: skip
    missing = {name for name, role in roles.items() if role == "matrix"}
    for owner, members in site_members(bundle).items():
        hessian_CC = mean_moment(bundle, owner)
        _check_members(members, roles, weights, len(hessian_CC))
        missing -= set(members)
        parts = [weights[name] for name in members]
        factor = factorise(hessian_CC, config.damp_frac, owner)
        yield TensorGroup(tuple(members), tuple(len(part) for part in parts), "matrix", torch.cat(parts).float(),
                          hessian_CC, factor, config.matrix_bits, 1.0)  # fmt: skip
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
        is_table = role == "table"
        bits = config.table_bits if is_table else config.embedding_bits
        clip_ratio = config.table_clip_ratio if is_table else config.embedding_clip_ratio
        hessian_CC = factor = None
        if role == "embedding":
            hessian_CC = bundle_entry(bundle, "head/moment").to(torch.float64)
            width = weight_RC.shape[1]
            require(hessian_CC.shape == (width, width), "calibration bundle: head/moment", tuple(hessian_CC.shape),
                    f"({width}, {width}) for {name}: calibrate this checkpoint again")  # fmt: skip
            factor = factorise(hessian_CC, config.damp_frac, name)
        yield TensorGroup((name,), (len(weight_RC),), role, weight_RC, hessian_CC, factor, bits, clip_ratio)


def _to_float16(name: str, tensor: Tensor) -> np.ndarray:
    require(tensor.is_floating_point(), f"tensor {name}", str(tensor.dtype), "a floating-point tensor")
    half = tensor.to(torch.float16)
    require(bool(torch.isfinite(half).all()), f"tensor {name}", "a value that float16 cannot hold",
            "finite values below 65504")  # fmt: skip
    return half.numpy()


def quantize_group(group: TensorGroup, clip_std: float, block_columns: int) -> tuple[Tensor, Tensor]:
    """Return (codes (R, C) int64, step (R,) float32 representable in float16) of one group at the common clip."""
    max_code = max_code_of(group.bits)
    step_R = sdclip_step(group.weight_RC, clip_std * group.clip_ratio, max_code)
    if group.factor is None:
        return round_to_nearest(group.weight_RC, step_R, max_code), step_R
    return solve(group.weight_RC, group.factor, step_R, max_code, block_columns), step_R


def quantize_plan(plan: QuantizationPlan, clip_std: float) -> ArtifactTensors:
    """Return the artifact's tensors at one clip."""
    tensors: ArtifactTensors = dict(plan.passthrough)
    for group in plan.groups:
        codes_RC, step_R = quantize_group(group, clip_std, plan.block_columns)
        for name, rows in _member_slices(group):
            tensors[name] = QuantizedTensor(codes_RC[rows].to(torch.int8).numpy(), step_R[rows].half().numpy())
    return {name: tensors[name] for name in plan.order}


def fit_to_budget(model: nn.Module, bundle: Mapping[str, Tensor], config: QuantizeConfig, size: SizeConfig, meta: dict,
                  progress: Progress) -> tuple[bytes, dict]:  # fmt: skip
    """Return (artifact content, report): the largest artifact found that fits limit_bytes - code_reserve_bytes.

    It lands within tolerance_frac * limit_bytes below that budget, or further below in two cases, both accepted and
    said in report["budget"]: the finest allowed clip is already smaller, or no tried clip came closer, because file
    sizes jump over the tolerance or the search used up its trials. Deterministic. Raises BudgetError when no tried
    clip fits.
    """
    plan = plan_quantization(model, bundle, config)
    budget_bytes = size.limit_bytes - size.code_reserve_bytes
    tolerance_bytes = int(size.tolerance_frac * size.limit_bytes)
    window = ClipWindow(config.min_clip_std, config.max_clip_std, budget_bytes - tolerance_bytes, budget_bytes)
    trials = 0

    def encode(clip_std: float) -> bytes:
        nonlocal trials
        content = encode_artifact(quantize_plan(plan, clip_std), meta)
        trials += 1
        progress(trials, MAX_TRIALS, f"clip {clip_std:.3f}: {len(content)} bytes")
        return content

    guess, bytes_per_octave = _first_guess(plan, (window.floor_bytes + budget_bytes) / 2)
    search = search_clip(encode, guess, window, bytes_per_octave)
    progress(trials, trials, "search done")
    if search.best is None:
        needed = min(num_bytes for _, num_bytes in search.trace)
        raise BudgetError(
            f"size.limit_bytes: {size.limit_bytes} leaves {budget_bytes} bytes for the artifact, which needs at least "
            f"{needed} (at quantize.max_clip_std {config.max_clip_std}): raise size.limit_bytes to at least "
            f"{needed + size.code_reserve_bytes} or raise quantize.max_clip_std"
        )
    report = {"clip_std": search.best.clip_std, **describe_quantization(plan, decode_artifact(search.best.content)[0])}
    fitted = len(search.best.content)
    report["bytes"] = fitted
    report["budget"] = {"budget_bytes": budget_bytes, "tolerance_bytes": tolerance_bytes,
                        "unused_bytes": budget_bytes - fitted, "reached": fitted >= window.floor_bytes,
                        "finest_clip_fits": search.best.clip_std == config.min_clip_std}  # fmt: skip
    report["search"] = [{"clip_std": clip, "bytes": num_bytes} for clip, num_bytes in search.trace]
    return search.best.content, report


def _first_guess(plan: QuantizationPlan, aim_bytes: float) -> tuple[float, float]:
    """Return the clip at which Gaussian rows would fill `aim_bytes`, and the bytes that each doubling of it saves."""
    num_codes = sum(group.weight_RC.numel() for group in plan.groups)
    bits_at_one = sum(
        group.weight_RC.numel() * (math.log2(max_code_of(group.bits) / group.clip_ratio) + _GAUSSIAN_BITS)
        for group in plan.groups
    )
    overhead_bytes = sum(array.nbytes for array in plan.passthrough.values())
    overhead_bytes += sum(2 * len(group.weight_RC) for group in plan.groups)
    bits = 8 * max(aim_bytes - overhead_bytes, 1.0) / _CODED_FRAC
    octaves = (bits_at_one - bits) / max(num_codes, 1)
    return 2.0 ** min(max(octaves, -32.0), 32.0), max(num_codes, 1) / 8 * _CODED_FRAC


def describe_quantization(plan: QuantizationPlan, tensors: ArtifactTensors) -> dict:
    """Return the report of a plan's artifact: every quantized tensor's bits, losses and SQNR, and the totals."""
    layers = []
    for group in plan.groups:
        for name, rows in _member_slices(group):
            stored = tensors[name]
            assert isinstance(stored, QuantizedTensor), "the plan quantized it"
            codes_RC = torch.from_numpy(stored.codes.astype(np.int64))
            step_R = torch.from_numpy(stored.step.astype(np.float32))
            layers.append(layer_entry(name, group.role, group.weight_RC[rows], codes_RC, step_R,
                                      max_code_of(group.bits), group.hessian_CC))  # fmt: skip
    passthrough_values = sum(array.size for array in plan.passthrough.values())
    return {"layers": layers, "totals": report_totals(layers, passthrough_values)}


def _member_slices(group: TensorGroup) -> Iterator[tuple[str, slice]]:
    """Yield each tensor of a group with its rows in the stack."""
    start = 0
    for name, rows in zip(group.names, group.rows, strict=True):
        yield name, slice(start, start + rows)
        start += rows
