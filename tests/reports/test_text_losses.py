"""Losses by place and by document, against sums by hand."""

import math

import numpy as np
import pytest

from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.reports.text_losses import loss_by_document_position, loss_by_window_position, worst_documents
from pipeline.scoring.evaluate import Scores
from pipeline.scoring.ledger import Ledger, make_ledger

BLOCKS = {"kind": "blocks", "context_tokens": 4, "mixture": None}


def ledger_of(nats_N: np.ndarray, bytes_N: np.ndarray, protocol: dict) -> Ledger:
    """Return a ledger whose targets were scored in another order."""
    order_N = np.random.default_rng(3).permutation(len(nats_N))
    return make_ledger(Scores(nats_N, order_N, np.zeros(len(nats_N), int)), bytes_N, protocol)


def test_positions_are_counted_from_the_bos_and_double():
    tokens_M = np.array([1, 7, 7, 7, 1, 7, 7, 7, 7, 7, 7])
    nats_N, bytes_N = np.arange(10.0), np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 2])
    rows = loss_by_document_position(ledger_of(nats_N, bytes_N, BLOCKS), tokens_M, bos_id=1)
    assert [(row.first, row.last, row.targets) for row in rows] == [(1, 1, 2), (2, 2, 2), (3, 4, 4), (5, 8, 2)]
    sums = [(0 + 4, 2), (1 + 5, 2), (2 + 3 + 6 + 7, 3), (8 + 9, 3)]
    assert [row.bpb for row in rows] == pytest.approx([nats / math.log(2) / count for nats, count in sums])


def test_positions_in_windows_are_those_of_disjoint_ones():
    nats_N, bytes_N = np.arange(6.0), np.ones(6, int)
    rows = loss_by_window_position(ledger_of(nats_N, bytes_N, BLOCKS))
    assert [(row.last, row.targets) for row in rows] == [(1, 2), (2, 2), (4, 2)]
    assert rows[0].bpb == pytest.approx((0 + 4) / 2 / math.log(2))
    assert loss_by_window_position(ledger_of(nats_N, bytes_N, {**BLOCKS, "documents": True})) is None
    assert loss_by_window_position(ledger_of(nats_N, bytes_N, {**BLOCKS, "kind": "sliding"})) is None


def test_the_worst_documents_come_first_with_their_text(toy_processor):
    texts = ["a tale of two words " * 8, "short", "words and more words " * 30, "the end of it all " * 8]
    rows = [[toy_processor.bos_id(), *toy_processor.encode(text)] for text in texts]
    tokens_M = np.array([token for row in rows for token in row])
    bytes_N = count_bytes(tokens_M, byte_table(toy_processor))
    dear_N = np.concatenate([np.full(len(row), cost) for row, cost in zip(rows, (1, 9, 3, 2), strict=True)])[:-1]
    worst = worst_documents(ledger_of(dear_N * bytes_N, bytes_N, BLOCKS), tokens_M, toy_processor)
    assert [document.start for document in worst] == [len(rows[0]) + len(rows[1]), sum(map(len, rows[:3])), 0]
    assert [document.bpb * math.log(2) for document in worst] == pytest.approx([3, 2, 1])
    assert worst[0].text.startswith("words and more words")
    assert worst[0].text.endswith(" ...")
    assert worst[2].text == texts[0].strip()
