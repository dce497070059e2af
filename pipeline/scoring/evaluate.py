"""Nats of every target of a token stream under a protocol.

One idea: plan first (`windows.py`), then run the plan, each process its share of the batches. The network computes
only what scored positions need (`hidden` with `num_scored`) and makes logits a few rows at a time. Rows are put into
the order of the plan at the end: it is the order that a single process scoring window after window would keep, and no
score depends on how far the others are.

Axes: M tokens, N = M - 1 targets (target j is token j + 1), B windows, T inputs of a window, D model width,
R scored rows of a batch, V vocabulary.
Source: docs/concepts.md, "Protocols"; score-first order (adaptation sees a group only after its rows are frozen).
Differs: the same numbers as from full hidden states and logits up to rounding; log-softmax in float32.
Checked by: tests/scoring/test_evaluate.py, test_protocols.py, test_legality.py, test_scoring_ranks.py.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.base.checks import require, require_always
from pipeline.base.progress import Progress
from pipeline.base.ranks import ALONE, Ranks, sum_over_ranks
from pipeline.mixture.mixing import Mixture, mixed_nats
from pipeline.model.backends import attention_kernel, scoring_attention
from pipeline.scoring.adaptation import ChunkSGD, NoAdaptation, autocast_to
from pipeline.scoring.config import LoraProtocol, Protocol, StreamProtocol, TTTProtocol
from pipeline.scoring.lora import DocumentLora
from pipeline.scoring.phased import PhasedLora
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.stream import score_lanes
from pipeline.scoring.threads import batch_map
from pipeline.scoring.windows import Group, Window, plan, steps_of_rank

WORTH_COMPILING = 8000
"""Forward passes of an item from which on GPUs compile the full ones, however many processes share them: estimated is a
minute of compiling on each of eight for 50 ms a pass."""


class Scores(NamedTuple):
    """Nats by target, and the order in which they came to be."""

    nats: np.ndarray
    """float64 (N,): entry j = nats of token j + 1."""
    order: np.ndarray
    """int64 (N,): target indices in scoring order, a permutation of 0..N-1."""
    group: np.ndarray
    """int64 (N,): group of each entry of `order`."""


def score(
    model: Callable[[Tensor], Tensor],
    tokens_M: np.ndarray | Tensor,
    protocol: Protocol,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    progress: Progress,
    ranks: Ranks = ALONE,
    mixtures: Mapping[str, Mixture] | None = None,
    bytes_N: np.ndarray | None = None,
) -> Scores:
    """Score every target exactly once; `model` stays as it is, adaptation works on a copy.

    `batch_tokens` (inputs per forward pass) changes speed and the last bits only; ranks, which all call this in one
    process group, and threads change no bit. dtype: float32 or bfloat16. `mixtures`: those that the protocol may name.
    `bytes_N`: of every target, for progress in bits per byte. ValueError: infinite nats, what is no stream of tokens.
    """
    require(dtype in (torch.float32, torch.bfloat16), "dtype", dtype, "torch.float32 or torch.bfloat16")
    require(batch_tokens >= 1, "batch_tokens", batch_tokens, "at least 1")
    if protocol.mixture is not None:
        check_mixture(protocol.mixture, mixtures or {})
    # Tensors made in inference mode could never train: leave it, should the caller be inside.
    with torch.inference_mode(False), attention_kernel(scoring_attention(torch.device(device), dtype != torch.float32)):
        tokens = check_tokens(tokens_M, getattr(getattr(model, "config", None), "vocab_size", None))
        num_targets, done, rows, sums = len(tokens) - 1, 0, [], np.zeros(2)
        groups = plan(document_targets(tokens, getattr(protocol, "bos_id", None)), protocol)
        learns = isinstance(protocol, LoraProtocol | PhasedProtocol) or (
            isinstance(protocol, TTTProtocol) and len(groups) > 1
        )
        worker = scoring_model(model, protocol.context_tokens, torch.device(device), learns)
        with batch_map(torch.device(device)) as map_batches:
            adaptation = NoAdaptation()
            if learns:
                adaptation = adaptation_for(worker, protocol, len(groups), dtype, ranks, map_batches)
            head = adaptation.head if isinstance(adaptation, DocumentLora) else None
            windows_per_pass = max(1, batch_tokens // protocol.context_tokens)
            passes = sum(len(group.windows) for group in groups) // windows_per_pass
            may_compile = head is None and hasattr(worker, "nats")
            compiled = compiled_pass() if may_compile and worth_compiling(torch.device(device), dtype, passes) else None

            def nats_of(batch: list[Window]) -> np.ndarray:
                if isinstance(protocol, StreamProtocol | TTTProtocol) and protocol.lane_tokens:
                    return score_lanes(worker, tokens, batch, device, dtype, protocol)
                lengths = {window.stop - window.start for window in batch}
                whole = len(batch) == windows_per_pass and lengths == {protocol.context_tokens}
                return score_windows(worker, tokens, batch, device, dtype, head, compiled if whole else None)

            for step in steps_of_rank(groups, protocol, batch_tokens, ranks.rank, ranks.world_size):
                adaptation.before(step.groups)
                for batch, nats_R in zip(step.batches, map_batches(nats_of, step.batches), strict=True):
                    rows.append(_frozen_rows(batch, nats_R))
                    done += ranks.world_size * len(nats_R)  # the others are about as far
                    sums += nats_R.sum(), len(nats_R) if bytes_N is None else bytes_N[rows[-1].targets].sum()
                    progress(min(done, num_targets), num_targets, cost_so_far(sums, bytes_N is None, protocol))
                adaptation.after(step.groups, [tokens[each.start : each.stop + 1].to(device) for each in step.groups])
                if done < num_targets:  # learning took its time
                    progress(done, num_targets, cost_so_far(sums, bytes_N is None, protocol))
    return _with_mixture(_gather_scores(groups, rows, num_targets, ranks), tokens, protocol, mixtures, device, progress)


def cost_so_far(sums: np.ndarray, per_target: bool, protocol: Protocol) -> str:
    """Return what the targets so far cost before counts are mixed in; `sums`: their nats and their number or bytes."""
    cost = sums[0] / max(sums[1], 1.0)
    figure = f"{cost:.4f} nats per target" if per_target else f"{cost / math.log(2):.4f} bpb"
    return f"network {figure}" if protocol.mixture else figure


def adaptation_for(
    model: nn.Module,
    protocol: Protocol,
    num_groups: int,
    dtype: torch.dtype,
    ranks: Ranks,
    map_batches: Callable[..., Any],
) -> NoAdaptation:
    """Return the adaptation that `protocol` asks for, bound to `model`."""
    if isinstance(protocol, LoraProtocol):
        return DocumentLora(model, protocol, dtype)
    if isinstance(protocol, PhasedProtocol):
        return PhasedLora(model, protocol, dtype, ranks, map_batches)
    assert isinstance(protocol, TTTProtocol), "nothing else learns"
    return ChunkSGD(model, protocol, num_groups, dtype, ranks, map_batches)


def score_windows(
    model: Any,
    tokens_M: Tensor,
    batch: list[Window],
    device: Any,
    dtype: torch.dtype,
    head: Callable[[Tensor], Tensor] | None = None,
    whole: Callable[..., Tensor] | None = None,
) -> np.ndarray:
    """Return the float64 nats of the scored targets of a batch's windows, in order, from one forward pass.

    Shorter windows are padded on the right, where no causal model looks. `head` makes logits (B, T, V) of hidden states
    in the place of the model's own; `whole` is `nats_of_whole_windows`, compiled, for windows of one length.
    """
    ids_BT = pad_sequence([tokens_M[window.start : window.stop] for window in batch], batch_first=True).to(device)
    targets_R = torch.cat([tokens_M[window.first_scored + 1 : window.stop + 1] for window in batch]).to(device)
    bounds_B2 = torch.tensor([(window.first_scored - window.start, window.stop - window.start) for window in batch])
    place_T = torch.arange(int(bounds_B2[:, 0].min()), ids_BT.size(1))
    scored_BT = ((bounds_B2[:, :1] <= place_T) & (place_T < bounds_B2[:, 1:])).to(device)
    num_scored = len(place_T)
    with torch.inference_mode(), autocast_to(dtype, ids_BT.device):
        if whole is not None:
            return whole(model, ids_BT, targets_R).double().cpu().numpy()
        if not hasattr(model, "nats"):
            logits_RV = model(ids_BT)[:, -num_scored:][scored_BT]
            return _target_nats(logits_RV, targets_R).double().cpu().numpy()
        hidden_BTD = model.hidden(ids_BT, num_scored)
        if head is not None:
            return _target_nats(head(hidden_BTD)[scored_BT], targets_R).double().cpu().numpy()
        return model.nats(hidden_BTD[scored_BT], targets_R).double().cpu().numpy()


def nats_of_whole_windows(model: Any, ids_BT: Tensor, targets_R: Tensor) -> Tensor:
    """Return the nats (R,) of windows of one length, of each its last R / B targets."""
    hidden_BSD = model.hidden(ids_BT, len(targets_R) // len(ids_BT))
    return model.nats(hidden_BSD.flatten(0, 1), targets_R)


def compiled_pass() -> Callable[..., Tensor]:
    """Return `nats_of_whole_windows` compiled, its kernels chosen by rule and not by a race between them."""
    options: dict[str, Any] = {"deterministic": True}
    return torch.compile(nats_of_whole_windows, fullgraph=True, dynamic=False, options=options)


def worth_compiling(device: torch.device, dtype: torch.dtype, passes: int) -> bool:
    """Return whether so many passes win back what compiling one costs; a CPU compiles nothing.

    Nor does float32: no compiler reads the mask of its attention.
    """
    return device.type == "cuda" and dtype == torch.bfloat16 and passes >= WORTH_COMPILING


def document_targets(tokens_M: Tensor, bos_id: int | None) -> list[int]:
    """Return how many targets each document scores, its successor's BOS included; None: the stream is one document."""
    starts = [] if bos_id is None else ((tokens_M[1:] == bos_id).nonzero()[:, 0] + 1).tolist()
    return np.diff([0, *starts, len(tokens_M) - 1]).tolist()


def check_tokens(tokens_M: np.ndarray | Tensor, vocab_size: int | None) -> Tensor:
    """Return the stream as int64 on the CPU; raises ValueError when it is not a non-empty row of valid ids."""
    tokens = tokens_M.detach().cpu().numpy() if isinstance(tokens_M, Tensor) else np.asarray(tokens_M)
    require(tokens.ndim == 1 and tokens.size > 0, "tokens", tokens.shape, "one row of at least one token id")
    require(np.issubdtype(tokens.dtype, np.integer), "tokens", str(tokens.dtype), "integer token ids")
    least, most = int(tokens.min()), int(tokens.max())
    require(least >= 0, "tokens", least, "ids from 0 on")
    require(vocab_size is None or most < vocab_size, "tokens", most, f"ids below the model's vocabulary ({vocab_size})")
    return torch.from_numpy(tokens.astype(np.int64))


def check_mixture(name: str, mixtures: Mapping[str, Mixture]) -> None:
    """Raise ValueError when a protocol mixes in counts with constants that are not there."""
    expected = f"null or one of {list(mixtures)}, of which the weights hold constants; see calibrate.mixture"
    require_always(name in mixtures, "protocol.mixture", name, expected)


def scoring_model(model: Any, context_tokens: int, device: torch.device, learns: bool) -> Any:
    """Return a copy of `model` on `device`, in eval mode, whose RoPE base follows the protocol's context.

    A network that is all that already, and `learns` nothing, is returned itself: a copy takes longer than a short
    stream's scores.
    """
    if not isinstance(model, nn.Module):
        return model
    context = getattr(getattr(model, "config", None), "context_tokens", None)
    if not learns and not model.training and context == context_tokens and next(model.parameters()).device == device:
        return model
    worker: Any = copy.deepcopy(model).to(device).eval()
    if hasattr(worker, "set_context"):
        worker.set_context(context_tokens)
    return worker


class ScoredRows(NamedTuple):
    """Ledger rows of one forward pass: target and nats of each scored target; read-only arrays."""

    targets: np.ndarray
    nats: np.ndarray


def _target_nats(logits_RV: Tensor, targets_R: Tensor) -> Tensor:
    return F.cross_entropy(logits_RV.float(), targets_R, reduction="none")


def _targets_of(windows: Iterable[Window]) -> np.ndarray:
    spans = [np.arange(window.first_scored, window.stop) for window in windows]
    return np.concatenate([np.empty(0, np.int64), *spans])


def _frozen_rows(batch: list[Window], nats: np.ndarray) -> ScoredRows:
    rows = ScoredRows(_targets_of(batch), nats)
    for array in rows:
        array.setflags(write=False)
    bad = np.flatnonzero(~np.isfinite(nats))
    if len(bad):
        raise ValueError(
            f"nats: got {nats[bad[0]]} at target {rows.targets[bad[0]]}, expected finite scores; check the weights, or "
            "lower learning_rate of a ttt protocol"
        )
    return rows


def _with_mixture(
    scores: Scores,
    tokens_M: Tensor,
    protocol: Protocol,
    mixtures: Mapping[str, Mixture] | None,
    device: str | torch.device,
    progress: Progress,
) -> Scores:
    """Return the scores with the counts mixed in that `protocol` asks for: every rank holds all, and computes alike."""
    if protocol.mixture is None or mixtures is None:
        return scores
    progress(len(scores.nats), len(scores.nats), "mixing counts in")
    nats_N = mixed_nats(tokens_M.to(device), torch.from_numpy(scores.nats).to(device), mixtures[protocol.mixture])
    require(bool(nats_N.isfinite().all()), "nats", "infinite ones", "a mixture that rules no token out")
    return scores._replace(nats=nats_N.cpu().numpy())


def _gather_scores(groups: list[Group], rows: list[ScoredRows], num_targets: int, ranks: Ranks) -> Scores:
    """Return the rows of all ranks by target, in the order of the plan."""
    nats_N, times_N = np.zeros(num_targets), np.zeros(num_targets, np.uint8)
    for scored in rows:
        nats_N[scored.targets] = scored.nats
        times_N[scored.targets] += 1
    # Every target is zero on all ranks but one, so that the sums are exact.
    sum_over_ranks([torch.from_numpy(nats_N), torch.from_numpy(times_N)], ranks)
    order_N = _targets_of(window for group in groups for window in group.windows)
    sizes = [sum(window.stop - window.first_scored for window in group.windows) for group in groups]
    assert (times_N == 1).all(), "every target is scored exactly once"
    assert np.array_equal(np.sort(order_N), np.arange(num_targets)), "the plan holds every target exactly once"
    return Scores(nats_N, order_N, np.repeat(np.arange(len(groups)), sizes))
