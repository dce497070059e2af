"""Where in the text the loss is: by position in a document and in a window, and document by document.

The one idea: a ledger has the nats and bytes of every target; with the tokens of val each target has a document and a
place in it. Nothing is scored again. A document scores the BOS of the next, as in a score's own figures.

Axes: M tokens, N = M - 1 targets, D documents.
Source: ours.
Checked by: tests/reports/test_text_losses.py.
"""

from typing import NamedTuple

import numpy as np
import sentencepiece

from pipeline.data.byte_count import bits_per_byte
from pipeline.data.text import decode_texts
from pipeline.scoring.ledger import Ledger
from pipeline.scoring.report import DocumentScores, document_scores

WORST_DOCUMENTS = 5
LEAST_BYTES = 100
"""Shorter documents are no worst ones: a few odd words cost what they cost."""
_SHOWN_TOKENS = 160


class PositionLoss(NamedTuple):
    """Targets at neighbouring positions."""

    first: int
    """Their first position, from 1."""
    last: int
    targets: int
    bpb: float


class WorstDocument(NamedTuple):
    """A document with its score and how it begins."""

    start: int
    """Position of its first token in the stream."""
    bytes: int
    bpb: float
    text: str


def loss_by_document_position(ledger: Ledger, tokens_M: np.ndarray, bos_id: int) -> list[PositionLoss]:
    """Return the loss by the number of a target in its document, in steps of doubling positions."""
    starts_D = document_scores(ledger, tokens_M, bos_id).start_D
    targets_N = np.arange(ledger.num_targets)
    places_N = targets_N - starts_D[np.searchsorted(starts_D, targets_N, side="right") - 1]
    return _by_position(ledger, places_N)


def loss_by_window_position(ledger: Ledger) -> list[PositionLoss] | None:
    """Return the loss by the tokens that a target's window shows, for disjoint windows; None for other protocols."""
    protocol = ledger.protocol
    if protocol["kind"] != "blocks" or protocol.get("documents"):
        return None
    return _by_position(ledger, np.arange(ledger.num_targets) % protocol["context_tokens"])


def document_losses(ledger: Ledger, tokens_M: np.ndarray, bos_id: int) -> np.ndarray:
    """Return float64 (D,) bits per byte of all documents that have bytes, in stream order."""
    return document_scores(ledger, tokens_M, bos_id).bits_per_byte()


def worst_documents(
    ledger: Ledger, tokens_M: np.ndarray, processor: sentencepiece.SentencePieceProcessor
) -> list[WorstDocument]:
    """Return the documents of `LEAST_BYTES` or more with the most bits per byte, the worst first."""
    scores = document_scores(ledger, tokens_M, processor.bos_id())
    long_D = np.flatnonzero(scores.bytes_D >= LEAST_BYTES)
    ranked = long_D[np.argsort(-(scores.nats_D / np.maximum(scores.bytes_D, 1))[long_D], kind="stable")]
    return [_worst(scores, tokens_M, processor, int(index)) for index in ranked[:WORST_DOCUMENTS]]


def _worst(
    scores: DocumentScores, tokens_M: np.ndarray, processor: sentencepiece.SentencePieceProcessor, index: int
) -> WorstDocument:
    start, num_bytes = int(scores.start_D[index]), int(scores.bytes_D[index])
    end = int(scores.start_D[index + 1]) if index + 1 < len(scores.start_D) else len(tokens_M)
    (text,) = decode_texts(processor, [tokens_M[start : min(end, start + _SHOWN_TOKENS)].tolist()])
    cut = " ..." if end > start + _SHOWN_TOKENS else ""
    shown = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
    return WorstDocument(start, num_bytes, bits_per_byte(float(scores.nats_D[index]), num_bytes), shown + cut)


def _by_position(ledger: Ledger, places_N: np.ndarray) -> list[PositionLoss]:
    """Return the loss by the place of every target, from 0: 1, 2, 3 to 4, 5 to 8 and so on, counted from 1."""
    steps_N = np.ceil(np.log2(places_N + 1.0)).astype(np.int64)[ledger.target]
    targets, nats, num_bytes = (
        np.bincount(steps_N, column) for column in (np.ones(len(steps_N)), ledger.nats, ledger.bytes)
    )
    return [
        PositionLoss(2**step // 2 + 1, 2**step, int(targets[step]), bits_per_byte(nats[step], num_bytes[step]))
        for step in np.flatnonzero(num_bytes).tolist()
    ]
