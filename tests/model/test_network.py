"""The network against the slow oracle, and its invariants: causality, batching, determinism, gradients."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.attention import (
    LONGEST_PRODUCTS_TOKENS,
    PRODUCTS_BLOCK_TOKENS,
    attend,
    attend_by_products,
    attend_with_repeated_groups,
)
from pipeline.model.embedding import bigram_bucket
from pipeline.model.mlp import squared_leaky_relu
from pipeline.model.network import LoopedUNet, build
from tests.networks import ARCHITECTURES, NO_CONDITIONERS, TINY, architecture, changed, random_ids, randomised
from tests.oracles import network_logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_unrolled_oracle(name):
    config = architecture(name)
    model = randomised(config).double()
    model.rotary.inv_freq_PK = model.rotary.inv_freq_PK.double()
    ids_BT = random_ids(config, 1, 7)
    with torch.no_grad():
        logits_BTV = model(ids_BT)
        expected_BTV = torch.stack([network_logits(config, model.state_dict(), ids) for ids in ids_BT])
    # Angles are float32 in the network, exact in the oracle; logits reach 30.
    assert (logits_BTV - expected_BTV).abs().max() < 2e-4


COMPILED_SLOWLY = ("frontier", "lanes", "folded, positions", "bigram by position", "asymmetric cap, gain per block")


@pytest.mark.parametrize(
    "name", ["helix, attention", *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED_SLOWLY)]
)
def test_a_compiler_reads_the_whole_network(name):
    config = architecture(name)
    model, ids_BT = randomised(config), random_ids(config, 2, 9)
    torch._dynamo.reset()
    loss = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)(ids_BT[:, :-1], ids_BT[:, 1:])
    assert loss.item() == pytest.approx(model(ids_BT[:, :-1], ids_BT[:, 1:]).item(), rel=1e-6)


def random_core(choose):
    """Return a looped core with random sizes and options."""
    unique, looped, loops = choose.randint(0, 6), choose.randint(1, 3), choose.randint(1, 4)
    several, encoders = loops >= 2, unique // 2
    blocks = range(unique + looped)
    tap = (
        {
            "dim": 3,
            "encoder_visits": choose.sample(range(encoders), choose.randint(1, encoders)),
            "per_loop": choose.random() < 0.5,
        }
        if encoders
        else None
    )
    instruct = choose.choice(["flow", "positions", None]) if several else None
    return changed(
        TINY,
        {
            "schedule.unique_blocks": unique,
            "schedule.looped_blocks": looped,
            "schedule.num_loops": loops,
            "rope.loop_scales": choose.choice([None, [choose.choice([1.0, 3.0, 9.0]) for _ in range(loops)]]),
            "attention.exclusive_blocks": choose.sample(blocks, choose.randint(0, len(blocks))),
            "parallel_blocks": choose.sample(blocks, choose.randint(0, 2) if len(blocks) > 2 else 0),
            "ln_scale": choose.random() < 0.5,
            "visit_controls": choose.random() < 0.3,
            "skip_gates": choose.random() < 0.3,
            "attention.num_kv_heads": choose.choice([1, 2, 4]),
            "rope.dims": choose.choice([0, 2, 4, 8]),
            "rope.base_tokens": choose.choice([16, 1024]),
            "looped_mlp.choke": choose.choice(
                [
                    None,
                    *(
                        {"shape": shape, "dim": 6, "groups": 3}
                        for shape in ("flat", "pyramid", "pyramid_res", "grouped", "residual")
                    ),
                ]
            ),
            "value_embedding.readers": choose.sample(range(looped), choose.randint(1, looped)),
            "conditioners": {
                **NO_CONDITIONERS,
                "flow_dim": 5 if instruct == "flow" else None,
                "positions": instruct == "positions",
                "anchor_dim": choose.choice([None, 4]) if several else None,
                "tap": choose.choice([None, tap]),
                "smear": choose.random() < 0.5,
                "step": choose.choice([None, {"kind": "learned"}, {"kind": "contractive", "fraction": 0.7}]),
            },
        },
    )


@pytest.mark.parametrize("trial", range(12))
def test_equals_the_oracle_for_random_options(trial):
    config = random_core(random.Random(trial))
    model = randomised(config, trial)
    ids_BT = random_ids(config, 1, 7, seed=trial)
    with torch.no_grad():
        logits_TV = model(ids_BT)[0]
        expected_TV = network_logits(config, model.state_dict(), ids_BT[0])
    assert (logits_TV - expected_TV).abs().max() < 2e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_later_tokens_never_move_earlier_logits(name):
    config = architecture(name)
    model = randomised(config)
    ids_BT = random_ids(config, 2, 24)
    with torch.no_grad():
        logits_BTV = model(ids_BT)
        for cut in (1, 9, 23):
            changed_BT = ids_BT.clone()
            changed_BT[:, cut:] = (changed_BT[:, cut:] + 1) % config.vocab_size
            assert torch.equal(model(changed_BT)[:, :cut], logits_BTV[:, :cut])
            assert not torch.equal(model(changed_BT)[:, cut], logits_BTV[:, cut])


def test_bfloat16_autocast_is_causal_and_close():
    model, ids_BT = randomised(TINY), random_ids(TINY, 2, 24)
    changed_BT = ids_BT.clone()
    changed_BT[:, 12:] = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(ids_BT)
        assert torch.equal(model(changed_BT)[:, :12], logits_BTV[:, :12])
    assert logits_BTV.dtype == torch.float32
    with torch.no_grad():
        exact_BTV = model(ids_BT)
    # Eight bits of mantissa through ten visits of a random network.
    assert (logits_BTV - exact_BTV).abs().mean() < 0.1 * exact_BTV.std()


def test_attention_by_products_equals_the_library_kernel():
    generator = torch.Generator().manual_seed(0)
    num_tokens = 2 * PRODUCTS_BLOCK_TOKENS + 9
    q, k, v = (torch.randn(2, heads, num_tokens, 16, generator=generator).requires_grad_() for heads in (6, 3, 3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    got = attend_by_products(q, k, v)
    cotangent = torch.randn(expected.shape, generator=generator)
    assert torch.allclose(got, expected, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(got, (q, k, v), cotangent), torch.autograd.grad(expected, (q, k, v), cotangent), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_repeated_groups_equal_grouped_heads():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 40, 16, generator=generator) for heads in (6, 3, 3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(attend_with_repeated_groups(q, k, v), expected, atol=1e-5)


def test_long_contexts_never_hold_all_scores_in_memory():
    """The memory of all scores grows with the square of the context: the largest tensor tells which path ran."""
    largest = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor)]
            largest[num_tokens] = max([largest.get(num_tokens, 0), *sizes])
            return out

    for num_tokens in (LONGEST_PRODUCTS_TOKENS, LONGEST_PRODUCTS_TOKENS + 1):
        q, k, v = (torch.randn(1, num_tokens, heads, 8, dtype=torch.bfloat16) for heads in (4, 2, 2))
        with Watch():
            attend(q, k, v)
    short, long = largest.values()
    assert short == 4 * PRODUCTS_BLOCK_TOKENS * LONGEST_PRODUCTS_TOKENS
    assert long <= 16 * LONGEST_PRODUCTS_TOKENS * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_attention_on_cuda_stays_in_bfloat16_under_autocast():
    model, ids_BT = randomised(TINY).cuda(), random_ids(TINY, 2, 24).cuda()
    with torch.no_grad():
        exact_BTV = model(ids_BT)
    seen = []
    model.blocks[4].attention.output.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    model.blocks[5].attention.output.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        logits_BTV = model(ids_BT)
    assert set(seen) == {torch.bfloat16}
    assert (logits_BTV - exact_BTV).abs().mean() < 0.1 * exact_BTV.std()


class OnCuda(TorchFunctionMode):
    """Lets every tensor say that it lies on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return True if func == torch.Tensor.is_cuda.__get__ else func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_a_gpu_no_block_reads_or_writes_a_wide_stream(name):
    """Half the traffic of everything between two products: what a GPU waits for in a step."""
    config, seen = architecture(name), []
    model, ids_BT = randomised(config), random_ids(config, 1, 9)
    for block in model.blocks:
        block.register_forward_hook(lambda block, args, output: seen.extend((args[1].x0_BTD.dtype, output.dtype)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wide_BTV = model(ids_BT)
        assert torch.float32 in seen
        seen.clear()
        with OnCuda():
            narrow_BTV = model(ids_BT)
    assert set(seen) == {torch.bfloat16}
    assert (narrow_BTV - wide_BTV).abs().mean() < 0.1 * wide_BTV.std()
    with torch.no_grad(), OnCuda():
        model(ids_BT)
    assert seen[-1] == torch.float32, "without autocast nothing is rounded"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_bigram_buckets_do_not_depend_on_the_dtype_of_the_ids(dtype):
    largest = {torch.int32: 65535, torch.int16: 2**15 - 1, torch.uint8: 255}[dtype]
    ids = [[largest, largest - 3, 7, largest, 0]]
    expected = [(36313 * b) ^ (27191 * a) for a, b in zip(ids[0], ids[0][1:], strict=False)]
    buckets_BT = bigram_bucket(torch.tensor(ids, dtype=dtype), 1000)
    assert buckets_BT.dtype == torch.int64
    assert buckets_BT.tolist() == [[999, *(pair % 999 for pair in expected)]]


def test_nothing_is_smeared_across_the_start_of_a_document():
    config = architecture("frontier")
    model, ids_BT = randomised(config), random_ids(config, 1, 12)
    ids_BT[0, 5] = config.smear.bos_id
    with torch.no_grad():
        x_BTD = model.embed(ids_BT)
        assert torch.allclose(x_BTD[:, 5:], model.embed(ids_BT[:, 5:]), atol=1e-6)
        assert not torch.allclose(x_BTD[:, 6], model.embed(ids_BT[:, 6:7])[:, 0], atol=1e-2)


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.5])
def test_squared_leaky_relu_has_the_right_value_and_gradient(slope):
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.allclose(squared_leaky_relu(x, slope), F.leaky_relu(x, slope) ** 2)
    assert torch.autograd.gradcheck(lambda x: squared_leaky_relu(x, slope), (x,))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batch_composition_and_padding_change_nothing(name):
    config = architecture(name)
    model, ids_BT = randomised(config).double(), random_ids(config, 3, 20)
    with torch.no_grad():
        together_BTD = model.hidden(ids_BT)
        alone_TD = model.hidden(ids_BT[1:2])[0]
        padded_TD = model.hidden(F.pad(ids_BT[1:2], (0, 60)))[0, :20]
    # Other shapes, other summation order in the matrix products: rounding of float64, in final states of size one.
    assert (alone_TD - together_BTD[1]).abs().max() < 1e-11
    assert (padded_TD - together_BTD[1]).abs().max() < 1e-11


@pytest.mark.parametrize("num_tokens", [1, 2, 33, 100])
def test_any_length_works(num_tokens):
    logits_BTV = build(TINY)(random_ids(TINY, 1, num_tokens))
    assert logits_BTV.shape == (1, num_tokens, TINY.vocab_size)
    assert logits_BTV.isfinite().all()


def test_build_is_deterministic_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = build(TINY, 3), build(TINY, 3), build(TINY, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    later = build(TINY, 3)
    pairs = zip(first.state_dict().values(), again.state_dict().values(), later.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in pairs)
    assert not torch.equal(first.token_embedding.weight, other.token_embedding.weight)
    assert not torch.equal(first.blocks[0].mlp.up.weight, other.blocks[0].mlp.up.weight)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_empty_network_computes_what_was_loaded_into_it(name):
    config = architecture(name)
    model, ids_BT, before = randomised(config), random_ids(config, 2, 12), torch.random.get_rng_state()
    loaded = LoopedUNet.empty(config)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.eval()(ids_BT), model(ids_BT))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert torch.equal(torch.random.get_rng_state(), before)


@torch.no_grad()
def test_queries_start_with_the_gain_of_their_block_or_of_all():
    listed, one = (build(changed(TINY, {"attention.qk_gain": gain})) for gain in ([1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 5.25))
    assert [block.attention.gain.tolist() for block in listed.blocks] == [[1 + n / 2] * 4 for n in range(6)]
    assert all(block.attention.gain.tolist() == [5.25] * 4 for block in one.blocks)


def test_a_fresh_network_reads_only_the_embedding():
    model = build(TINY)
    ids_BT = random_ids(TINY, 2, 10)
    with torch.no_grad():
        direction_BTD = F.normalize(model.hidden(ids_BT), dim=-1)
        embedded_BTD = F.normalize(model.embed(ids_BT), dim=-1)
    # Skips add copies of the embedding and change its length; the blocks do not turn it.
    assert (direction_BTD - embedded_BTD).abs().max() < 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_reach_every_parameter(name):
    config = architecture(name)
    model, ids_BT = randomised(config), random_ids(config, 2, 12)
    F.cross_entropy(model(ids_BT).flatten(0, 1), ids_BT.roll(-1, 1).flatten()).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_logits_stay_inside_the_softcap():
    model = randomised(changed(TINY, {"logit_softcap": 2.0}))
    with torch.no_grad():
        model.token_embedding.weight.mul_(50)
        logits_BTV = model(random_ids(TINY, 2, 12))
    assert logits_BTV.abs().max() <= 2.0
    assert logits_BTV.abs().max() > 1.9


def test_the_context_moves_the_base_and_nothing_else():
    config = changed(TINY, {"rope.base_tokens": 16, "rope.loop_scales": None})
    model, ids_BT = randomised(config), random_ids(config, 1, 20)
    with torch.no_grad():
        before = model(ids_BT)
        longer = copy.deepcopy(model)
        longer.set_context(256)
        assert torch.equal(model(ids_BT), before)
        assert longer.config.context_tokens == 256
        assert not torch.allclose(longer(ids_BT), before, atol=1e-2)
        longer.set_context(config.context_tokens)
        assert torch.equal(longer(ids_BT), before)
