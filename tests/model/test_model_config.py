"""The model section refuses every value that no network could be built or trained with, naming the field."""

import dataclasses
import math

import pytest

from pipeline.model.config import ModelConfig

GOOD = ModelConfig(
    vocab_size=48, context_tokens=32, model_dim=32, num_heads=4, num_kv_heads=2, unique_blocks=4, looped_blocks=2,
    num_loops=3, mlp_mult=2.0, looped_mlp_mult=3.0, mlp_slope=0.5, looped_mlp_slope=0.3, rope_dims=6,
    rope_base=10000.0, rope_base_tokens=1024, rope_loop_scales=(9.0, 1.0, 2.0), qk_gain=1.5, xsa_last_looped=1,
    ln_scale=True, flow_dim=4, bigram_buckets=19, bigram_dim=8, smear_gate=True, value_embedding_dim=8,
    value_embedding_blocks=(0, 1), logit_softcap=30.0, embed_init_std=0.5,
)  # fmt: skip

POSITIVE = ("mlp_mult", "looped_mlp_mult", "rope_base", "logit_softcap", "embed_init_std")
FINITE = ("mlp_slope", "looped_mlp_slope", "qk_gain")
AT_LEAST_ONE = ("vocab_size", "context_tokens", "model_dim", "num_heads", "num_kv_heads", "num_loops",
                "rope_base_tokens")  # fmt: skip
NOT_NEGATIVE = ("unique_blocks", "looped_blocks", "rope_dims", "flow_dim", "bigram_buckets", "bigram_dim",
                "value_embedding_dim", "xsa_last_looped")  # fmt: skip

BAD = [
    *((name, {name: value}) for name in POSITIVE for value in (0.0, -1.0, math.inf, math.nan)),
    *((name, {name: value}) for name in FINITE for value in (math.inf, -math.inf, math.nan)),
    *((name, {name: value}) for name in AT_LEAST_ONE for value in (0, -1)),
    *((name, {name: -1}) for name in NOT_NEGATIVE),
    *(("rope_loop_scales", {"rope_loop_scales": (9.0, value, 1.0)}) for value in (0.0, -1.0, math.inf, math.nan)),
    ("rope_loop_scales", {"rope_loop_scales": (1.0, 1.0)}),
    ("vocab_size", {"vocab_size": 65537}),
    ("model_dim", {"model_dim": 34}),
    ("num_kv_heads", {"num_kv_heads": 3}),
    ("rope_dims", {"rope_dims": 5}),
    ("rope_dims", {"rope_dims": 10}),
    ("rope_dims", {"rope_dims": 0, "model_dim": 36}),
    ("mlp_mult", {"mlp_mult": 0.01}),
    ("xsa_last_looped", {"xsa_last_looped": 3}),
    ("unique_blocks", {"unique_blocks": 0, "looped_blocks": 0, "xsa_last_looped": 0, "value_embedding_blocks": ()}),
    ("bigram_buckets", {"bigram_buckets": 1}),
    ("bigram_dim", {"bigram_dim": 0}),
    *(("value_embedding_blocks", {"value_embedding_blocks": blocks}) for blocks in ((0, 2), (-1,), (1, 1))),
]

FINE = [
    {"bigram_buckets": 0, "bigram_dim": 0},
    {"bigram_buckets": 2, "bigram_dim": 1},
    {"rope_dims": 0},
    {"rope_dims": 2, "model_dim": 36},
    {"xsa_last_looped": 2},
    {"mlp_slope": 0.0, "looped_mlp_slope": -0.1, "qk_gain": -1.0},
    {"value_embedding_blocks": (1, 0)},
    {"unique_blocks": 0},
    {"rope_base_tokens": 1},
]


@pytest.mark.parametrize(("field", "change"), BAD)
def test_a_bad_value_is_one_line_that_names_the_field(field, change):
    with pytest.raises(ValueError, match=rf"^{field}: got .*, expected \S") as refusal:
        dataclasses.replace(GOOD, **change)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", FINE)
def test_values_at_the_edge_are_fine(change):
    changed = dataclasses.replace(GOOD, **change)
    assert all(getattr(changed, name) == value for name, value in change.items())
