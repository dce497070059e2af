"""Step sizes of quantization grids.

The one idea (SDClip): the grid of a row spans a fixed number of that row's standard deviations, so one knob moves the
rate of every tensor together. Steps are rounded to float16 *before* codes are chosen: codes then fit the grid that the
decoder will use.

Axes: R rows, C columns.
Source: challenge PR 1394 (SDClip). Differs: rounded to the stored precision first; no floor tied to ordinary weights.
Checked by: tests/quant/test_gptq.py.
"""

import torch
from torch import Tensor

from pipeline.checks import require

SMALLEST_STEP = 2.0**-24
"""The smallest positive float16: the step of a row that is all zero or finer than float16 can say."""


def max_code_of(bits: int) -> int:
    """Return the largest code magnitude of a symmetric grid of `bits` bits, sign included."""
    return 2 ** (bits - 1) - 1


def sdclip_step(weight_RC: Tensor, clip_std: float, max_code: int) -> Tensor:
    """Return float32 steps (R,), positive and representable in float16: clip_std * std(row) / max_code.

    std is unbiased. Raises ValueError when a step overflows float16 or a weight is not finite.
    """
    weight_RC = weight_RC.detach().to(torch.float64)
    # One column has no spread; its size then sets the scale.
    spread_R = weight_RC.std(dim=1) if weight_RC.shape[1] > 1 else weight_RC.abs().flatten()
    step_R = (spread_R * clip_std / max_code).to(torch.float16).to(torch.float32)
    require(bool(torch.isfinite(step_R).all()), "step", "a value that float16 cannot hold", "finite, modest rows")
    return step_R.clamp_(min=SMALLEST_STEP)
