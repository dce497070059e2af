"""Sensitivities from gradients of whole sequences: errors at all tokens and in all visits of a matrix meet.

The one idea: an error in a matrix acts at all tokens at once, so that what it costs is the square of the *sum* of their
gradients: G, the gradient with respect to the weights, of one sequence. A row's curvature is the mean square of G's row
in the metric of the inputs, G (H + damping)^-1 G^T over the trace of (H + damping)^-1 H, per token: with independent
tokens that is g_r (`pipeline/quant/sensitivity.py`), and errors of GPTQ lie evenly in that metric.

Axes: R rows, C columns, N sequences, T position.
Source: block-diagonal Fisher by row (arXiv 2505.07004).
Checked by: tests/quant/test_quantization_tuning.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.network import LoopedUNet
from pipeline.quant.gptq import Factor, factorise
from pipeline.quant.moments import Bundle, pooled_mean, site_members

_LABEL_SEED = 1


def with_sequence_sensitivities(
    model: LoopedUNet, bundle: Mapping[str, Tensor], ids_NT: Tensor, damp_frac: float
) -> Bundle:
    """Return the bundle with the sensitivities of matrices and tables replaced; those of the embedding stay.

    A matrix's sum over its visits stands at the first one. One forward and one backward pass per sequence.
    """
    owners = {member: owner for owner, members in site_members(bundle).items() for member in members}
    widths = {name: model.get_parameter(name).shape[1] for name in owners}
    metrics = {
        owner: _metric(factorise(pooled_mean(bundle, "moment", owner, widths[owner]), damp_frac, owner))
        for owner in dict.fromkeys(owners.values())
    }
    tables = [
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if type(module) is nn.Embedding and module is not model.token_embedding
    ]
    sums = {name: torch.zeros(len(model.get_parameter(name)), dtype=torch.float64) for name in (*owners, *tables)}
    for number, ids_T in enumerate(ids_NT):
        _backward(model, ids_T[None], number)
        for name, sum_R in sums.items():
            gradient_RC = model.get_parameter(name).grad
            if gradient_RC is not None:
                sum_R += _mean_squares(gradient_RC, metrics[owners[name]] if name in owners else None)
        model.zero_grad(set_to_none=True)
    return _replaced(bundle, {name: sum_R / ids_NT.numel() for name, sum_R in sums.items()})


def _backward(model: LoopedUNet, ids_BT: Tensor, number: int) -> None:
    """Accumulate gradients of the summed loss at labels drawn from the model itself."""
    generator = torch.Generator().manual_seed(_LABEL_SEED + number)
    with torch.enable_grad():
        logits_MV = model(ids_BT).flatten(0, 1)
        labels_M = torch.multinomial(logits_MV.detach().softmax(-1), 1, generator=generator)[:, 0]
        F.cross_entropy(logits_MV, labels_M, reduction="sum").backward()


def _replaced(bundle: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Bundle:
    """Return the bundle with these sensitivities (R,); a matrix's stand at its first visit, its others are zero."""
    changed = dict(bundle)
    for name, row_R in rows.items():
        keys = [key for key in bundle if key == f"sensitivity/{name}" or key.startswith(f"sensitivity/{name}/")]
        for key in keys:
            changed[key] = (
                row_R.float() if key in (f"sensitivity/{name}", f"sensitivity/{name}/0") else row_R.float() * 0
            )
    return changed


class _Metric(NamedTuple):
    order_C: Tensor
    """Live columns in act-order."""
    upper_CC: Tensor
    """V: the damped moment of these columns is V V^T."""
    dimensions: float
    """Trace of (H + damping)^-1 H."""


def _metric(factor: Factor) -> _Metric:
    live_C = factor.variance_C > 0
    # Row j of the feedback is column j of V over V_jj.
    upper_CC = (factor.feedback_CC[live_C][:, live_C] * factor.variance_C[live_C].sqrt()[:, None]).T
    inverse_CC = torch.linalg.solve_triangular(upper_CC, torch.eye(len(upper_CC), dtype=upper_CC.dtype), upper=True)
    dimensions = len(upper_CC) - factor.damping * float(inverse_CC.square().sum())
    return _Metric(factor.order_C[live_C], upper_CC.float().contiguous(), dimensions)


def _mean_squares(gradient_RC: Tensor, metric: _Metric | None) -> Tensor:
    """Return mean squares of rows (R,) float64, in the metric of the inputs where there is one."""
    if metric is None:
        return gradient_RC.double().square().mean(1)
    white_CR = torch.linalg.solve_triangular(metric.upper_CC, gradient_RC[:, metric.order_C].T, upper=True)
    return white_CR.double().square().sum(0) / metric.dimensions
