"""How unequal weights are, by axis: what a step rule can gain from it, and what it did gain.

The one idea: steps that follow a curvature gain because the mean of unequal curvatures exceeds their geometric mean.
Were they log-normal with spread t (standard deviation of the natural logarithm), that is worth 0.36 t^2 bit a weight,
and steps that follow their power a get 1 - (1 - a)^2 of it. The curvatures as they are give another figure: their tails
are not those of a normal. Both suppose fine grids; a grid that leaves a weight nothing cannot save more bits there.
The measured gain of an axis is the difference between two arms at an equal gap.

Axes: R rows (out features), C columns (in features), V rows of a table, N curvatures, B resamples of the documents.
Source: shared/quantization.md, "Measure honestly".
Checked by: tests/quant/test_quantization_benchmark.py.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.quantization_arms import RATE_KNOBS
from benchmarks.quantization_runs import Bench, Point
from benchmarks.rate_curves import Curve, bytes_at, gap_at, interval
from pipeline.quant.config import RateSteps
from pipeline.quant.curvature import conditional_variance, lookup_curvature
from pipeline.quant.moments import row_sensitivity, site_members, visit_names
from pipeline.quant.plan import QuantizationPlan, TensorGroup
from pipeline.quant.roles import code_owners
from pipeline.quant.steps import tempered_curvature

TENSORS, SCALES, ROWS, COLUMNS, LOOKUPS = "tensor s_l*sigma_l^2", "row sigma_r", "row g_r", "column d_j", "lookup g_v"
ARMS_OF_AXIS = {
    TENSORS: ("Cr", "Gt"),
    ROWS: ("Gt", "Gr"),
    COLUMNS: ("Gt", "Gc"),
    LOOKUPS: ("Gt", "Gl"),
    "rows, columns, lookups": ("Gt", "Gf"),
}
"""Axis -> the arms without it and with it. Steps of arm Cr follow the spread of a row's weights alone."""
REFERENCE = ("Gt", RATE_KNOBS[2])
"""Arm and knob at whose gap axes are compared."""


class Axis(NamedTuple):
    """How unequal curvatures are along an axis, and what following them should be worth."""

    ln_spread: float
    """Root of the mean variance within tensors, weighted by size; between tensors for their axis."""
    lognormal_bits: float
    """Bits per quantized weight of the model at the rule's exponent, were curvatures log-normal."""
    expected_bits: float
    """The same for the curvatures as they are."""


def axes_of(plan: QuantizationPlan, bundle: Mapping[str, Tensor]) -> dict[str, Axis]:
    """Return the axes of a plan under the rate rule.

    Rows without any gradient, columns without any input and matrices of zeros have no logarithm and are left out.
    """
    rule = plan.config.steps
    assert isinstance(rule, RateSteps), "the default that params.yaml ships with"
    weights = sum(group.weight_RC.numel() for group in plan.groups)
    matrices = [part for group in plan.groups if group.role == "matrix" for part in _matrix_curvatures(group, bundle)]
    sizes = [weight_RC.numel() for weight_RC, _, _ in matrices]
    by_axis = {
        SCALES: ([weight_RC.std(1) for weight_RC, _, _ in matrices], sizes, 0.0),  # no step of this rule follows them
        ROWS: ([rows_R for _, rows_R, _ in matrices], sizes, rule.row_exponent),
        COLUMNS: ([columns_C for _, _, columns_C in matrices], sizes, rule.column_exponent),
        LOOKUPS: (*_lookup_curvatures(plan, bundle, rule), rule.lookup_exponent),
    }
    axes = {
        axis: _within(curvatures, [size / weights for size in sizes], exponent)
        for axis, (curvatures, sizes, exponent) in by_axis.items()
    }
    # Of a grid that is as fine as the tensor's weights are large.
    levels = [
        float(_logs(rows_R).mean() + _logs(columns_C).mean()) + math.log(float(weight_RC.var()))
        for weight_RC, rows_R, columns_C in matrices
    ]
    level, share = torch.tensor(levels, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    spread = float((share @ (level - share @ level).square()).sqrt())
    gain = 0.5 * (torch.logsumexp(level + share.log(), 0) - share @ level) / math.log(2)
    axes[TENSORS] = Axis(spread, lognormal_bits(spread) * sum(sizes) / weights, float(gain) * sum(sizes) / weights)
    return axes


def lognormal_bits(spread: float, exponent: float = 1.0) -> float:
    """Return what following a power of a quantity of this ln-spread is worth, bits per weight."""
    return 0.25 / math.log(2) * spread**2 * (1 - (1 - exponent) ** 2)


def _matrix_curvatures(group: TensorGroup, bundle: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield weights (R, C), curvatures of rows (R,) and of columns (C,) of the matrices that matter."""
    assert group.factor is not None, "every matrix has moments"
    columns_C = conditional_variance(group.factor)
    owner = next(owner for owner, members in site_members(bundle).items() if group.names[0] in members)
    for name, weight_RC in zip(group.names, group.weight_RC.double().split(group.rows), strict=True):
        rows_R = row_sensitivity(bundle, visit_names(bundle, owner, name)).sum(0)
        if rows_R.any() and weight_RC.any():
            yield weight_RC, rows_R, columns_C


def _lookup_curvatures(
    plan: QuantizationPlan, bundle: Mapping[str, Tensor], rule: RateSteps
) -> tuple[list[Tensor], list[int]]:
    """Return curvatures of the rows of tables and embedding, not tempered, and the sizes of these."""
    groups = [group for group in plan.groups if group.role != "matrix"]
    whole = dataclasses.replace(rule, lookup_exponent=1.0)
    found = [lookup_curvature(group.names[0], bundle, group.factor, whole)[0] for group in groups]
    return [rows_V for rows_V in found if rows_V is not None], [group.weight_RC.numel() for group in groups]


def _within(curvatures: list[Tensor], shares: list[float], exponent: float) -> Axis:
    share = torch.tensor(shares, dtype=torch.float64)
    variance = torch.stack([_logs(curvature_N).var(correction=0) for curvature_N in curvatures])
    # What is saved at equal loss: the logarithm's mean difference between the curvatures that steps follow.
    gains = [
        0.5
        * float(
            (
                torch.log2(tempered_curvature(curvature_N, 0.0)) - torch.log2(tempered_curvature(curvature_N, exponent))
            ).mean()
        )
        for curvature_N in curvatures
    ]
    spread = float((share @ variance / share.sum()).sqrt())
    expected = float(share @ torch.tensor(gains, dtype=torch.float64))
    return Axis(spread, lognormal_bits(spread, exponent) * sum(shares), expected)


def _logs(values: Tensor) -> Tensor:
    return values[values > 0].double().log()


def compare_axes(
    bench: Bench, curves: Mapping[str, Curve], points: Sequence[Point], axes: Mapping[str, Axis]
) -> dict[str, Any]:
    """Return, and print, what following each axis was to gain and gained, at the gap of `REFERENCE`."""
    arm, knob = REFERENCE
    sizes = [point.file_bytes for point in points if (point.arm, point.knob) == (arm, knob)]
    if not sizes:
        return {"lines": []}
    level_B = gap_at(curves[arm], float(np.mean(sizes)))
    assert level_B is not None, "a mean of an arm's sizes at one knob lies among its rate points"
    model = bench.material.model
    weights = sum(model.state_dict()[name].numel() for name in code_owners(model))
    lines = axis_gains(axes, curves, weights, level_B)
    print_axis_gains(lines, float(level_B[0]))
    return {"gap_mbpb": float(level_B[0]), "lines": lines}


def axis_gains(
    axes: Mapping[str, Axis], curves: Mapping[str, Curve], weights: int, level_B: np.ndarray
) -> list[dict[str, Any]]:
    """Return a line per axis whose arms were measured: expectations, and bits per weight saved at the gap `level_B`."""
    lines = []
    for axis, arms in ARMS_OF_AXIS.items():
        sizes = [bytes_at(curves[arm], level_B) if arm in curves else None for arm in arms]
        if sizes[0] is not None and sizes[1] is not None:
            known = axes[axis]._asdict() if axis in axes else dict.fromkeys(Axis._fields)
            saved = interval((sizes[0] - sizes[1]) * 8 / weights)
            lines.append({"axis": axis, "without": arms[0], "with": arms[1], **known, "measured_bits": saved})
    return lines


def print_axis_gains(lines: list[dict[str, Any]], gap_mbpb: float) -> None:
    """Print what `axis_gains` returned."""
    print(
        f"\nbits per weight that following an axis saves, measured at a gap of {gap_mbpb:.2f} mBPB\n"
        f"{'axis':24} {'arms':8} {'ln-spread':>9} {'log-normal':>10} {'as it is':>8}  measured"
    )
    for line in lines:
        expected = [line[key] for key in Axis._fields]
        cells = ["-" if value is None else f"{value:.3f}" for value in expected]
        cells.append("{value:.3f} [{low:.3f}, {high:.3f}]".format(**line["measured_bits"]))
        arms = f"{line['without']} {line['with']}"
        print(f"{line['axis']:24} {arms:8} {cells[0]:>9} {cells[1]:>10} {cells[2]:>8}  {cells[3]}")
