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

import contextlib
from collections.abc import Callable, Iterable, Iterator

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
    squares, tokens = _SquaredGradients(model, sites), torch.zeros((), dtype=torch.int64, device=device)
    with squares.hooks(model, sites):
        for number, ids_BT in batches:
            generator = torch.Generator(device).manual_seed(_LABEL_SEED + number)
            with torch.enable_grad():
                logits_MV = _finite_logits(model, ids_BT).flatten(0, 1)
                squares.watch("head", logits_MV, lambda squares_MV: squares_MV.sum(0))
                labels_M = torch.multinomial(logits_MV.detach().softmax(-1), 1, generator=generator)[:, 0]
                F.cross_entropy(logits_MV, labels_M, reduction="sum").backward()
            model.zero_grad(set_to_none=True)
            squares.add_matrices()
            tokens += ids_BT.numel()
    sum_over_ranks([*squares.sums.values(), tokens], ranks)
    return {f"sensitivity/{key}": (total / tokens).to(torch.float32).cpu() for key, total in squares.sums.items()}


class _SquaredGradients:
    """Sums of squared gradients over tokens, by key, float64; hooks on a model fill them in its backward passes."""

    def __init__(self, model: LoopedUNet, sites: list[InputSite]) -> None:
        """Begin at zero with every key: a rank may have no batch, and what no loss depends on has no gradient."""
        rows = {
            f"{member}/{visit}": len(model.get_parameter(member))
            for site in sites
            for member in site.members
            for visit in range(site.visits)
        }
        rows |= {f"{name}.weight": table.num_embeddings for name, table in _tables(model).items()}
        rows["head"] = model.token_embedding.num_embeddings
        device = model.token_embedding.weight.device
        self.sums = {key: torch.zeros(count, dtype=torch.float64, device=device) for key, count in rows.items()}
        self._by_visit: dict[str, list[Tensor]] = {}
        """Gradients (M, R) of a batch at every visit's outputs of a matrix, by name."""

    @contextlib.contextmanager
    def hooks(self, model: LoopedUNet, sites: list[InputSite]) -> Iterator[None]:
        """Watch the outputs of all matrices and tables inside."""
        hooks = {member.removesuffix(".weight"): self._matrix_hook(member) for site in sites for member in site.members}
        hooks |= {name: self._table_hook(f"{name}.weight") for name in _tables(model)}
        handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
        yield
        for handle in handles:
            handle.remove()

    def watch(self, key: str, y: Tensor, rows_of: Callable[[Tensor], Tensor]) -> None:
        """Add the rows of the squares of the gradients (M, R) at `y`, once they are known."""
        y.register_hook(lambda gradient: self._add(key, rows_of(_by_token(gradient).square())))

    def add_matrices(self) -> None:
        """Add, for a batch, each visit's part (R,) of the squares of gradients summed over a matrix's visits."""
        while self._by_visit:
            name, visits = self._by_visit.popitem()
            all_MR = sum(visits)
            for visit, visit_MR in enumerate(visits):
                self._add(f"{name}/{visit}", (visit_MR * all_MR).sum(0))

    def _add(self, key: str, values_R: Tensor) -> None:
        self.sums[key] += values_R

    def _matrix_hook(self, name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
            visits = self._by_visit.setdefault(name, [])
            visit = len(visits)
            visits.append(y.new_zeros(1, 1))  # all that comes of it where no loss depends on it
            y.register_hook(lambda gradient: visits.__setitem__(visit, _by_token(gradient)))

        return hook

    def _table_hook(self, name: str) -> Callable:
        def hook(table: nn.Embedding, inputs: tuple[Tensor, ...], x: Tensor) -> None:
            def scatter(squares_MC: Tensor) -> Tensor:
                rows_V = squares_MC.new_zeros(table.num_embeddings)
                return rows_V.index_add_(0, inputs[0].flatten(), squares_MC.mean(1))

            self.watch(name, x, scatter)

        return hook


def _tables(model: LoopedUNet) -> dict[str, nn.Embedding]:
    return {name: module for name, module in model.named_modules() if type(module) is nn.Embedding}


def _finite_logits(model: LoopedUNet, ids_BT: Tensor) -> Tensor:
    """Return the logits (B, T, V) of `model`; ValueError naming its largest weights when activations overflow."""
    logits_BTV = model(ids_BT)
    require(bool(logits_BTV.isfinite().all()), largest_weights(model), "overflow", "smaller weights")
    return logits_BTV


def _by_token(gradient: Tensor) -> Tensor:
    """Return gradients (M, R), one row per token, in float32."""
    return gradient.detach().flatten(0, -2).float()
