"""Nats of every target of a token stream under a protocol.

One idea: plan first (`windows.py`), then run the plan. The network computes only what scored positions need (`hidden`
with `num_scored`), and makes logits a few rows at a time, so that their memory does not grow with the context.

Axes: M tokens, N = M - 1 targets (target j is token j + 1), B windows, T inputs of a window, D model width,
R scored rows of a batch, V vocabulary.
Source: shared definition of the protocols; score-first order (adaptation sees a group only after its rows are frozen).
Differs: the same numbers as from full hidden states and logits up to rounding; log-softmax in float32.
Checked by: tests/scoring/test_evaluate.py, test_protocols.py, test_legality.py.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.checks import require
from pipeline.progress import Progress
from pipeline.scoring.adaptation import adaptation_for, autocast_to
from pipeline.scoring.config import Protocol, StreamProtocol
from pipeline.scoring.stream import score_lanes
from pipeline.scoring.windows import Window, plan, window_batches


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
) -> Scores:
    """Score every target exactly once; `model` stays as it is, adaptation works on a copy.

    `batch_tokens` (inputs per forward pass) changes speed and the last bits only. dtype: float32 or bfloat16.
    Raises ValueError for a stream that is empty, not one row of ids, or beyond the vocabulary, and for nats that are
    not finite.
    """
    require(dtype in (torch.float32, torch.bfloat16), "dtype", dtype, "torch.float32 or torch.bfloat16")
    require(batch_tokens >= 1, "batch_tokens", batch_tokens, "at least 1")
    # Tensors made in inference mode could never train: leave it, should the caller be inside.
    with torch.inference_mode(False):
        tokens = check_tokens(tokens_M, getattr(getattr(model, "config", None), "vocab_size", None))
        num_targets, done, rows = len(tokens) - 1, 0, [_frozen_rows([], np.empty(0), 0)]
        groups = plan(num_targets, protocol)
        worker = scoring_copy(model, protocol.context_tokens, torch.device(device))
        adaptation = adaptation_for(worker, protocol, len(groups), dtype)
        score_batch: Any = score_windows
        if isinstance(protocol, StreamProtocol):
            score_batch = partial(score_lanes, protocol=protocol)
        for group in groups:
            adaptation.before(group)
            for batch in window_batches(group.windows, batch_tokens, protocol.context_tokens):
                rows.append(_frozen_rows(batch, score_batch(worker, tokens, batch, device, dtype), group.number))
                _require_finite(rows[-1])
                done += len(rows[-1].nats)
                progress(done, num_targets, f"{rows[-1].nats.mean():.4f} nats per target")
            adaptation.after(group, tokens[group.start : group.stop + 1].to(device))
    return _gather_scores(rows, num_targets)


def score_windows(model: Any, tokens_M: Tensor, batch: list[Window], device: Any, dtype: torch.dtype) -> np.ndarray:
    """Return the float64 nats of the scored targets of windows of one shape, in order, from one forward pass."""
    ids_BT = torch.stack([tokens_M[window.start : window.stop] for window in batch]).to(device)
    targets_R = torch.cat([tokens_M[window.first_scored + 1 : window.stop + 1] for window in batch]).to(device)
    num_scored = batch[0].stop - batch[0].first_scored
    with torch.inference_mode(), autocast_to(dtype, ids_BT.device):
        if not hasattr(model, "nats"):
            logits_RV = model(ids_BT)[:, -num_scored:].flatten(0, 1)
            return F.cross_entropy(logits_RV.float(), targets_R, reduction="none").double().cpu().numpy()
        return model.nats(model.hidden(ids_BT, num_scored).flatten(0, 1), targets_R).double().cpu().numpy()


def check_tokens(tokens_M: np.ndarray | Tensor, vocab_size: int | None) -> Tensor:
    """Return the stream as int64 on the CPU; raises ValueError when it is not a non-empty row of valid ids."""
    tokens = tokens_M.detach().cpu().numpy() if isinstance(tokens_M, Tensor) else np.asarray(tokens_M)
    require(tokens.ndim == 1 and tokens.size > 0, "tokens", tokens.shape, "one row of at least one token id")
    require(np.issubdtype(tokens.dtype, np.integer), "tokens", str(tokens.dtype), "integer token ids")
    least, most = int(tokens.min()), int(tokens.max())
    require(least >= 0, "tokens", least, "ids from 0 on")
    require(vocab_size is None or most < vocab_size, "tokens", most, f"ids below the model's vocabulary ({vocab_size})")
    return torch.from_numpy(tokens.astype(np.int64))


def scoring_copy(model: Any, context_tokens: int, device: torch.device) -> Any:
    """Return a copy of `model` on `device`, in eval mode, whose RoPE base follows the protocol's context."""
    if not isinstance(model, nn.Module):
        return model
    worker: Any = copy.deepcopy(model).to(device).eval()
    if hasattr(worker, "set_context"):
        worker.set_context(context_tokens)
    return worker


class GroupRows(NamedTuple):
    """Ledger rows of one forward pass: target, nats and group of each scored target; read-only arrays."""

    targets: np.ndarray
    nats: np.ndarray
    groups: np.ndarray


def _frozen_rows(batch: list[Window], nats: np.ndarray, group: int) -> GroupRows:
    spans = [np.arange(window.first_scored, window.stop) for window in batch]
    targets = np.concatenate([np.empty(0, np.int64), *spans])
    rows = GroupRows(targets, nats, np.full(len(targets), group))
    for array in rows:
        array.setflags(write=False)
    return rows


def _require_finite(rows: GroupRows) -> None:
    bad = np.flatnonzero(~np.isfinite(rows.nats))
    if len(bad):
        raise ValueError(
            f"nats: got {rows.nats[bad[0]]} at target {rows.targets[bad[0]]} (group {rows.groups[bad[0]]}), expected "
            "finite scores; check the weights, or lower learning_rate of a ttt protocol"
        )


def _gather_scores(rows: list[GroupRows], num_targets: int) -> Scores:
    order_N, nats_by_order_N, group_N = (np.concatenate(column) for column in zip(*rows, strict=True))
    assert np.array_equal(np.sort(order_N), np.arange(num_targets)), "every target is scored exactly once"
    nats_N = np.full(num_targets, np.nan)
    nats_N[order_N] = nats_by_order_N
    return Scores(nats_N, order_N, group_N)
