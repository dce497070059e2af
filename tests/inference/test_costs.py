"""What texts cost: against a loop in plain torch, and documents against their stream."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.base.progress import silent
from pipeline.inference.costs import dearest_tokens, default_protocol, score_documents, total_cost
from pipeline.inference.documents import Document, EncodedDocument, encoded
from pipeline.inference.source import FinishedModel
from pipeline.scoring.protocols import parse_protocol
from tests.inference.opened import opened

BLOCKS = parse_protocol({"kind": "blocks", "context_tokens": 32, "mixture": None})


@pytest.fixture(scope="module")
def model(toy_model, tmp_path_factory) -> FinishedModel:
    return opened(tmp_path_factory.mktemp("model"), toy_model)


@pytest.fixture(scope="module")
def documents(model, toy_documents) -> list[EncodedDocument]:
    texts = ["a", *toy_documents[:4], "\u200b", " ".join(toy_documents[4:7])]  # one byte, nothing at all, long
    return [encoded(model, Document(str(number), text)) for number, text in enumerate(texts)]


def sliding_nats(model, tokens_M, context: int, stride: int) -> list[float]:
    """Return nats by a forward pass per target, in its sliding window: slow and obvious."""
    nats = []
    for target in range(1, len(tokens_M)):
        windows = max(0, -(-(target - context) // stride))
        start = windows * stride
        ids_BT = torch.tensor([tokens_M[start:target].tolist()])
        logits_V = model(ids_BT)[0, -1]
        nats.append(float(F.cross_entropy(logits_V, torch.tensor(int(tokens_M[target])))))
    return nats


@torch.no_grad()
def test_documents_alone_cost_what_a_loop_in_plain_torch_says(model, documents) -> None:
    protocol = default_protocol(model)
    assert (protocol.context_tokens, protocol.stride_tokens) == (32, 8)
    costs = score_documents(model, documents, protocol, False, silent)
    assert [cost.document for cost in costs] == documents
    for cost in costs:
        expected = sliding_nats(model.model, cost.document.tokens_M, 32, 8)
        # float32: a batch of windows against one window that ends at its target.
        np.testing.assert_allclose(cost.nats_N, expected, atol=1e-4)
        assert len(cost.tokens_M) == len(cost.document.tokens_M)
        num_bytes = cost.document.bytes
        expected_bpb = pytest.approx(math.fsum(cost.nats_N) / math.log(2) / num_bytes) if num_bytes else None
        assert cost.bits_per_byte() == expected_bpb


def test_no_document_hangs_on_another_unless_joined(model, documents) -> None:
    alone = score_documents(model, documents, BLOCKS, False, silent)
    turned = score_documents(model, documents[::-1], BLOCKS, False, silent)
    for one, other in zip(alone, turned[::-1], strict=True):
        np.testing.assert_array_equal(one.nats_N, other.nats_N)
    assert total_cost(alone) == total_cost(turned)


def test_joined_documents_are_the_stream_that_evaluate_scores(model, documents) -> None:
    from pipeline.scoring import score_tokens

    costs = score_documents(model, documents, BLOCKS, True, silent)
    stream_M = np.concatenate([document.tokens_M for document in documents])
    np.testing.assert_array_equal(
        np.concatenate([cost.nats_N for cost in costs]), score_tokens(model.model, stream_M, BLOCKS)
    )
    bos_id = model.processor.bos_id()
    assert [len(cost.nats_N) for cost in costs] == [max(0, len(cost.tokens_M) - 1) for cost in costs]
    assert [len(cost.tokens_M) and int(cost.tokens_M[-1]) == bos_id for cost in costs] == [True] * 5 + [0, False]


def test_progress_counts_all_targets_once(model, documents) -> None:
    seen: list[tuple[int, int]] = []
    costs = score_documents(model, documents, BLOCKS, False, lambda done, total, note: seen.append((done, total)))
    total = sum(len(cost.nats_N) for cost in costs)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_the_dearest_tokens_are_those_with_most_nats(model, documents) -> None:
    costs = score_documents(model, documents, BLOCKS, False, silent)
    every = sorted((nats for cost in costs for nats in cost.nats_N.tolist()), reverse=True)
    for count in (0, 1, 7, len(every), len(every) + 5):
        dearest = dearest_tokens(costs, count)
        assert [token.nats for token in dearest] == every[:count]
        assert all(costs[each.number].nats_N[each.place - 1] == each.nats for each in dearest)
    assert dearest_tokens([], 3) == []


def test_protocols_that_learn_begin_anew_with_every_document(model, documents) -> None:
    protocol = parse_protocol(
        {
            "kind": "ttt",
            "context_tokens": 16,
            "stride_tokens": 8,
            "chunk_tokens": 32,
            "epochs": 1,
            "learning_rate": 0.01,
            "momentum": 0.9,
            "grad_clip": 1.0,
            "batch_sequences": 2,
            "freeze_blocks": 0,
            "lane_tokens": None,
            "mixture": None,
        }
    )
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    together = score_documents(model, documents, protocol, False, silent)
    alone = [score_documents(model, [document], protocol, False, silent)[0] for document in documents]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.nats_N, other.nats_N)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())


def test_a_protocol_with_another_bos_is_refused(model, documents) -> None:
    protocol = parse_protocol({"kind": "blocks", "documents": True, "bos_id": 7, "context_tokens": 32, "mixture": None})
    with pytest.raises(ValueError, match=r"protocol: bos_id: got .* expected 1, the tokenizer's"):
        score_documents(model, documents, protocol, True, silent)


def test_counts_that_the_weights_do_not_hold_are_refused(model, documents) -> None:
    protocol = parse_protocol({"kind": "blocks", "context_tokens": 32, "mixture": "document"})
    with pytest.raises(ValueError, match=r"protocol\.mixture: got 'document', expected null or one of \[\]"):
        score_documents(model, documents, protocol, False, silent)
