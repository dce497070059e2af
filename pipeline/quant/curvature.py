"""Curvatures that the rate rule sets steps by, from calibration statistics.

Axes: C columns, V rows of a table, R rows of a matrix.
Source: `steps.py` says what they are for.
Checked by: tests/quant/test_steps.py, tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.quant.config import RateSteps
from pipeline.quant.gptq import Factor
from pipeline.quant.statistics import row_sensitivity
from pipeline.quant.steps import rate_factor, tempered_curvature

_UNSEEN_SHARE = 0.1
"""Mean curvature of a table's rows that every row has at least: text may look up rows that calibration did not."""


def visit_pool(
    choice: str | tuple[float, ...], sensitivities: list[Tensor], visits: int, owner: str
) -> Sequence[float] | None:
    """Return how much each visit of a site weighs, `choice` being `quantize.visit_weights`; None: all alike.

    `sensitivities`: (visits, R) of each matrix, for the choice `sensitivity`: their means count. ValueError naming the
    `owner` when it is visited more often than numbers are given.
    """
    if choice == "tokens" or visits == 1:
        return None
    if choice == "sensitivity":
        # A visit's part of a sum that is squared may be negative; it then counts for nothing.
        mean_P = torch.cat(sensitivities, 1).mean(1).clamp(min=0)
        return mean_P.tolist() if float(mean_P.sum()) > 0 else None
    require(
        len(choice) >= visits, "quantize.visit_weights", f"{len(choice)} numbers", f"{visits}, the visits of {owner}"
    )
    return [float(weight) for weight in choice[:visits]]


def lookup_curvature(
    name: str, statistics: Mapping[str, Tensor], factor: Factor | None, rule: RateSteps
) -> tuple[Tensor, Tensor | None]:
    """Return tempered curvatures by row and step factors by column of a table, or of the embedding: it has a factor."""
    rows_V, columns_C = row_sensitivity(statistics, [name])[0], None
    # Without any input to the head it costs nothing, and no column differs from another.
    if factor is not None and factor.variance_C.any():
        columns_C = tempered_curvature(conditional_variance(factor), rule.column_exponent)
        # A row is read twice: as a table's row and, as the head's, against every hidden state.
        rows_V = rows_V / columns_C.mean() + row_sensitivity(statistics, ["head"])[0]
    rows_V = tempered_curvature(rows_V + _UNSEEN_SHARE * rows_V.mean(), rule.lookup_exponent)
    return rows_V, None if columns_C is None else rate_factor(columns_C, 1.0)


def conditional_variance(factor: Factor) -> Tensor:
    """Return what of each input the later columns cannot compensate, V_cc^2, float64 (C,); zero where dead."""
    return torch.empty_like(factor.variance_C).index_copy_(0, factor.order_C, factor.variance_C)
