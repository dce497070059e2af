"""Parameter counts in closed form: blocks are counted once however often they are visited."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.network import LoopedUNet
from tests.networks import TINY, changed

CORE = st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(1, 4))
WIDTHS = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([4, 8]))
TABLES = st.tuples(st.integers(4, 40), st.integers(1, 12), st.integers(1, 5))


@settings(max_examples=60)
@given(CORE, WIDTHS, TABLES, st.integers(1, 5), st.integers(1, 5))
def test_the_crawler_counts_as_the_formula(core, widths, tables, mult, looped_mult):
    (unique, looped, loops), (groups, per_group, head), (vocab, table_dim, flow) = core, widths, tables
    heads, buckets = groups * per_group, 11
    dim, kv = heads * head, groups * head
    config = changed(
        TINY,
        {
            "vocab_size": vocab,
            "model_dim": dim,
            "embedding_dim": dim,
            "rope.dims": 2,
            "rope.loop_scales": None,
            "schedule.unique_blocks": unique,
            "schedule.looped_blocks": looped,
            "schedule.num_loops": loops,
            "attention.num_heads": heads,
            "attention.num_kv_heads": groups,
            "attention.exclusive_blocks": [],
            "mlp.mult": mult,
            "looped_mlp.mult": looped_mult,
            "bigram.buckets": buckets,
            "bigram.dim": table_dim,
            "value_embedding.dim": table_dim,
            "value_embedding.readers": [0],
            "conditioners.flow_dim": flow if loops > 1 else None,
        },
    )
    attention = 2 * dim * dim + 2 * dim * kv + heads
    controls = 4 * dim  # two mixes, two branch scales
    blocks = sum(attention + 2 * m * dim * dim + controls for m in unique * [mult] + looped * [looped_mult])
    bigram = buckets * table_dim + (table_dim * dim if table_dim != dim else 0) + 1
    values = vocab * table_dim + (table_dim * kv if table_dim != kv else 0) + 2
    instructions = flow * dim * (1 + loops) if loops > 1 else 0
    skips = unique // 2 * dim
    with torch.device("meta"):
        network = LoopedUNet(config)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == vocab * dim + dim + blocks + bigram + values + instructions + skips
    assert network.schedule.effective_depth == unique + looped * loops


@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 5))
def test_a_folded_stack_counts_its_blocks_once_and_its_skips_by_visits(blocks, loops, mult):
    start, end = 1, max(1, blocks - 2)
    config = changed(
        TINY,
        {
            "schedule": {
                "kind": "folded",
                "unique_blocks": blocks,
                "loop_start": start,
                "loop_end": end,
                "num_loops": loops,
            },
            "model_dim": 16,
            "embedding_dim": 16,
            "attention.num_heads": 2,
            "attention.num_kv_heads": 1,
            "rope.dims": 2,
            "attention.exclusive_blocks": [],
            "mlp.mult": mult,
            "looped_mlp": None,
            "bigram": None,
            "smear": None,
            "value_embedding": None,
            "conditioners.flow_dim": None,
            "rope.loop_scales": None,
            "skip_gates": True,
        },
    )
    visits = blocks + (loops - 1) * (end - start + 1)
    with torch.device("meta"):
        network = LoopedUNet(config)
    counted = sum(parameter.numel() for parameter in network.parameters())
    of_block = 2 * 16 * 16 + 2 * 16 * 8 + 2 + 2 * mult * 16 * 16 + 4 * 16
    assert counted == TINY.vocab_size * 16 + blocks * of_block + 2 * (visits // 2) * 16
    assert network.schedule.effective_depth == visits
