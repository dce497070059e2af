"""How unequal weights are: what a step rule can gain from each axis, before anything is measured.

The one idea: steps that follow a curvature gain because the mean of unequal curvatures exceeds their geometric mean;
were they log-normal with spread t (standard deviation of the natural logarithm), that is worth 0.36 t^2 bit a weight.

Axes: R rows (out features), C columns (in features).
Source: shared/quantization.md, "Measure honestly".
Checked by: tests/quant/test_quantization_benchmark.py.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.quant.curvature import conditional_variance
from pipeline.quant.moments import row_sensitivity, visit_names
from pipeline.quant.plan import QuantizationPlan


def log_spreads(plan: QuantizationPlan, bundle: Mapping[str, Tensor]) -> dict[str, float]:
    """Return ln-spreads over the matrices, weighted by their sizes: within matrices by axis, and between them.

    Rows without any gradient, columns without any input and matrices of zeros have no logarithm and are left out.
    """
    within: dict[str, list[float]] = {"row sigma_r": [], "row g_r": [], "column d_j": []}
    sizes, levels = [], []
    for group in plan.groups:
        if group.role != "matrix":
            continue
        assert group.factor is not None, "every matrix has moments"
        column_logs = _logs(conditional_variance(group.factor))
        for name, weight_RC in zip(group.names, group.weight_RC.double().split(group.rows), strict=True):
            row_logs = _logs(row_sensitivity(bundle, visit_names(bundle, group.names[0], name)).sum(0))
            if not len(row_logs) or not weight_RC.any():  # nothing depends on it, or it holds nothing
                continue
            found = (_spread(_logs(weight_RC.std(1))), _spread(row_logs), _spread(column_logs))
            for values, spread in zip(within.values(), found, strict=True):
                values.append(spread)
            sizes.append(weight_RC.numel())
            levels.append(float(row_logs.mean() + column_logs.mean()) + math.log(float(weight_RC.var())))
    share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    level = torch.tensor(levels, dtype=torch.float64)
    spreads = {axis: torch.tensor(values, dtype=torch.float64) for axis, values in within.items()}
    spreads["tensor s_l*sigma_l^2"] = level - (share * level).sum()
    return {axis: float((share * spread.square()).sum().sqrt()) for axis, spread in spreads.items()}


def expected_bits(spread: float) -> float:
    """Return what following a quantity of this ln-spread is worth, bits per weight."""
    return 0.25 / math.log(2) * spread**2


def _logs(values: Tensor) -> Tensor:
    return values[values > 0].double().log()


def _spread(logs: Tensor) -> float:
    return float(logs.std(correction=0))
