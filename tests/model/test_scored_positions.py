"""Hidden states of the last positions only: equal to those of the full path, with the work really left out."""

import re

import pytest
import torch
import torch.nn.functional as F

from pipeline.model.attention import (
    PRODUCTS_BLOCK_TOKENS,
    attend,
    attend_by_library,
    attend_by_products,
    attend_with_repeated_groups,
)
from tests.networks import ARCHITECTURES, NO_CONDITIONERS, TINY, architecture, changed, random_ids, randomised

ENDS_IN_THE_CORE = {"schedule.unique_blocks": 0, "attention.exclusive_blocks": [1], "parallel_blocks": [1]}
LAST_VISITS = {
    **{name: architecture(name) for name in ARCHITECTURES},
    "core only, smear, contractive step": changed(
        TINY,
        {
            **ENDS_IN_THE_CORE,
            "conditioners": {
                **NO_CONDITIONERS,
                "flow_dim": 4,
                "anchor_dim": 5,
                "smear": True,
                "step": {"kind": "contractive", "fraction": 0.4},
            },
        },
    ),
    "core only, learned step": changed(
        TINY, {**ENDS_IN_THE_CORE, "conditioners": {**NO_CONDITIONERS, "positions": True, "step": {"kind": "learned"}}}
    ),
}


@pytest.mark.parametrize("num_scored", [1, 7, 19, 20])
@pytest.mark.parametrize("name", LAST_VISITS)
@torch.no_grad()
def test_scored_positions_equal_those_of_the_full_path(name, num_scored):
    config = LAST_VISITS[name]
    model, ids_BT = randomised(config).double(), random_ids(config, 3, 20)
    full_BTD, scored_BTD = model.hidden(ids_BT), model.hidden(ids_BT, num_scored)
    assert scored_BTD.shape == (3, num_scored, config.embedding_dim)
    # Other shapes, other summation order in the matrix products: rounding of float64, in final states of size one.
    assert (scored_BTD - full_BTD[:, -num_scored:]).abs().max() < 1e-11


@pytest.mark.parametrize("name", LAST_VISITS)
def test_all_positions_scored_is_the_full_path_bit_for_bit(name):
    config = LAST_VISITS[name]
    model, ids_BT = randomised(config), random_ids(config, 2, 12)
    cotangent_BTD = torch.randn(2, 12, config.embedding_dim, generator=torch.Generator().manual_seed(1))
    grads = []
    for num_scored in (None, 12):
        model.zero_grad()
        model.hidden(ids_BT, num_scored).backward(cotangent_BTD)
        grads.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert torch.equal(model.hidden(ids_BT), model.hidden(ids_BT, 12))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", LAST_VISITS)
@torch.no_grad()
def test_the_last_visit_multiplies_only_keys_and_values_of_other_positions(name):
    config = LAST_VISITS[name]
    model, calls = randomised(config), []
    for called, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args, called=called: calls.append((called, args[0].size(1))))
    model.hidden(random_ids(config, 1, 40), 4)
    last_key = max(i for i, (called, _) in enumerate(calls) if re.fullmatch(r"blocks.*attention\.key", called))
    assert [size for _, size in calls[: last_key - 1]] == [40] * (last_key - 1)
    assert calls[last_key - 1][1] == 4, calls[last_key - 1]
    assert [size for _, size in calls[last_key : last_key + 2]] == [40, 40]
    assert {size for _, size in calls[last_key + 2 :]} == {4}


@pytest.mark.parametrize("path", [attend_by_library, attend_by_products, attend_with_repeated_groups])
@pytest.mark.parametrize("num_queries", [1, 5, PRODUCTS_BLOCK_TOKENS + 3, 2 * PRODUCTS_BLOCK_TOKENS + 9])
def test_fewer_queries_than_keys_are_the_last_positions(path, num_queries):
    generator = torch.Generator().manual_seed(0)
    num_keys = 2 * PRODUCTS_BLOCK_TOKENS + 9
    q, k, v = (torch.randn(2, heads, num_keys, 16, generator=generator) for heads in (6, 3, 3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[:, :, -num_queries:]
    assert torch.allclose(path(q[:, :, -num_queries:], k, v), expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@torch.no_grad()
def test_fewer_queries_than_keys_on_cuda_never_hold_all_scores(dtype, tolerance):
    q, k, v = (torch.randn(2, 2048, heads, 64, device="cuda", dtype=dtype) for heads in (8, 4, 4))
    expected = attend(q, k, v)[:, -64:]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = attend(q[:, -64:], k, v)
    assert (got - expected).abs().max() < tolerance
    copies = 2 * 2 * k.nbytes if dtype == torch.float32 else 0  # one per query head, for the fused kernel
    # FlashAttention 2 keeps a float32 result for every 256 keys: half as many bytes as the scores.
    scores = got.nbytes // q.size(3) * k.size(1)
    assert torch.cuda.max_memory_allocated() - before < copies + scores


@torch.no_grad()
def test_nats_of_scored_positions_are_those_of_the_logits():
    model, ids_BT = randomised(TINY), random_ids(TINY, 2, 21)
    logits_BTV = model(ids_BT[:, :-1])[:, -6:]
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, -6:].flatten(), reduction="none")
    nats_BT = model.nats(model.hidden(ids_BT[:, :-1], 6), ids_BT[:, -6:])
    assert (nats_BT.flatten() - expected).abs().max() < 1e-5  # float32, nats up to 60
