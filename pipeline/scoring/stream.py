"""Scoring lanes: a model that reads on with cached keys and values, where `sliding` reads every window again.

One idea: a lane is a window far longer than the context, fed in steps. The first step is a whole context, each later
one only a stride, whose attentions also see the L - S positions before it from the cache: every token is computed once
and every target scored once, with as much context as in a sliding window. What a cached key or value stands for goes
further back than the window, since deeper visits made it from windows of their own: other numbers than `sliding`.

Axes: M tokens, B lanes, T positions of a step, L context, S stride.
Source: none of the published records has it.
Differs: lanes of a batch advance side by side.
Checked by: tests/scoring/test_stream.py
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.base.checks import require
from pipeline.model.stream_cache import StreamCache
from pipeline.scoring.adaptation import autocast_to
from pipeline.scoring.config import StreamProtocol, TTTProtocol
from pipeline.scoring.windows import Window


def score_lanes(
    model: Any,
    tokens_M: Tensor,
    lanes: Sequence[Window],
    device: Any,
    dtype: torch.dtype,
    protocol: StreamProtocol | TTTProtocol,
) -> np.ndarray:
    """Return the float64 nats of the scored targets, lane by lane, of lanes that are scored from one offset on.

    Shorter lanes are padded on the right, where no causal model looks.
    """
    require(hasattr(model, "nats"), "protocol stream", type(model).__name__, "a model with a cache; use sliding")
    context, stride = protocol.context_tokens, protocol.stride_tokens
    ids_BM = pad_sequence([tokens_M[lane.start : lane.stop + 1] for lane in lanes], batch_first=True).to(device)
    cache, unscored = StreamCache(context - stride), lanes[0].first_scored - lanes[0].start
    nats, length = [], ids_BM.size(1) - 1
    with torch.inference_mode(), autocast_to(dtype, ids_BM.device):
        for start, stop in lane_steps(length, context, stride):
            num_scored = stop - max(start, unscored)
            hidden_BTD = model.hidden(ids_BM[:, start:stop], num_scored, cache)
            nats.append(model.nats(hidden_BTD, ids_BM[:, stop - num_scored + 1 : stop + 1]))
        nats_BT = torch.cat(nats, dim=1).double().cpu().numpy()
    return np.concatenate([row[: lane.stop - lane.first_scored] for row, lane in zip(nats_BT, lanes, strict=True)])


def lane_steps(num_inputs: int, context_tokens: int, stride_tokens: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the inputs fed in each step: a context, then strides."""
    stops = [*range(min(context_tokens, num_inputs), num_inputs, stride_tokens), num_inputs]
    return list(zip([0, *stops], stops, strict=False))
