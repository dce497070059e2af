"""What a scored item says of itself: totals, and scores of single documents, from its ledger and its stream.

One idea: a document scores its own words and the BOS of the next, which it predicts; so documents are a partition of
the targets, and their nats and bytes add up to the ledger's.

Axes: M tokens, N = M - 1 targets, D documents.
Source: none.
Checked by: tests/scoring/test_score_report.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.byte_count import bits_per_byte
from pipeline.scoring.ledger import Ledger


class DocumentScores(NamedTuple):
    """One row per document of the stream that has a target, in stream order."""

    start_D: np.ndarray
    """int64: position of the first token, its BOS unless the stream begins inside a document."""
    nats_D: np.ndarray
    """float64: summed nats."""
    bytes_D: np.ndarray
    """int64: bytes of its text."""

    def bits_per_byte(self) -> np.ndarray:
        """Return float64 bpb of the documents that have bytes."""
        return np.array([bits_per_byte(nats, count) for _, nats, count in zip(*self, strict=True) if count])


def score_report(item: str, ledger: Ledger, tokens_M: np.ndarray, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item's scores as JSON-able values.

    Raises ValueError when the targets do not stand for as many bytes as the text has from which the shards were made:
    `prepare` holds every document's tokens to its text and writes the sum to the manifest.
    """
    text_bytes = manifest["splits"]["val"]["bytes"]
    if ledger.total_bytes != text_bytes:
        raise ValueError(
            f"val shards: got targets that stand for {ledger.total_bytes} bytes, expected the text's "
            f"{text_bytes} (manifest.json); run `dvc repro -f prepare`"
        )
    return {
        "item": item,
        "weights": "float" if item == "float" else "artifact",
        "protocol": ledger.protocol,
        "val_loss": ledger.val_loss,
        "val_bpb": ledger.val_bpb,
        "nats": ledger.total_nats,
        "bytes": ledger.total_bytes,
        "targets": len(tokens_M) - 1,
        "tokens": len(tokens_M),
        "per_document": document_summary(document_scores(ledger, tokens_M, manifest["bos_id"])),
    }


def document_scores(ledger: Ledger, tokens_M: np.ndarray, bos_id: int) -> DocumentScores:
    """Return the nats and bytes of every document of the stream that `ledger` scored."""
    nats_N, bytes_N = np.empty(ledger.num_targets), np.empty(ledger.num_targets, np.int64)
    nats_N[ledger.target], bytes_N[ledger.target] = ledger.nats, ledger.bytes
    inside_M = np.asarray(tokens_M[:-1]) != bos_id
    inside_M[:1] = False
    start_D = np.flatnonzero(~inside_M)
    nats_D, bytes_D = (np.add.reduceat(column, start_D) if len(start_D) else column for column in (nats_N, bytes_N))
    return DocumentScores(start_D, nats_D, bytes_D)


def document_summary(scores: DocumentScores) -> dict[str, float]:
    """Return how many documents have bytes, and mean, median and worst bpb over them, each document counting once."""
    bpb_D = scores.bits_per_byte()
    return {
        "documents": len(bpb_D),
        "bpb_mean": float(bpb_D.mean()),
        "bpb_median": float(np.median(bpb_D)),
        "bpb_worst": float(bpb_D.max()),
    }
