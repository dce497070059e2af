"""The public door to scoring: plain data in, nats per target out.

One idea: a mapping and a dataclass are checked by the same strict parser as params.yaml, so that a protocol cannot
mean something else in a notebook than in a stage.

Axes: M tokens, N = M - 1 targets.
Source: none.
Differs: this module reaches the parameter loader, so the record program calls `evaluate.score` with dataclasses.
Checked by: tests/scoring/test_protocols.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.base.config import parse_value
from pipeline.base.progress import silent
from pipeline.mixture.mixing import Mixture
from pipeline.scoring.config import Protocol
from pipeline.scoring.evaluate import score

PROTOCOL_KINDS = ("blocks", "sliding", "stream", "ttt", "lora-ttt", "phased-ttt")
DEFAULT_BATCH_TOKENS = {"cpu": 4096, "cuda": 131072}
"""Device type -> inputs per forward pass of `score_tokens`: speed and memory only."""


def score_tokens(
    model: Callable[[Tensor], Tensor],
    tokens_M: np.ndarray | Tensor,
    protocol: Mapping[str, Any] | Protocol,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    mixtures: Mapping[str, Mixture] | None = None,
) -> np.ndarray:
    """Return float64 nats (M-1,), entry j = nats of token j + 1 under `protocol`; `model` is unchanged afterwards.

    `model(ids_BT)` gives logits (B, T, V); `mixtures`: those that a protocol may name. Raises ValueError with one line
    for a bad protocol or token stream.
    """
    checked = parse_protocol(protocol)
    batch_tokens = DEFAULT_BATCH_TOKENS.get(torch.device(device).type, DEFAULT_BATCH_TOKENS["cpu"])
    return score(
        model,
        tokens_M,
        checked,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        progress=silent,
        mixtures=mixtures,
    ).nats


def parse_protocol(protocol: Mapping[str, Any] | Protocol) -> Protocol:
    """Return the protocol's dataclass; unknown, missing and mistyped keys raise ValueError naming kind and key."""
    plain: object = protocol
    if dataclasses.is_dataclass(protocol) and not isinstance(protocol, type):
        plain = dataclasses.asdict(protocol)
    kind = plain.get("kind") if isinstance(plain, Mapping) else None
    where = f"protocol {kind}" if kind in PROTOCOL_KINDS else "protocol"
    return parse_value(Protocol, plain, where)
