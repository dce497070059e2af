"""How many bits codes will take at a knob, before anything is solved.

The one idea: a grid of step D on a Gaussian of spread s takes about log2(1 + 2 pi e s^2 / D^2) / 2 bits per code: the
entropy of fine grids, fading to zero on coarse ones. Under the rate rule steps are taken before they are rounded and
limited to what a file can say, so that no knob is out of range.

Axes: R rows, C columns, Q quantiles of the columns' factors.
Source: Cover & Thomas, chapters 8 and 10.
Checked by: tests/quant/test_rate_estimate.py.
"""

import math

import torch
from torch import Tensor

from pipeline.base.ranks import ALONE, Ranks, from_all_ranks
from pipeline.quant.config import ClipSteps
from pipeline.quant.plan import QuantizationPlan, TensorGroup
from pipeline.quant.steps import ClipGrids

_GAUSSIAN_POWER = 2 * math.pi * math.e
_QUANTILES = 8
_FEWEST_OCTAVES = -64.0
_SEARCHED_OCTAVES = 32.0
_MOST_BITS = 64.0
"""More than any code takes; a knob for many more would be too small for a float."""


class RateEstimate:
    """Expected bits per weight of a plan's codes by knob."""

    def __init__(self, plan: QuantizationPlan, ranks: Ranks = ALONE) -> None:
        """Measure every row once, of the groups of all ranks."""
        self._rule = plan.config.steps
        own = [(plan.order.index(each.names[0]), *each.weight_RC.shape, _row_octaves(each)) for each in plan.groups]
        # In one order for any number of ranks.
        shared = sorted(each for rank in from_all_ranks(own, ranks) for each in rank)
        _, rows, columns, parts = zip(*shared, strict=True)
        counts = torch.tensor(rows, dtype=torch.float64) * torch.tensor(columns)
        sizes = torch.tensor([part.numel() for part in parts])
        self.rows, self.weights = sum(rows), int(counts.sum())
        self._octaves = torch.cat([part.flatten() for part in parts])
        self._share = (counts / sizes / self.weights).repeat_interleave(sizes)

    def bits(self, knob: float) -> float:
        """Return bits per weight; every doubling of the knob saves at most one."""
        power = _GAUSSIAN_POWER / knob**2 * self._octaves.mul(2).exp2()
        return float(torch.log1p(power) @ self._share) / math.log(4)

    def knob(self, bits: float) -> float:
        """Return the knob at which codes take `bits` per weight, a large one for next to none, a tiny one for too many.

        Under the clip rule it stays within that rule's limits.
        """
        bits = min(bits, _MOST_BITS)
        fine_bits = float(self._octaves @ self._share) + math.log2(_GAUSSIAN_POWER) / 2
        knob, octaves = 2.0 ** (fine_bits - bits), _SEARCHED_OCTAVES
        while octaves > 1e-6:
            octaves /= 2
            if self.bits(knob * 2**octaves) > bits:
                knob *= 2**octaves
        if isinstance(self._rule, ClipSteps):
            return min(max(knob, self._rule.min_clip_std), self._rule.max_clip_std)
        return knob


def _row_octaves(group: TensorGroup) -> Tensor:
    """Return log2 of spread / step at a knob of 1: float64 (R, 1), or (R, Q) where columns have factors."""
    spread_R = torch.linalg.vector_norm(group.weight_RC, dim=1).double() / group.weight_RC.shape[1] ** 0.5
    steps = group.steps
    if isinstance(steps, ClipGrids):
        ratio_R1 = (spread_R / steps.grid(1.0).step_R)[:, None]
    else:
        ratio_R1 = (spread_R * steps.curvature_R.sqrt())[:, None]
    octaves_R1 = torch.log2(ratio_R1).clamp(min=_FEWEST_OCTAVES)
    if steps.step_C is None:
        return octaves_R1
    middles_Q = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return octaves_R1 - torch.log2(steps.step_C).double().quantile(middles_Q)
