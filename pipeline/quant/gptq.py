"""GPTQ: choose the integer codes of one matrix so that its *output* error is small.

The one idea: rounding column j leaves an error that later columns can cancel, because the inputs are correlated. With
E = weight - codes * step the layer's squared output error is tr(E H E^T). Columns are visited in descending order of
the diagonal of H (act-order); each is rounded to nearest after the errors of the columns before it, weighted by a row
of U, have been taken off. Here a column *pulls* those errors when its turn comes instead of every column pushing its
own onto all later ones: the same sums, but a column is written once. Errors are pulled for a whole block of columns by
one matrix product, then column by column inside the block.

Axes: R rows (out features), C columns (in features), L live columns in act-order.
Letters of the paper: H `hessian_CC`, U `upper_LL` (the upper Cholesky factor of the damped H's inverse), E `error`.

Source: Frantar et al., arXiv 2210.17323, algorithm 1; the order of steps follows IST-DASLab's `gptq.py`.
Differs: U comes from one Cholesky factorisation of the reversed H and one triangular inverse, so no inverse is ever
factorised; a dead column leaves the problem instead of getting a unit diagonal.
Checked by: tests/quant/test_gptq.py against brute-force OBQ, the error identity and stored proxy losses.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.checks import FairwayError, require

_UNDERFLOW_SHARE = 1e-30
"""A dead column may still hold products below this share (squared): what float32 keeps when its square underflows."""


class HessianError(FairwayError):
    """A second-moment matrix is not positive definite, so GPTQ has no Cholesky factor to work with."""


class Factor(NamedTuple):
    """A factorised Hessian: everything about H that a solve needs, whatever the step."""

    order_L: Tensor
    """Live columns, int64, in descending order of H's diagonal; dead columns are absent."""
    upper_LL: Tensor
    """Upper Cholesky factor U of the inverse of the damped H, float64: inverse = U^T U."""
    damping: float
    """What was added to the diagonal of H, once."""
    columns: int
    """Columns of H, dead ones included."""


class Solution(NamedTuple):
    """Codes of one matrix and what they cost."""

    codes_RC: Tensor
    """int64, in the matrix's own column order."""
    damping: float
    """What was added to the diagonal of H."""
    proxy_loss: float
    """tr(E H E^T) of these codes, H undamped."""
    nearest_proxy_loss: float
    """The same for rounding to nearest at the same step."""


def factorise(hessian_CC: Tensor, damp_frac: float, name: str = "matrix") -> Factor:
    """Damp, order and factorise an undamped second-moment matrix; `name` is for the error.

    Raises HessianError when the matrix is not finite or not positive definite after damping.
    """
    hessian_CC = hessian_CC.detach().to(torch.float64)
    columns = hessian_CC.shape[-1] if hessian_CC.ndim else 0
    require(hessian_CC.shape == (columns, columns), f"hessian of {name}", tuple(hessian_CC.shape), "a square matrix")
    if not torch.isfinite(hessian_CC).all():
        raise HessianError(f"{name}: the Hessian holds values that are not finite; check the calibration activations")
    diagonal_C = hessian_CC.diagonal()
    dead_C = diagonal_C == 0
    _check_dead_columns(hessian_CC, dead_C, name)
    order_L = torch.argsort(diagonal_C, descending=True, stable=True)
    order_L = order_L[~dead_C[order_L]]
    if len(order_L) == 0:
        return Factor(order_L, hessian_CC.new_zeros(0, 0), 0.0, columns)
    damping = damp_frac * float(diagonal_C[order_L].mean())
    damped_LL = hessian_CC[order_L][:, order_L]
    damped_LL.diagonal().add_(damping)
    return Factor(order_L, _inverse_factor(damped_LL, name), damping, columns)


def _check_dead_columns(hessian_CC: Tensor, dead_C: Tensor, name: str) -> None:
    """Refuse a zero diagonal beside non-zero products: no second moment looks like that."""
    products = hessian_CC[dead_C].square()
    if (products > _UNDERFLOW_SHARE * hessian_CC.diagonal().abs()).any():
        raise HessianError(f"{name}: the Hessian has a zero diagonal beside non-zero products, so it is not positive "
                           "definite; recollect it")  # fmt: skip


def _inverse_factor(damped_LL: Tensor, name: str) -> Tensor:
    """Return U upper triangular with U^T U = inverse(damped): reversed, Cholesky gives damped = V V^T, and U = 1/V."""
    lower_LL, failed = torch.linalg.cholesky_ex(damped_LL.flip(0, 1))
    if int(failed):
        raise HessianError(f"{name}: the Hessian is not positive definite after damping; "
                           "raise damp_frac or calibrate on more tokens")  # fmt: skip
    identity_LL = torch.eye(len(damped_LL), dtype=damped_LL.dtype, device=damped_LL.device)
    return torch.linalg.solve_triangular(lower_LL.flip(0, 1), identity_LL, upper=True)


def solve(weight_RC: Tensor, factor: Factor, step: Tensor, max_code: int | None, block_columns: int) -> Tensor:
    """Return int64 codes (R, C) for a factorised Hessian.

    step is (R,) or (R, C), positive, exactly as it will be stored; max_code None leaves codes unclipped. Rows do not
    see each other, so matrices that share their input may be stacked. Raises ValueError for misfitting shapes.
    """
    rows, columns = weight_RC.shape
    _check_solve_inputs(weight_RC, factor, step, block_columns)
    order_L = factor.order_L
    weight_LR = weight_RC.detach().to(torch.float64)[:, order_L].T.contiguous()
    step = step.detach().to(torch.float64)
    step_LR = step.expand(len(order_L), rows) if step.ndim == 1 else step[:, order_L].T.contiguous()
    codes_LR = torch.empty_like(weight_LR)
    scaled_error_LR = torch.empty_like(weight_LR)
    lower_LL = factor.upper_LL.T.contiguous()
    for start in range(0, len(order_L), block_columns):
        block = slice(start, start + block_columns)
        weight_LR[block].addmm_(lower_LL[block, :start], scaled_error_LR[:start], alpha=-1)
        _solve_block(weight_LR[block], lower_LL[block, block], step_LR[block], max_code, codes_LR[block],
                     scaled_error_LR[block])  # fmt: skip
    codes_RC = torch.zeros(rows, columns, dtype=torch.int64, device=weight_RC.device)
    codes_RC[:, order_L] = codes_LR.T.to(torch.int64)
    return codes_RC


def _check_solve_inputs(weight_RC: Tensor, factor: Factor, step: Tensor, block_columns: int) -> None:
    rows, columns = weight_RC.shape
    require(factor.columns == columns, "hessian", f"{factor.columns} columns", f"{columns}, those of the weight")
    require(bool(torch.isfinite(weight_RC).all()), "weight", "values that are not finite", "finite values")
    require(step.shape in ((rows,), (rows, columns)), "step", tuple(step.shape), f"({rows},) or ({rows}, {columns})")
    require(bool((step > 0).all()), "step", float(step.min()), "positive steps")
    require(block_columns >= 1, "block_columns", block_columns, "at least 1")


def _solve_block(weight_KR: Tensor, lower_KK: Tensor, step_KR: Tensor, max_code: int | None, codes_KR: Tensor,
                 scaled_error_KR: Tensor) -> None:  # fmt: skip
    """Fill codes and errors / U_jj of the K columns of one block, whose outside errors are already taken off."""
    for j, pivot in enumerate(lower_KK.diagonal().tolist()):
        value_R = weight_KR[j]
        if j:
            value_R = torch.addmv(value_R, scaled_error_KR[:j].T, lower_KK[j, :j], alpha=-1)
        code_R = torch.div(value_R, step_KR[j], out=codes_KR[j]).round_()  # torch rounds half to even
        if max_code is not None:
            code_R.clamp_(-max_code, max_code)
        torch.addcmul(value_R, code_R, step_KR[j], value=-1, out=scaled_error_KR[j]).div_(pivot)


def round_to_nearest(weight_RC: Tensor, step: Tensor, max_code: int | None) -> Tensor:
    """Return int64 codes (R, C) that ignore the inputs: half to even, clipped to +-max_code."""
    step_RC = step.to(torch.float64).reshape(len(step), -1)
    codes_RC = (weight_RC.detach().to(torch.float64) / step_RC).round_()
    return (codes_RC if max_code is None else codes_RC.clamp_(-max_code, max_code)).to(torch.int64)


def proxy_loss(weight_RC: Tensor, codes_RC: Tensor, step: Tensor, hessian_CC: Tensor) -> float:
    """Return tr(E H E^T), E = weight - codes * step, in float64."""
    step_RC = step.to(torch.float64).reshape(len(step), -1)
    error_RC = weight_RC.detach().to(torch.float64) - codes_RC * step_RC
    return float((error_RC @ hessian_CC.to(torch.float64)).mul_(error_RC).sum())


def quantize_matrix(weight_RC: Tensor, hessian_CC: Tensor, step: Tensor, max_code: int | None,
                    damp_frac: float = 0.01, block_columns: int = 128) -> Tensor:  # fmt: skip
    """Return GPTQ's int64 codes (R, C) in the original column order.

    hessian_CC is undamped, step (R,) or (R, C) as stored, max_code None clips nothing; a dead column gets code 0.
    Codes do not depend on block_columns. Raises HessianError when the damped Hessian is not positive definite.
    """
    return solve(weight_RC, factorise(hessian_CC, damp_frac), step, max_code, block_columns)


def quantize_matrix_with_losses(weight_RC: Tensor, hessian_CC: Tensor, step: Tensor, max_code: int | None,
                                damp_frac: float = 0.01, block_columns: int = 128,
                                name: str = "matrix") -> Solution:  # fmt: skip
    """Like `quantize_matrix`, with the damping used and the proxy losses of these codes and of nearest rounding."""
    factor = factorise(hessian_CC, damp_frac, name)
    codes_RC = solve(weight_RC, factor, step, max_code, block_columns)
    nearest_RC = round_to_nearest(weight_RC, step, max_code)
    return Solution(codes_RC, factor.damping, proxy_loss(weight_RC, codes_RC, step, hessian_CC),
                    proxy_loss(weight_RC, nearest_RC, step, hessian_CC))  # fmt: skip
