"""Counts of passes on fake tensors, against products written out, and seconds by machine."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.model.loss import CHUNK_LOGITS
from pipeline.projection.counts import Counts, attention_flops, count, fake_network, forward_counts, training_counts
from pipeline.projection.machines import MACHINES
from tests.networks import TINY

MACHINE = MACHINES["h100"]


def test_products_are_counted_with_their_operands_and_views_are_free() -> None:
    a_RC, b_CR = torch.zeros(4, 6), torch.zeros(6, 4)
    counts = count(lambda: (a_RC @ b_CR).view(16)[:3].add(1.0))
    assert counts == Counts(2, 4 * (24 + 24 + 16) + 4 * (3 + 3), 4 * (24 + 24 + 16), 2 * 4 * 6 * 4)


def test_the_slowest_of_launches_bytes_and_products_decides() -> None:
    assert Counts(1000, 1, 1, 1).seconds(MACHINE, compiled=False) == pytest.approx(4e-3)
    assert Counts(1000, 1, 1, 1).seconds(MACHINE, compiled=True) < 1e-9
    assert Counts(0, 2.68e12, 0, 0).seconds(MACHINE, compiled=False) == pytest.approx(1)
    assert Counts(0, 2.68e12, 2.68e12, 0).seconds(MACHINE, compiled=True) == pytest.approx(2)


def test_a_compiled_training_step_multiplies_and_moves() -> None:
    plain = replace(MACHINE, training_factor=1.0)
    counts = Counts(9, 9e15, 2.68e12, 3 * 494.5e12)
    assert counts.training_seconds(plain, compiled=True) == pytest.approx(3 + 1)
    assert counts.training_seconds(replace(plain, training_factor=2.0), compiled=True) == pytest.approx(8)
    assert counts.training_seconds(plain, compiled=False) == counts.seconds(plain, compiled=False)


def test_attention_multiplies_each_query_with_its_past_alone() -> None:
    q_BHTE, k_BGSE = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 5, 8)
    pairs = sum(2 * 4 * (past + 0.5) for past in (2, 3, 4))  # keys before a query and half of its own
    assert attention_flops((q_BHTE, k_BGSE), backward=False) == 2 * 2 * 8 * pairs
    assert attention_flops((q_BHTE, q_BHTE, k_BGSE), backward=True) == 2 * 5 * 8 * pairs


def test_attention_is_counted_forward_and_backward() -> None:
    with FakeTensorMode():
        q, k, v = (torch.zeros(1, 2, 2048, 8, requires_grad=True) for _ in range(3))
        one = count(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        both = count(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward())
    assert one.flops == 2 * 2 * 2048 * 1024 * 16
    assert both.flops == 3.5 * one.flops


def test_scored_positions_alone_pass_the_last_visit() -> None:
    some, all_ = forward_counts(TINY, 32, 8), forward_counts(TINY, 32, 32)
    assert some.flops < all_.flops
    assert some.bytes < all_.bytes


def test_a_step_grows_with_its_sequences_and_loops_and_reads_its_weights_once() -> None:
    one, two, three = (training_counts(TINY, sequences, 32, None) for sequences in (1, 2, 3))
    assert three.flops - two.flops == two.flops - one.flops > 0
    assert 0.9 * one.flops < two.flops - one.flops <= one.flops
    assert two.product_bytes - one.product_bytes < one.product_bytes
    assert training_counts(TINY, 1, 32, 1).flops < one.flops


def test_the_size_of_chunks_is_the_cpus_again_afterwards() -> None:
    with fake_network(TINY, 32):
        assert CHUNK_LOGITS["cpu"] == CHUNK_LOGITS["cuda"]
    assert CHUNK_LOGITS["cpu"] < CHUNK_LOGITS["cuda"]
