"""The mixtures of an artifact: constants under which training text that the float model scored is likeliest.

Axes: M tokens, N targets, L sequences, B sequences of a batch, T position.
Source: ours.
Checked by: tests/calibration/test_mixtures.py, tests/calibration/test_calibration_ranks.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.base.ranks import Ranks, errors_shared, from_rank_zero, sum_over_ranks
from pipeline.mixture.fitting import fit_mixture
from pipeline.mixture.mixing import mixed_nats
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import MixtureConfig
from pipeline.quant.gptq import one_thread
from pipeline.quant.statistics import Statistics

_BATCH_TOKENS = 8192


class ScoredText(NamedTuple):
    """Tokens and what the network alone makes of them."""

    tokens_M: Tensor
    """int64."""
    nats_N: Tensor
    """float64: of every token but the first."""


def collect_mixtures(
    model: LoopedUNet,
    shards: Sequence[np.ndarray],
    bos_id: int,
    config: MixtureConfig,
    ranks: Ranks,
    device: torch.device,
) -> Statistics:
    """Return the statistics `mixture/document` and, where orders of the stream are given, `mixture/stream`.

    `shards`: of the train split; the first tokens are scored in sequences of the model's context. All ranks of a
    process group call this and get the same. ValueError for a split of less than one sequence.
    """
    text = score_text(model, first_tokens(shards, config.tokens), ranks, device)
    document = [(bos_id, order) for order in config.document_orders]
    wanted = {"document": document}
    if config.stream_orders:
        wanted["stream"] = [*((-1, order) for order in config.stream_orders), *document]
    fitted = None
    with errors_shared(ranks), one_thread():
        if ranks.rank == 0:
            fitted = {name: fit_mixture(*text, steps) for name, steps in wanted.items()}
    rows = from_rank_zero(fitted, ranks)
    return {f"mixture/{name}": torch.tensor(rows[name], dtype=torch.float64) for name in rows}


def mixture_gains(
    model: LoopedUNet,
    shards: Sequence[np.ndarray],
    fitted: Statistics,
    config: MixtureConfig,
    ranks: Ranks,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return, by mixture, mean nats of the network and mixed, over as many tokens after those that it was fitted to.

    Nothing for a split that ends there.
    """
    rest_M = first_tokens(shards, 2 * config.tokens)[config.tokens :]
    if len(rest_M) <= model.config.context_tokens:
        return {}
    text = score_text(model, rest_M, ranks, device)
    return {
        name.partition("/")[2]: {
            "network": float(text.nats_N.mean()),
            "mixed": float(mixed_nats(*text, rows.tolist()).mean()),
        }
        for name, rows in fitted.items()
    }


def first_tokens(shards: Sequence[np.ndarray], num_tokens: int) -> np.ndarray:
    """Return the first tokens of a split, all of them where it has fewer."""
    return np.concatenate([shard[:num_tokens] for shard in shards])[:num_tokens]


@torch.no_grad()
def score_text(model: LoopedUNet, tokens_M: np.ndarray, ranks: Ranks, device: torch.device) -> ScoredText:
    """Return the nats of as many whole sequences of the model's context as the tokens make, and these tokens."""
    length = model.config.context_tokens
    num_sequences = (len(tokens_M) - 1) // length
    require(num_sequences > 0, "calibrate.mixture.tokens", len(tokens_M), f"at least {length + 1}, a sequence")
    tokens = torch.from_numpy(tokens_M[: num_sequences * length + 1].astype(np.int64))
    inputs_LT, targets_LT = tokens[:-1].view(-1, length), tokens[1:].view(-1, length)
    nats_LT = torch.zeros(inputs_LT.shape, dtype=torch.float64)
    size = max(1, _BATCH_TOKENS // length)
    for first in range(ranks.rank * size, num_sequences, ranks.world_size * size):
        rows = slice(first, first + size)
        hidden_BTD = model.hidden(inputs_LT[rows].to(device))
        nats_LT[rows] = model.nats(hidden_BTD, targets_LT[rows].to(device)).double().cpu()
    total_LT = nats_LT.to(device)
    sum_over_ranks([total_LT], ranks)
    return ScoredText(tokens, total_LT.cpu().flatten())
