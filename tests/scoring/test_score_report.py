"""Per-document scores: a partition of the ledger, with the bytes of the documents' texts."""

import math

import numpy as np
import pytest

from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.data.text import normalised_text
from pipeline.scoring.evaluate import Scores
from pipeline.scoring.ledger import Ledger, make_ledger
from pipeline.scoring.report import DocumentScores, document_scores, document_summary, score_report

TEXTS = ["a tale of two words", "", "x", "\u00e9t\u00e9 and more words, words, words", "the end"]


def ledger_of(tokens: np.ndarray, bytes_N: np.ndarray) -> Ledger:
    random = np.random.default_rng(3)
    order = random.permutation(len(tokens) - 1)
    return make_ledger(Scores(random.uniform(0, 9, len(order)), order, np.zeros(len(order), int)), bytes_N, {})


def test_bytes_are_those_of_the_texts_and_nats_a_partition(toy_processor) -> None:
    rows = [[toy_processor.bos_id(), *toy_processor.encode(text)] for text in TEXTS]
    tokens = np.array([token for row in rows for token in row])
    ledger = ledger_of(tokens, count_bytes(tokens, byte_table(toy_processor)))
    scores = document_scores(ledger, tokens, toy_processor.bos_id())
    assert scores.bytes_D.tolist() == [len(normalised_text(toy_processor, text).encode()) for text in TEXTS]
    assert scores.start_D.tolist() == np.cumsum([0, *(len(row) for row in rows[:-1])]).tolist()
    # A document's targets start at its BOS (target j is token j + 1) and end with the next one.
    by_target = dict(zip(ledger.target.tolist(), ledger.nats.tolist(), strict=True))
    for start, row, nats in zip(scores.start_D.tolist(), rows, scores.nats_D, strict=True):
        own = [by_target[target] for target in range(start, start + len(row)) if target in by_target]
        assert nats == pytest.approx(math.fsum(own), rel=1e-12)
    summary = document_summary(scores)
    assert summary["documents"] == len(TEXTS) - 1
    assert summary["bpb_worst"] >= summary["bpb_median"]


def test_a_stream_may_begin_inside_a_document_and_end_with_a_bos() -> None:
    tokens = np.array([7, 8, 1, 9, 9, 1])
    scores = document_scores(ledger_of(tokens, np.array([3, 0, 2, 2, 0])), tokens, 1)
    assert scores.start_D.tolist() == [0, 2]
    assert scores.bytes_D.tolist() == [3, 4]


def test_the_summary_counts_every_document_once() -> None:
    scores = DocumentScores(np.array([0, 5, 6]), np.log(2) * np.array([2.0, 1.0, 30.0]), np.array([1, 0, 10]))
    expected = {"documents": 2, "bpb_mean": 2.5, "bpb_median": 2.5, "bpb_worst": 3.0}
    assert document_summary(scores) == pytest.approx(expected)


def test_targets_with_other_bytes_than_the_text_are_refused() -> None:
    tokens, manifest = np.array([1, 8, 9]), {"bos_id": 1, "splits": {"val": {"bytes": 5}}}
    report = score_report("blocks", ledger_of(tokens, np.array([3, 2])), tokens, manifest)
    assert (report["weights"], report["bytes"], report["per_document"]["documents"]) == ("artifact", 5, 1)
    assert score_report("float", ledger_of(tokens, np.array([3, 2])), tokens, manifest)["weights"] == "float"
    with pytest.raises(ValueError, match=r"stand for 4 bytes, expected the text's 5 \(manifest\.json\)"):
        score_report("blocks", ledger_of(tokens, np.array([3, 1])), tokens, manifest)
