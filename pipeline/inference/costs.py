"""What texts cost under a model: nats of every token, by document, from the scorer that makes a record's scores.

The one idea: nothing is computed here. Documents become streams of tokens, `score_item` scores these under one of its
protocols, and its ledger is taken apart again. A document is a stream of its own, so that its figure does not hang on
its neighbours; `joined`, all are one stream, as `prepare` writes and `evaluate` scores it: of the same documents and
protocol that is the same figure to the last bit. There a document scores the BOS of the next, too, which has no bytes.

Axes: M tokens, N = M - 1 targets.
Source: none.
Checked by: tests/inference/test_costs.py, against plain torch; tests/stages/test_score.py, against `evaluate`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.base.checks import require
from pipeline.base.progress import Progress, silent
from pipeline.data.byte_count import bits_per_byte
from pipeline.inference.documents import Document, EncodedDocument, encoded
from pipeline.inference.source import FinishedModel
from pipeline.scoring.config import Protocol, SlidingProtocol
from pipeline.scoring.evaluate import scoring_model
from pipeline.scoring.protocols import DEFAULT_BATCH_TOKENS
from pipeline.scoring.run import score_item

STRIDES_PER_CONTEXT = 4
"""Windows that read a token, where no protocol is named."""


class DocumentCost(NamedTuple):
    """A document, scored."""

    document: EncodedDocument
    tokens_M: np.ndarray
    """Its tokens and, of joined documents, the BOS of the next."""
    nats_N: np.ndarray
    """float64: nats of tokens_M[1:]."""

    def bits_per_byte(self) -> float | None:
        """Return its score; None of a document without bytes."""
        return bits_per_byte(math.fsum(self.nats_N), self.document.bytes) if self.document.bytes else None


class DearToken(NamedTuple):
    """One target of a document."""

    number: int
    """Of the document, from 0."""
    place: int
    """Of the token in its `tokens_M`."""
    nats: float


def default_protocol(opened: FinishedModel) -> SlidingProtocol:
    """Return sliding windows of the model's own context."""
    context = opened.model.config.context_tokens
    stride = max(1, context // STRIDES_PER_CONTEXT)
    return SlidingProtocol(kind="sliding", context_tokens=context, stride_tokens=stride, mixture=None)


def score_texts(opened: FinishedModel, texts: Iterable[str]) -> list[DocumentCost]:
    """Return what each text costs by itself under the default protocol; ValueError as `encoded` raises it."""
    documents = [encoded(opened, Document(f"text {number}", text)) for number, text in enumerate(texts, start=1)]
    return score_documents(opened, documents, default_protocol(opened), False, silent)


def score_documents(
    opened: FinishedModel, documents: Sequence[EncodedDocument], protocol: Protocol, joined: bool, progress: Progress
) -> list[DocumentCost]:
    """Return what each document costs under `protocol`, alone or `joined` into one stream, in their order.

    Raises ValueError when `protocol` marks documents by another token than the tokenizer's BOS.
    """
    bos_id = opened.processor.bos_id()
    require(getattr(protocol, "bos_id", bos_id) == bos_id, "protocol: bos_id", protocol, f"{bos_id}, the tokenizer's")
    streams = _streams(documents, joined)
    device = next(opened.model.parameters()).device
    batch_tokens = DEFAULT_BATCH_TOKENS.get(device.type, DEFAULT_BATCH_TOKENS["cpu"])
    model = scoring_model(opened.model, protocol.context_tokens, device, False)  # once, not for every document
    done, total = 0, sum(len(stream_M) - 1 for stream_M in streams)
    nats: list[np.ndarray] = []
    for stream_M in streams:

        def report(scored: int, _: int, note: str, before: int = done) -> None:
            progress(before + scored, total, note)

        ledger = score_item(
            model, stream_M, opened.table, protocol, device, batch_tokens, report, mixtures=opened.mixtures
        )
        nats_N = np.empty(ledger.num_targets)
        nats_N[ledger.target] = ledger.nats
        nats.append(nats_N)
        done += len(nats_N)
    return _by_document(documents, nats, opened.processor.bos_id(), joined)


def total_cost(costs: Iterable[DocumentCost]) -> float:
    """Return the correctly rounded sum of all nats."""
    return math.fsum(float(nats) for cost in costs for nats in cost.nats_N)


def dearest_tokens(costs: Sequence[DocumentCost], count: int) -> list[DearToken]:
    """Return the `count` targets with the most nats, the dearest first; of equals the one that comes first."""
    nats_N = np.concatenate([np.empty(0), *(cost.nats_N for cost in costs)])
    starts = np.cumsum([0, *(len(cost.nats_N) for cost in costs)])
    chosen = np.argsort(-nats_N, kind="stable")[:count]
    numbers = np.searchsorted(starts, chosen, side="right") - 1
    return [
        DearToken(number, at - int(starts[number]) + 1, float(nats_N[at]))
        for number, at in zip(numbers.tolist(), chosen.tolist(), strict=True)
    ]


def _streams(documents: Sequence[EncodedDocument], joined: bool) -> list[np.ndarray]:
    """Return what is scored by itself: documents that have tokens, or all of them in a row."""
    tokens = [document.tokens_M for document in documents if len(document.tokens_M)]
    return [np.concatenate(tokens)] if joined and tokens else tokens


def _by_document(
    documents: Sequence[EncodedDocument], nats: list[np.ndarray], bos_id: int, joined: bool
) -> list[DocumentCost]:
    """Return the nats of streams by the documents that these hold."""
    left = iter(nats)
    rest_N = next(left, np.empty(0)) if joined else np.empty(0)
    costs = []
    for document in documents:
        tokens_M, nats_N = document.tokens_M, np.empty(0)
        if joined:
            nats_N, rest_N = rest_N[: len(tokens_M)], rest_N[len(tokens_M) :]
        elif len(tokens_M):
            nats_N = next(left)
        if len(nats_N) and len(nats_N) == len(tokens_M):  # the next one's BOS is a target, too
            tokens_M = np.append(tokens_M, np.asarray(bos_id, tokens_M.dtype))
        costs.append(DocumentCost(document, tokens_M, nats_N))
    return costs
