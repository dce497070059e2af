"""The published programs' quantizer of matrices, bug for bug: arm B of `benchmarks.quantization`, for comparison only.

The one idea: reproduce what their scripts compute, so that the difference to correct GPTQ is a measured row. The bugs,
kept on purpose: errors are pushed along rows of the *plain inverse* of H instead of its Cholesky factor; columns go in
ascending order of diag(H), the most important last; a step is never below 1 / max_code, whatever the weights' size; and
codes are chosen with the float32 step while the file holds its float16 rounding.

Axes: R rows (out features), C columns (in features), K columns of a block.
Source: the 7F+3C, 4F+1C and 9F+1C scripts of the challenge (docs/architectures.md).
Differs: `max_code` is a parameter (theirs is 31), so that the solver has rate points. No dead columns, no fallbacks.
Checked by: tests/benchmarks/test_published_solver.py, against losses that their code reached on real layers.
"""

import torch
from torch import Tensor

from pipeline.quant.plan import TensorGroup

_DAMP_FRAC = 0.002
_BLOCK_COLUMNS = 64
CLIP_QUANTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)


def published_codes(group: TensorGroup, max_code: int) -> tuple[Tensor, Tensor]:
    """Return codes (R, C) and steps (R,) of matrices that share their input."""
    assert group.factor is not None, "every matrix has moments"
    step_R = published_step(group.weight_RC, max_code)
    return published_solve(group.weight_RC, group.factor.hessian_CC, step_R, max_code), step_R


def published_step(weight_RC: Tensor, max_code: int) -> Tensor:
    """Return float32 steps (R,) of a float32 matrix: by row, the clip of least squared rounding error, with a floor."""
    magnitude_RC = weight_RC.abs()
    best_R = torch.full((len(weight_RC),), torch.inf)
    step_R = torch.ones(len(weight_RC))
    for quantile in CLIP_QUANTILES:
        candidate_R = (torch.quantile(magnitude_RC, quantile, dim=1) / max_code).clamp_min(1.0 / max_code)
        codes_RC = (weight_RC / candidate_R[:, None]).round().clamp(-max_code, max_code)
        error_R = (weight_RC - codes_RC * candidate_R[:, None]).square().mean(1)
        better_R = error_R < best_R
        step_R, best_R = torch.where(better_R, candidate_R, step_R), torch.where(better_R, error_R, best_R)
    return step_R


def published_solve(weight_RC: Tensor, hessian_CC: Tensor, step_R: Tensor, max_code: int) -> Tensor:
    """Return int64 codes (R, C) in the original column order for an undamped Hessian without dead columns."""
    hessian_CC = hessian_CC.float().clone()
    order_C = torch.argsort(hessian_CC.diagonal())
    hessian_CC.diagonal().add_(_DAMP_FRAC * hessian_CC.diagonal().mean())
    inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(hessian_CC[order_C][:, order_C]))
    work_RC = weight_RC[:, order_C]
    codes_RC = torch.zeros_like(work_RC)
    for start in range(0, work_RC.shape[1], _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, work_RC.shape[1])
        error_RK = torch.zeros(len(work_RC), stop - start)
        for j in range(start, stop):
            code_R = (work_RC[:, j] / step_R).round().clamp(-max_code, max_code)
            error_R = (work_RC[:, j] - code_R * step_R) / inverse_CC[j, j]
            work_RC[:, j + 1 : stop] -= error_R[:, None] * inverse_CC[j, j + 1 : stop]
            codes_RC[:, j], error_RK[:, j - start] = code_R, error_R
        work_RC[:, stop:] -= error_RK @ inverse_CC[start:stop, stop:]
    return codes_RC[:, torch.argsort(order_C)].to(torch.int64)
