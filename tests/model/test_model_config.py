"""The model section refuses every value that no network could be built or trained with, naming the field."""

import math
import re

import pytest

from tests.networks import ARCHITECTURES, NO_CONDITIONERS, TINY, changed, choked, folded, helix, lanes

POSITIVE = ("mlp.mult", "rope.base", "logit_softcap", "embed_init_std")
FINITE = ("mlp.slope", "attention.qk_gain")
AT_LEAST_ONE = (
    "vocab_size",
    "context_tokens",
    "model_dim",
    "embedding_dim",
    "attention.num_heads",
    "attention.num_kv_heads",
    "schedule.num_loops",
    "rope.base_tokens",
    "rope.frequency_dims",
    "value_embedding.dim",
    "bigram.dim",
    "bigram.buckets",
    "conditioners.flow_dim",
)
NOT_NEGATIVE = ("schedule.unique_blocks", "schedule.looped_blocks", "rope.dims")
TAP = {"dim": 3, "encoder_visits": [0], "per_loop": True}
ONE_PASS = {"schedule.num_loops": 1, "rope.loop_scales": None, "conditioners": NO_CONDITIONERS}

BAD = [
    *((name, {name: value}) for name in POSITIVE for value in (0.0, -1.0, math.inf, math.nan)),
    *((name, {name: value}) for name in FINITE for value in (math.inf, -math.inf, math.nan)),
    *((name, {name: value}) for name in AT_LEAST_ONE for value in (0, -1)),
    *((name, {name: -1}) for name in NOT_NEGATIVE),
    *(("rope.loop_scales", {"rope.loop_scales": [9.0, value, 1.0]}) for value in (0.0, -1.0, math.inf, math.nan)),
    ("rope.loop_scales", {"rope.loop_scales": [1.0, 1.0]}),
    ("vocab_size", {"vocab_size": 65537}),
    ("model_dim", {"model_dim": 34}),
    ("attention.num_kv_heads", {"attention.num_kv_heads": 3}),
    ("rope.dims", {"rope.dims": 5}),
    ("rope.dims", {"rope.dims": 10}),
    ("rope.dims", {"rope.dims": 0, "model_dim": 36}),
    ("mlp.mult", {"mlp.mult": 0.01}),
    ("mlp.choke", {"mlp.choke": {"shape": "flat", "dim": 4, "groups": 1}}),
    ("looped_mlp.choke.groups", {"looped_mlp.choke": {"shape": "grouped", "dim": 5, "groups": 3}}),
    ("looped_mlp.choke.groups", {"looped_mlp.choke": {"shape": "grouped", "dim": 10, "groups": 5}}),
    ("looped_mlp.choke.dim", choked("flat", 0)),
    ("attention.exclusive_blocks", {"attention.exclusive_blocks": [6]}),
    ("attention.exclusive_blocks", {"attention.exclusive_blocks": [1, 1]}),
    ("attention.gate.width", {"attention.gate": {"width": 33, "scale": 0.5}}),
    ("attention.gate.scale", {"attention.gate": {"width": 3, "scale": 0.0}}),
    ("parallel_blocks", {"parallel_blocks": [-1]}),
    ("parallel_blocks", {"parallel_blocks": lanes(3)}),
    ("attention.qk_gain", {"attention.qk_gain": [1.0, 2.0]}),
    ("logit_softcap.positive", {"logit_softcap": {"positive": 0.0, "negative": 30.0, "trained": True}}),
    ("logit_softcap.negative", {"logit_softcap": {"positive": 30.0, "negative": math.nan, "trained": True}}),
    *(("parallel_blocks.first_block", {**folded(2), "parallel_blocks": lanes(block)}) for block in (2, 3, 6, -1)),
    ("parallel_blocks.first_block", {**folded(1), "parallel_blocks": lanes(2)}),
    ("parallel_blocks.first_block", {**folded(2, loop_end=5), "parallel_blocks": lanes(5)}),
    ("bigram.buckets", {"bigram.buckets": 1}),
    ("smear.bos_id", {"smear": {"kind": "token", "width": 4, "bos_id": 48}}),
    ("smear.width", {"smear": {"kind": "token", "width": 33, "bos_id": 1}}),
    ("smear.width", {"smear": {"kind": "token", "width": 21, "bos_id": 1}, "embedding_dim": 20}),
    *(("value_embedding.readers", {"value_embedding.readers": blocks}) for blocks in ([0, 2], [-1], [1, 1], [])),
    ("value_embedding.readers", {"value_embedding.read_by": "visits", "value_embedding.readers": [10]}),
    ("value_embedding.readers", {**helix("linear", 1), "value_embedding.readers": [1]}),
    ("schedule.unique_order", {"schedule.unique_order": [0, 1, 2]}),
    ("schedule.unique_order", {"schedule.unique_order": [0, 1, 2, 4]}),
    ("schedule.loop_start", folded(2, loop_end=6)),
    ("schedule.loop_start", folded(2, loop_start=4)),
    ("schedule.stride", helix("linear", 6)),
    ("looped_mlp", {**folded(2), "looped_mlp": {"mult": 2.0, "slope": 0.0, "choke": None}}),
    *(
        (f"conditioners.{name}", {**ONE_PASS, f"conditioners.{name}": on})
        for name, on in (("flow_dim", 4), ("positions", True), ("anchor_dim", 4))
    ),
    *(
        (f"conditioners.{name}", {**folded(2), "conditioners": {**NO_CONDITIONERS, name: on}})
        for name, on in (("flow_dim", 4), ("smear", True), ("tap", TAP), ("step", {"kind": "learned"}))
    ),
    ("conditioners.positions", {**folded(1), "conditioners": {**NO_CONDITIONERS, "positions": True}}),
    ("conditioners.positions", {"conditioners.positions": True}),
    ("conditioners.tap.encoder_visits", {"conditioners.tap": {**TAP, "encoder_visits": [2]}}),
    ("conditioners.tap.encoder_visits", {"conditioners.tap": {**TAP, "encoder_visits": []}}),
    ("conditioners.step.fraction", {"conditioners.step": {"kind": "contractive", "fraction": 0.0}}),
    ("unread", {"unread": {"a.b": [1]}}),
    ("unread.a", {"unread": {"a": [0]}}),
]

FINE = [
    {"bigram": None},
    {"bigram.buckets": 2, "bigram.dim": 1},
    {"rope.dims": 0},
    {"rope.dims": 2, "model_dim": 36},
    {"attention.exclusive_blocks": [0, 1, 2, 3, 4, 5]},
    {"mlp.slope": 0.0, "attention.qk_gain": -1.0},
    {"value_embedding.readers": [1, 0]},
    {"rope.base_tokens": 1},
    {"rope.base_tokens": None},
    {"unread": {"skip_weights_surplus": [2, 32], "scalar": []}},
    *ARCHITECTURES.values(),
]


@pytest.mark.parametrize(("field", "change"), BAD)
def test_a_bad_value_is_one_line_that_names_the_field(field, change):
    with pytest.raises(ValueError, match=rf"^model\.{re.escape(field)}(\[\d\])?: got .*, expected \S") as refusal:
        changed(TINY, change)
    assert "\n" not in str(refusal.value)


def test_no_architecture_has_blocks_at_all():
    with pytest.raises(ValueError, match="unique_blocks"):
        changed(TINY, {"schedule.unique_blocks": 0, "schedule.looped_blocks": 0})


@pytest.mark.parametrize("change", FINE)
def test_values_at_the_edge_are_fine(change):
    config = changed(TINY, change)
    for key, value in change.items():
        found = config
        for name in key.split("."):
            found = getattr(found, name)
        if not isinstance(value, dict):
            assert (list(found) if isinstance(value, list) else found) == value
