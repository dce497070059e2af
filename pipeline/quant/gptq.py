"""GPTQ: choose the integer codes of matrices so that their *output* error is small.

The one idea: rounding column j leaves an error that later columns can cancel, because the inputs are correlated. With
E = weight - codes * step the layer's squared output error is tr(E H E^T). Columns are visited in descending order of
the diagonal of H (act-order). With the damped H = V V^T, V upper triangular, that loss is the sum over columns of
|E_j V_jj + sum over i < j of E_i V_ij|^2: so each column is rounded to nearest after sum E_i V_ij / V_jj has been added
to it. A column *pulls* the errors before its block by matrix products, in two levels of blocks so that they stay in the
cache; inside the smallest blocks errors are pushed, element by element, for a whole stack of matrices at once.

Axes: R rows (out features), C columns (in features; in act-order beside a factor), B matrices of a stack, K columns of
a block.
Letters of the paper: H `hessian_CC`; its U, the upper Cholesky factor of the inverse of H, is the inverse of V.

Source: Frantar et al., arXiv 2210.17323, algorithm 1; in terms of V it is LDLQ of QuIP, arXiv 2307.13304.
Differs: H is never inverted; a dead column comes last with a weight of zero instead of getting a unit diagonal.
Checked by: tests/quant/test_gptq.py against brute-force OBQ, the error identity and stored proxy losses.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.base.checks import FairwayError, require
from pipeline.quant.trellis_search import PathSearch

_UNDERFLOW_SHARE = 1e-30
"""A dead column may still hold products below this share (squared): what float32 keeps when its square underflows."""
_PUSHED_COLUMNS = 16
"""Columns of the smallest blocks."""


class HessianError(FairwayError):
    """A second-moment matrix is not positive definite, so GPTQ has no Cholesky factor to work with."""


class Factor(NamedTuple):
    """A factorised Hessian: everything about H that a solve needs, whatever the step."""

    order_C: Tensor
    """Columns in descending order of H's diagonal, int64; dead columns come last."""
    feedback_CC: Tensor
    """Row j holds V_ij / V_jj for i <= j, float64 in act-order; a dead column's row is that of the identity."""
    variance_C: Tensor
    """V_jj^2 in act-order, float64: what of an input the later ones cannot compensate; zero where dead."""
    damping: float
    """What was added to the diagonal of H, once."""
    hessian_CC: Tensor
    """H itself, undamped, float64, in its own order: what losses are taken with."""


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
    diagonal_C = hessian_CC.diagonal()
    # A sum is finite only if all its terms are.
    if not torch.isfinite(hessian_CC.sum()):
        raise HessianError(f"{name}: the Hessian holds values that are not finite; check the calibration activations")
    dead_C = diagonal_C == 0
    _check_dead_columns(hessian_CC, dead_C, name)
    order_C = torch.argsort(diagonal_C.masked_fill(dead_C, -math.inf), descending=True, stable=True)
    num_dead = int(dead_C.sum())
    damping = damp_frac * float(diagonal_C.sum()) / max(columns - num_dead, 1)
    # Reversed, so that a lower Cholesky factor of the one is an upper factor of the other.
    reverse_C = order_C.flip(0)
    damped_CC = hessian_CC[reverse_C][:, reverse_C]
    damped_CC.diagonal().add_(damping)
    damped_CC[:num_dead] = damped_CC[:, :num_dead] = 0
    damped_CC.diagonal()[:num_dead] = 1
    lower_CC, failed = torch.linalg.cholesky_ex(damped_CC)
    if int(failed):
        raise HessianError(
            f"{name}: the Hessian is not positive definite after damping; raise damp_frac or calibrate on more tokens"
        )
    feedback_CC = lower_CC.mT.flip(0, 1)
    pivot_C = feedback_CC.diagonal().clone()
    variance_C = pivot_C.square()
    variance_C[columns - num_dead :] = 0
    return Factor(order_C, feedback_CC.div_(pivot_C[:, None]), variance_C, damping, hessian_CC)


def _check_dead_columns(hessian_CC: Tensor, dead_C: Tensor, name: str) -> None:
    """Refuse a zero diagonal beside non-zero products: no second moment looks like that."""
    products = hessian_CC[dead_C].square()
    if (products > _UNDERFLOW_SHARE * hessian_CC.diagonal().abs()).any():
        raise HessianError(
            f"{name}: the Hessian has a zero diagonal beside non-zero products, so it is not positive "
            "definite; recollect it"
        )


def solve(weight_RC: Tensor, factor: Factor, step: Tensor, max_code: int | None, block_columns: int) -> Tensor:
    """Return int64 codes (R, C) for a factorised Hessian; see `solve_stack`."""
    return solve_stack([weight_RC], [factor], [step], max_code, block_columns)[0].to(torch.int64)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread: many small operations wait longer for a second one than it saves them.

    It also makes factors and codes independent of the number of cores, which decides how products are split.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def solve_stack(
    weights: Sequence[Tensor],
    factors: Sequence[Factor],
    steps: Sequence[Tensor],
    max_code: int | None,
    block_columns: int,
    search: PathSearch | None = None,
) -> list[Tensor]:
    """Return int32 codes (R, C) of matrices of one shape, solved together.

    Steps are all (R,) or all (R, C), positive, exactly as they will be stored; max_code None leaves codes unclipped.
    With a `search`, made for the rows of the whole stack, the codes of every column are paths of its trellis. Else rows
    do not see each other, so matrices that share their input may be one matrix; nor ever do the matrices of a stack:
    their codes are those of each alone, bit for bit. Raises ValueError for misfitting shapes.
    """
    for weight_RC, factor, step in zip(weights, factors, steps, strict=True):
        _check_solve_inputs(weight_RC, factor, step, block_columns)
    with one_thread():
        return _solve_checked(weights, factors, steps, max_code, block_columns, search)


def _solve_checked(
    weights: Sequence[Tensor],
    factors: Sequence[Factor],
    steps: Sequence[Tensor],
    max_code: int | None,
    block_columns: int,
    search: PathSearch | None,
) -> list[Tensor]:
    # Errors begin as the weights, codes as the weights with what they pull.
    error_BCR = torch.stack([_in_order(weight, factor) for weight, factor in zip(weights, factors, strict=True)])
    for error_CR, factor in zip(error_BCR, factors, strict=True):
        error_CR[factor.variance_C == 0] = 0
    code_BCR = error_BCR.clone()
    if steps[0].ndim == 1:
        step_BCR = torch.stack([step.detach() for step in steps])[:, None].double().expand_as(error_BCR)
    else:
        step_BCR = torch.stack([_in_order(step, factor) for step, factor in zip(steps, factors, strict=True)])
    columns = error_BCR.shape[1]
    for start in range(0, columns, block_columns):
        stop = min(start + block_columns, columns)
        _pull(code_BCR, error_BCR, factors, range(start), range(start, stop))
        for at in range(start, stop, _PUSHED_COLUMNS):
            block = slice(at, min(at + _PUSHED_COLUMNS, stop))
            _pull(code_BCR, error_BCR, factors, range(start, at), range(block.start, block.stop))
            feedback_BKK = torch.stack([factor.feedback_CC[block, block] for factor in factors])
            _solve_block(code_BCR[:, block], error_BCR[:, block], step_BCR[:, block], feedback_BKK, max_code, search)
    return [_restored(code_CR, factor) for code_CR, factor in zip(code_BCR, factors, strict=True)]


def _check_solve_inputs(weight_RC: Tensor, factor: Factor, step: Tensor, block_columns: int) -> None:
    rows, columns = weight_RC.shape
    known = len(factor.order_C)
    require(known == columns, "hessian", f"{known} columns", f"{columns}, those of the weight")
    require(bool(torch.isfinite(weight_RC).all()), "weight", "values that are not finite", "finite values")
    require(step.shape in ((rows,), (rows, columns)), "step", tuple(step.shape), f"({rows},) or ({rows}, {columns})")
    require(bool((step > 0).all()), "step", float(step.min()), "positive steps")
    require(block_columns >= 1, "block_columns", block_columns, "at least 1")


def _in_order(values_RC: Tensor, factor: Factor) -> Tensor:
    """Return (C, R) float64 in act-order."""
    return values_RC.detach().T.contiguous()[factor.order_C].double()


def _restored(code_CR: Tensor, factor: Factor) -> Tensor:
    codes_CR = torch.empty_like(code_CR, dtype=torch.int32)
    codes_CR[factor.order_C] = code_CR.int()
    return codes_CR.T.contiguous()


def _pull(code_BCR: Tensor, error_BCR: Tensor, factors: Sequence[Factor], source: range, target: range) -> None:
    """Add what the errors of the `source` columns ask of the `target` columns, matrix by matrix."""
    # Not one batched product: its rounding could depend on the size of the stack.
    since, until = slice(source.start, source.stop), slice(target.start, target.stop)
    for code_CR, error_CR, factor in zip(code_BCR, error_BCR, factors, strict=True):
        code_CR[until].addmm_(factor.feedback_CC[until, since], error_CR[since])


def _solve_block(
    code_BKR: Tensor,
    error_BKR: Tensor,
    step_BKR: Tensor,
    feedback_BKK: Tensor,
    max_code: int | None,
    search: PathSearch | None,
) -> None:
    """Turn weights with what they pulled into codes, and weights into errors, column by column."""
    for j in range(code_BKR.shape[1]):
        code_BR = code_BKR[:, j].div_(step_BKR[:, j])
        if search is not None:
            code_BR.copy_(torch.from_numpy(search.codes(code_BR.reshape(-1, 1).numpy())).view_as(code_BR))
        else:
            code_BR.round_()  # torch rounds half to even
        if max_code is not None:
            code_BR.clamp_(-max_code, max_code)
        error_BR = error_BKR[:, j].addcmul_(code_BR, step_BKR[:, j], value=-1)
        code_BKR[:, j + 1 :].addcmul_(feedback_BKK[:, j + 1 :, j, None], error_BR[:, None])


def round_to_nearest(weight_RC: Tensor, step: Tensor, max_code: int | None, search: PathSearch | None = None) -> Tensor:
    """Return int64 codes (R, C) that ignore the inputs: half to even, clipped to +-max_code, or paths of a trellis."""
    codes_RC = weight_RC.detach().to(torch.float64) / step.reshape(len(step), -1)
    if search is not None:
        return torch.from_numpy(search.codes(codes_RC.numpy())).to(torch.int64)
    codes_RC.round_()
    return (codes_RC if max_code is None else codes_RC.clamp_(-max_code, max_code)).to(torch.int64)


def quantization_error(weight_RC: Tensor, codes_RC: Tensor, step: Tensor) -> Tensor:
    """Return E = weight - codes * step, float64."""
    return weight_RC.detach().to(torch.float64).addcmul(codes_RC, step.reshape(len(step), -1), value=-1)


def proxy_loss(weight_RC: Tensor, codes_RC: Tensor, step: Tensor, hessian_CC: Tensor) -> float:
    """Return tr(E H E^T), products in the precision of H and sums in float64."""
    error_RC = quantization_error(weight_RC, codes_RC, step)
    return float((error_RC.to(hessian_CC.dtype) @ hessian_CC).mul(error_RC).sum())


def quantize_matrix(
    weight_RC: Tensor,
    hessian_CC: Tensor,
    step: Tensor,
    max_code: int | None,
    damp_frac: float = 0.01,
    block_columns: int = 128,
) -> Tensor:
    """Return GPTQ's int64 codes (R, C) in the original column order.

    hessian_CC is undamped, step (R,) or (R, C) as stored, max_code None clips nothing; a dead column gets code 0.
    Codes do not depend on block_columns. Raises HessianError when the damped Hessian is not positive definite.
    """
    return solve(weight_RC, factorise(hessian_CC, damp_frac), step, max_code, block_columns)


def quantize_matrix_with_losses(
    weight_RC: Tensor,
    hessian_CC: Tensor,
    step: Tensor,
    max_code: int | None,
    damp_frac: float = 0.01,
    block_columns: int = 128,
    name: str = "matrix",
) -> Solution:
    """Like `quantize_matrix`, with the damping used and the proxy losses of these codes and of nearest rounding."""
    factor = factorise(hessian_CC, damp_frac, name)
    codes_RC = solve(weight_RC, factor, step, max_code, block_columns)
    nearest_RC = round_to_nearest(weight_RC, step, max_code)
    return Solution(
        codes_RC,
        factor.damping,
        proxy_loss(weight_RC, codes_RC, step, hessian_CC),
        proxy_loss(weight_RC, nearest_RC, step, hessian_CC),
    )
