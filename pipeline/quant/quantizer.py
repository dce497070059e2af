"""From a float model and its calibration bundle to an artifact of the wanted size.

The one idea: a trial of the size search is only a solve and an encode; all the rest is in the plan, made once.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: shared/quantization.md, rungs A, C, D, F and G.
Differs: nothing is ever pruned or dropped to fit; one knob, a factor on all steps, moves alone.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.checks import FairwayError
from pipeline.codec.container import ArtifactTensors, QuantizedTensor, decode_artifact, encode_artifact
from pipeline.progress import Progress
from pipeline.quant.budget import MAX_TRIALS, KnobWindow, search_knob
from pipeline.quant.config import ClipSteps, QuantizeConfig, SizeConfig
from pipeline.quant.gptq import round_to_nearest, solve
from pipeline.quant.layer_report import layer_entry, report_totals
from pipeline.quant.plan import QuantizationPlan, TensorGroup, group_grid, plan_quantization, role_max_code
from pipeline.quant.steps import SMALLEST_STEP, max_code_of

_GAUSSIAN_BITS = 0.5 * math.log2(2 * math.pi * math.e)
"""Entropy of a unit Gaussian in bits: codes of step s cost this plus log2(std / s) each."""
_FINEST_BITS = 12.0
"""Bits per weight beyond which no step is refined under the rate rule."""
_CODED_FRAC = 0.99
"""Expected bytes over that entropy: columns of unequal scale save a little; only the first trial relies on it."""


class BudgetError(FairwayError):
    """No allowed step makes the artifact small enough."""


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
