"""Step sizes of quantization grids: two rules, each with one knob for the whole model.

Clip rule (SDClip): the grid of a row spans a fixed number of that row's standard deviations.

Rate rule: minimise total loss + lambda * bits. A uniform grid of step D costs D^2/12 per weight in squared error, which
costs half the weight's curvature in nats; bits fall by one per doubling of D. Setting the derivative to zero gives D^2
~ lambda / curvature for every weight, whatever its size: weights that are small next to D cost no bits and clip
nothing. The curvature of weight (r, c) is g_r * d_c: g_r of the output row (`calibration/sensitivity.py`), d_c the part
of input c that later columns cannot compensate, V_cc^2 of GPTQ's factor. So a step is a row factor times a column
factor. Exponents temper estimated ratios within a tensor; ratios between tensors are taken as they are.

Steps are rounded to what the file stores *before* codes are chosen: codes then fit the grid that the decoder will use.

Axes: R rows, C columns.
Source: challenge PR 1394 (SDClip); reverse water-filling (Cover & Thomas, chapter 10) for the rate rule.
Differs: rounded to the stored precision first; no floor tied to ordinary weights.
Checked by: tests/quant/test_gptq.py, tests/quant/test_steps.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.base.checks import require

SMALLEST_STEP = 2.0**-24
"""The smallest positive float16: the step of a row that is all zero or finer than float16 can say."""
STEPS_PER_OCTAVE = 8
"""Grid of the rate rule's factors: few distinct values cost few bits, and none is off by more than half a grid step."""
_LARGEST_STEP = 2.0**15
_LARGEST_CODE = 1 << 14
"""Largest code that steps aim at under the rate rule: half of what 16 bits hold."""
_SMALLEST_CURVATURE = 1e-30
_LEAST_SHARE = 1e-4
"""Curvatures below this share of their tensor's mean count as this share: samples of tokens see few of them."""


def max_code_of(bits: int) -> int:
    """Return the largest code magnitude of a symmetric grid of `bits` bits, sign included."""
    return 2 ** (bits - 1) - 1


def sdclip_step(weight_RC: Tensor, clip_std: float, max_code: int, name: str = "matrix") -> Tensor:
    """Return float32 steps (R,), positive and representable in float16: clip_std * std(row) / max_code.

    std is unbiased. Raises ValueError with `name` when a step overflows float16 or a weight is not finite.
    """
    weight_RC = weight_RC.detach().to(torch.float64)
    # One column has no spread; its size then sets the scale.
    spread_R = weight_RC.std(dim=1) if weight_RC.shape[1] > 1 else weight_RC.abs().flatten()
    step_R = (spread_R * clip_std / max_code).to(torch.float16).to(torch.float32)
    require(
        bool(torch.isfinite(step_R).all()), f"step of {name}", "a value that float16 cannot hold", "finite, modest rows"
    )
    return step_R.clamp_(min=SMALLEST_STEP)


def tempered_curvature(curvature: Tensor, exponent: float) -> Tensor:
    """Return a vector's ratios raised to `exponent`, float64, at the level that is optimal for steps with such ratios.

    Minimising sum g_r D_r^2 + lambda * bits over the common factor of D_r^2 = t * g_r^-exponent gives
    t = lambda / mean(g^(1 - exponent)). An exponent of 1 keeps the vector, 0 puts its mean everywhere. Entries below a
    small share of the mean count as that share.
    """
    vector = curvature.double()
    vector = vector.clamp(min=float(vector.mean()) * _LEAST_SHARE)
    return vector**exponent * (vector ** (1 - exponent)).mean()


def rate_factor(curvature: Tensor, knob: float) -> Tensor:
    """Return float32 step factors knob / sqrt(curvature), on a logarithmic grid, representable in float16."""
    octaves = torch.log2(knob * curvature.double().clamp(min=_SMALLEST_CURVATURE) ** -0.5)
    snapped = 2.0 ** (torch.round(octaves * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE)
    return snapped.clamp(SMALLEST_STEP, _LARGEST_STEP).to(torch.float16).to(torch.float32)


class Grid(NamedTuple):
    """The steps of a group of tensors, as the file will hold them, float32."""

    step_R: Tensor
    step_C: Tensor | None
    """Factor by column; None is 1."""

    @property
    def step(self) -> Tensor:
        """The product: (R,), or (R, C) when columns have factors."""
        return self.step_R if self.step_C is None else self.step_R[:, None] * self.step_C


@dataclass(frozen=True, eq=False)
class ClipGrids:
    """The grids of a group under the clip rule."""

    name: str
    """Of its first tensor."""
    weight_RC: Tensor
    clip_ratio: float
    """Its clip over the knob."""
    max_code: int
    """Largest code magnitude."""

    step_C = None

    def grid(self, knob: float) -> Grid:
        """Return the steps at one knob; twice the knob, twice the steps."""
        return Grid(sdclip_step(self.weight_RC, knob * self.clip_ratio, self.max_code, self.name), None)


@dataclass(frozen=True, eq=False)
class RateGrids:
    """The grids of a group under the rate rule, which clips nothing."""

    weight_RC: Tensor
    curvature_R: Tensor
    """Nats that a unit squared error of a row costs, tempered."""
    step_C: Tensor | None
    """Step factors of the columns, the same at every knob; None is 1."""

    max_code = None

    def grid(self, knob: float) -> Grid:
        """Return the steps at one knob; twice the knob, twice the steps."""
        # Codes must fit 16 bits, with room for the errors that a solver pushes onto a weight.
        least_C = 1.0 if self.step_C is None else float(self.step_C.min())
        finest_R = self.weight_RC.abs().amax(1) / (_LARGEST_CODE * least_C)
        return Grid(rate_factor(self.curvature_R.minimum((knob / finest_R) ** 2), knob), self.step_C)
