"""Scores models beside the float model they come from: the loss on a text, and the divergence from the float model.

The one idea: the divergence (KL of the model's distribution from the float model's, exact over the vocabulary) is the
mean of the gap over the labels that the float model would draw after these contexts. It has no chance of the labels in
it, so small differences show on little text, and it does not reward errors that soften a float model which is too sure
of itself.

Axes: M tokens of the stream, N sequences, B sequences of a batch, T position, V vocabulary, D documents.
Checked by: tests/benchmarks/test_judge.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quantization.data import ScoredStream
from pipeline.model.network import LoopedUNet

_BATCH_TOKENS = 4096


class Verdict(NamedTuple):
    """A model on a text, float64."""

    nats_D: np.ndarray
    """Summed loss of each document."""
    divergence_D: np.ndarray
    """Summed divergence from the float model, nats."""


class Judge:
    """The float model's log-probabilities of a stream, protocol `blocks` in float32, to hold other models against."""

    def __init__(self, model: LoopedUNet, stream: ScoredStream) -> None:
        """Score the float model; its log-probabilities stay in memory."""
        self.model, self.stream = model, stream
        batches = list(self._log_probabilities(model))
        self._logs = [logs_BTV for logs_BTV, _ in batches]
        self.float_D = self._by_document([_nats(*batch) for batch in batches])

    def __call__(self, model: nn.Module) -> Verdict:
        """Score `model`."""
        nats, divergences = [], []
        for float_BTV, (logs_BTV, labels_BT) in zip(self._logs, self._log_probabilities(model), strict=True):
            nats.append(_nats(logs_BTV, labels_BT))
            divergences.append((float_BTV.exp() * (float_BTV - logs_BTV)).sum(-1).flatten())
        return Verdict(self._by_document(nats), self._by_document(divergences))

    def _by_document(self, parts: list[Tensor]) -> np.ndarray:
        return np.bincount(self.stream.document_N, torch.cat(parts).double())

    def _log_probabilities(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield log-probabilities (B, T, V) and labels (B, T): whole blocks, then what is left of the stream."""
        tokens_M, length = torch.from_numpy(self.stream.tokens_M.astype(np.int64)), self.stream.context_tokens
        whole = (len(tokens_M) - 1) // length * length
        size = max(_BATCH_TOKENS // length, 1)
        blocks = tokens_M[:whole].view(-1, length), tokens_M[1 : whole + 1].view(-1, length)
        rest = tokens_M[None, whole:-1], tokens_M[None, whole + 1 :]
        for ids_NT, labels_NT in (blocks, rest):
            for ids_BT, labels_BT in zip(ids_NT.split(size), labels_NT.split(size), strict=True):
                if ids_BT.numel():
                    with torch.no_grad():
                        yield F.log_softmax(model(ids_BT), -1), labels_BT


def _nats(logs_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    return -logs_BTV.gather(-1, labels_BT[..., None]).flatten()
