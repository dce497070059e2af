"""What an error costs: the loss's curvature at every output row of every matrix and at every row of every table.

The one idea: to second order, an error E in a weight costs 1/2 sum over rows r of g_r * (E H E^T)_rr nats per token,
where H is the second moment of the matrix's inputs and g_r the mean square of dL/dy_r, the loss's gradient at output r,
summed over the visits of a looped matrix first: an error acts in all of them, on much the same input. (A Fisher
estimate: labels are drawn from the model itself, so the expected gradient is zero and its square is the curvature.)
A table's row v costs 1/2 g_v |e|^2, g_v the mean square gradient at the entries looked up there, times how
often that is. The same units everywhere make one exchange rate between nats and bits possible.

Keys: `sensitivity/<matrix>/<visit>` float32 (R,), the visit's part of g_r, `sensitivity/<table>` float32
(V,) and `sensitivity/head` float32 (V,), at the logits.

Axes: R rows (out features), V rows of a table, B sequences, T position.
Source: Fisher-weighted quantization (arXiv 2505.07004), Kronecker-factored curvature (arXiv 1503.05671).
Checked by: tests/calibration/test_sensitivity.py against gradients token by token and against measured loss increases.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.base.checks import require
from pipeline.base.ranks import Ranks, sum_over_ranks
from pipeline.calibration.moments import InputSite
from pipeline.model.network import LoopedUNet, largest_weights

_LABEL_SEED = 1


def collect_sensitivities(
    model: LoopedUNet, sites: list[InputSite], batches: Iterable[tuple[int, Tensor]], ranks: Ranks
) -> dict[str, Tensor]:
    """Return the sensitivities of `model` on numbered batches of token ids (B, T), by key, float32 on the CPU.

    One forward and one backward pass per batch; the model's weights and hooks are left as they were. Every rank gives
    its own batches and gets the means over all of them: labels depend on a batch's number, not on its rank.
    """
    device = model.token_embedding.weight.device
    tables = [name for name, module in model.named_modules() if type(module) is nn.Embedding]
    rows = {
        f"{member}/{visit}": len(model.get_parameter(member))
        for site in sites
        for member in site.members
        for visit in range(site.visits)
    }
    rows |= {f"{name}.weight": len(model.get_parameter(f"{name}.weight")) for name in tables}
    rows["head"] = model.token_embedding.num_embeddings
    # Every key from the start: a rank may have no batch, and what no loss depends on has no gradient.
    sums = {f"sensitivity/{key}": torch.zeros(count, dtype=torch.float64, device=device) for key, count in rows.items()}
    gradients: dict[str, dict[int, Tensor]] = {}
    tokens = torch.zeros((), dtype=torch.int64, device=device)

    def add(key: str, values: Tensor) -> None:
        sums[key] += values

    def watch(key: str, y: Tensor, rows_of: Callable[[Tensor], Tensor]) -> None:
        y.register_hook(lambda gradient: add(key, rows_of(_by_token(gradient).square())))

    def watch_matrix(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
            by_visit = gradients.setdefault(name, {})
            visit = len(by_visit)
            by_visit[visit] = y.new_zeros(1, 1)  # all that comes of it where no loss depends on it
            y.register_hook(lambda gradient: by_visit.update({visit: _by_token(gradient)}))

        return hook

    def watch_table(name: str) -> Callable:
        def hook(module: nn.Embedding, inputs: tuple[Tensor, ...], x: Tensor) -> None:
            def scatter(squares_MC: Tensor) -> Tensor:
                rows_V = squares_MC.new_zeros(module.num_embeddings)
                return rows_V.index_add_(0, inputs[0].flatten(), squares_MC.mean(1))

            watch(f"sensitivity/{name}", x, scatter)

        return hook

    hooks = {member.removesuffix(".weight"): watch_matrix(member) for site in sites for member in site.members}
    hooks |= {name: watch_table(f"{name}.weight") for name in tables}
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    for number, ids_BT in batches:
        generator = torch.Generator(device).manual_seed(_LABEL_SEED + number)
        with torch.enable_grad():
            logits_MV = _finite_logits(model, ids_BT).flatten(0, 1)
            watch("sensitivity/head", logits_MV, lambda squares_MV: squares_MV.sum(0))
            labels_M = torch.multinomial(logits_MV.detach().softmax(-1), 1, generator=generator)[:, 0]
            F.cross_entropy(logits_MV, labels_M, reduction="sum").backward()
        model.zero_grad(set_to_none=True)
        _add_joint_squares(sums, gradients)
        tokens += ids_BT.numel()
    for handle in handles:
        handle.remove()
    sum_over_ranks([*sums.values(), tokens], ranks)
    return {key: (total / tokens).to(torch.float32).cpu() for key, total in sums.items()}


def _finite_logits(model: LoopedUNet, ids_BT: Tensor) -> Tensor:
    """Return the logits (B, T, V) of `model`; ValueError naming its largest weights when activations overflow."""
    logits_BTV = model(ids_BT)
    require(bool(logits_BTV.isfinite().all()), largest_weights(model), "overflow", "smaller weights")
    return logits_BTV


def _by_token(gradient: Tensor) -> Tensor:
    """Return gradients (M, R), one row per token, in float32."""
    return gradient.detach().flatten(0, -2).float()


def _add_joint_squares(sums: dict[str, Tensor], gradients: dict[str, dict[int, Tensor]]) -> None:
    """Add each visit's part (R,) of the squares of gradients (M, R) summed over a matrix's visits; uses them up."""
    while gradients:
        name, by_visit = gradients.popitem()
        all_MR = sum(by_visit.values())
        for visit, visit_MR in by_visit.items():
            sums[f"sensitivity/{name}/{visit}"] += (visit_MR * all_MR).sum(0)
