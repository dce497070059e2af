"""Community checkpoints of any configuration against oracles that read the published tensors themselves.

The fixtures of the published programs cover a few configurations; the oracles, written from the definitions, reproduce
every one of those and speak for the rest: random weights under published names, through a file and `load_community`.
"""

import random
import re

import pytest
import safetensors.torch
import torch

from pipeline.interop import LAYOUTS, load_community
from pipeline.interop.crawler import CRAWLER_ARGUMENTS
from pipeline.interop.crawler_pervisit import PERVISIT_ARGUMENTS
from pipeline.interop.looped_unet import LOOPED_UNET_ARGUMENTS
from pipeline.model import build
from pipeline.model.schedule import build_schedule
from tests.interop.test_interop import FIXTURES, read_fixture
from tests.oracle_crawler_published import DEFAULTS as CRAWLER_DEFAULTS
from tests.oracle_crawler_published import crawler_logits, crawler_shapes
from tests.oracle_looped_unet_published import looped_unet_logits, looped_unet_shapes
from tests.oracle_pervisit import DEFAULTS as PERVISIT_DEFAULTS
from tests.oracle_pervisit import PervisitOracle
from tests.published_parts import Weights, random_tensors

CRAWLER = {
    "vocab_size": 40,
    "num_flat_layers": 4,
    "num_crawler_layers": 2,
    "crawler_loops": 3,
    "model_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 2.0,
    "crawler_mlp_mult": 3.0,
    "tied_embed_init_std": 0.005,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "qk_gain_init": 1.5,
    "bigram_vocab_size": 19,
    "bigram_dim": 8,
    "xsa_last_n": 1,
    "rope_dims": 6,
    "ln_scale": True,
    "ve_enabled": True,
    "ve_dim": 6,
    "ve_layers": "1",
    "mlp_act": "leaky_relu_sq",
    "mlp_leaky_slope": 0.5,
    "crawler_mlp_leaky_slope": 0.3,
    "crawler_loop_rope_scales": [9, 1, 3],
    "inst_dim": 5,
}
OMITTABLE = (
    "bigram_vocab_size",
    "bigram_dim",
    "xsa_last_n",
    "rope_dims",
    "ln_scale",
    "ve_enabled",
    "ve_dim",
    "ve_layers",
    "mlp_act",
    "mlp_leaky_slope",
    "crawler_mlp_leaky_slope",
    "crawler_loop_rope_scales",
    "inst_dim",
)
LONG = {"context_tokens": 3000, "crawler_loop_rope_scales": [1, 1, 1]}
HELIX = {"helix_enabled": True, "helix_dim": 7, "crawler_loops": 1, "crawler_loop_rope_scales": [9]}


def choke(shape, dim=8):
    return {"crawler_mlp_choke_dim": dim, "crawler_mlp_choke_shape": shape, "crawler_mlp_choke_groups": 4}


CRAWLERS = {
    "as it is": {},
    "no two sizes coincide": {
        "vocab_size": 41,
        "num_flat_layers": 11,
        "num_crawler_layers": 2,
        "crawler_loops": 4,
        "model_dim": 168,
        "num_heads": 12,
        "num_kv_heads": 3,
        "bigram_vocab_size": 23,
        "bigram_dim": 10,
        "ve_dim": 7,
        "inst_dim": 13,
        "anchor_dim": 15,
        "crawler_tap_dim": 17,
        "crawler_loop_rope_scales": [9, 1, 3, 1],
    },
    "only required arguments": None,
    **{f"choke {shape}": choke(shape) for shape in ("flat", "pyramid", "pyramid_res", "grouped", "residual")},
    "choke, default groups, relu": {
        "crawler_mlp_choke_dim": 16,
        "crawler_mlp_choke_shape": "grouped",
        "mlp_act": "relu_sq",
    },
    "choke, one pass": {**choke("grouped"), "crawler_loops": 1},
    "tap per loop, all": {"crawler_tap_dim": 3},
    "tap shared, all": {"crawler_tap_dim": 3, "crawler_tap_loop_specific": False},
    "tap shared, deep": {"crawler_tap_dim": 3, "crawler_tap_loop_specific": False, "crawler_tap_layers": "deep"},
    "tap per loop, shallow": {"crawler_tap_dim": 3, "crawler_tap_layers": "shallow"},
    "tap, list": {"crawler_tap_dim": 3, "crawler_tap_layers": "1,0", "num_flat_layers": 6},
    "tap, one of a list": {"crawler_tap_dim": 3, "crawler_tap_layers": "2", "num_flat_layers": 7},
    "tap, a list of numbers": {"crawler_tap_dim": 3, "crawler_tap_layers": [1]},
    "tap and smear, one pass": {"crawler_tap_dim": 3, "crawler_loop_smear": True, "crawler_loops": 1},
    "shared flat blocks": {"flat_weight_share": True},
    "shared flat blocks of five": {"flat_weight_share": True, "num_flat_layers": 5},
    "shared flat blocks, tap": {"flat_weight_share": True, "crawler_tap_dim": 3},
    "raised base": LONG,
    "raised base, battery": {"context_tokens": 3000},
    "raised base, whole head": {**LONG, "rope_dims": 0},
    "raised base, one pair": {**LONG, "rope_dims": 2},
    "context at the limit": {**LONG, "context_tokens": 1024},
    "no bigram": {"bigram_vocab_size": 0},
    "bigram as wide as the model": {"bigram_dim": 32},
    "no XSA": {"xsa_last_n": 0},
    "all XSA": {"xsa_last_n": 11},
    "positions": {"inst_dim": 0},
    "positions of an only pass": {"inst_dim": 0, "crawler_loops": 1},
    "flow of an only pass": {"crawler_loops": 1, "anchor_dim": 4},
    "anchor": {"anchor_dim": 4},
    "anchor, smear, positions, shared tap": {
        "anchor_dim": 4,
        "crawler_loop_smear": True,
        "inst_dim": 0,
        "crawler_tap_dim": 3,
        "crawler_tap_loop_specific": False,
    },
    "loop smear": {"crawler_loop_smear": True},
    "no value embedding": {"ve_enabled": False},
    "value embeddings in another order": {"ve_layers": "1,0"},
    "value embeddings, one absent": {"ve_layers": "9,0"},
    "value embeddings, all absent": {"ve_layers": "9,10"},
    "value embedding as wide as the values": {"ve_dim": 16, "ve_layers": "0,1"},
    "absent value embedding as wide as the values": {"ve_dim": 16, "ve_layers": "2"},
    "no flat blocks": {"num_flat_layers": 0},
    "one flat block": {"num_flat_layers": 1},
    "no looped blocks": {"num_crawler_layers": 0, "crawler_tap_dim": 3, "anchor_dim": 4, "crawler_loop_smear": True},
    "helix": {**HELIX, "helix_stride": 2},
    "helix, attention": {**HELIX, "helix_cross_attn": True, "num_flat_layers": 5},
    "helix, both looped blocks read the first value embedding": {**HELIX, "ve_layers": "0"},
    "helix, everything else unread": {
        **HELIX,
        "crawler_loops": 3,
        "crawler_loop_rope_scales": [9, 1, 3],
        "anchor_dim": 4,
        "crawler_tap_dim": 3,
        "crawler_loop_smear": True,
        **choke("grouped"),
    },
    "helix, shared flat blocks": {**HELIX, "flat_weight_share": True, "helix_stride": 3},
}

UNET = {
    "vocab_size": 40,
    "num_layers": 6,
    "xsa_last_n": 2,
    "model_dim": 32,
    "embedding_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 2.0,
    "skip_gates_enabled": True,
    "tie_embeddings": True,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "rope_dims": 6,
    "ln_scale": True,
    "qk_gain_init": 5.25,
    "tied_embed_init_std": 0.005,
    "train_seq_len": 2048,
    "num_loops": 2,
    "loop_start": 2,
    "loop_end": 3,
    "parallel_residual_start": 4,
}
UNETS = {
    "as it is": {},
    "no two sizes coincide": {
        "vocab_size": 41,
        "num_layers": 11,
        "num_loops": 2,
        "loop_start": 3,
        "loop_end": 7,
        "model_dim": 168,
        "num_heads": 12,
        "num_kv_heads": 4,
        "embedding_dim": 23,
    },
    "no skip gates": {"skip_gates_enabled": False},
    "no loops": {"num_loops": 0},
    "no loops, segment beyond the stack": {"num_loops": 0, "num_layers": 3, "skip_gates_enabled": False},
    "loop of one block": {"loop_start": 4, "loop_end": 4, "num_loops": 3},
    "loop of all blocks": {"loop_start": 0, "loop_end": 5, "num_loops": 1},
    "raised base": {"context_tokens": 3000},
    "raised base from a short training length": {"train_seq_len": 64, "context_tokens": 1024},
    "long training length": {"train_seq_len": 4096, "context_tokens": 4096},
    "raised base, whole head": {"context_tokens": 3000, "rope_dims": 0},
    "no XSA": {"xsa_last_n": 0},
    "all XSA": {"xsa_last_n": 11},
    "factorised embedding": {"embedding_dim": 20},
    "wider embedding": {"embedding_dim": 48},
    "no parallel residuals": {"parallel_residual_start": -1},
    "all parallel": {"parallel_residual_start": 0},
    "parallel from behind the last block": {"parallel_residual_start": 6},
    "no ln scale": {"ln_scale": False},
}

PERVISIT = {
    "vocab_size": 40,
    "num_flat_blocks": 3,
    "num_crawler_blocks": 2,
    "crawler_loops": 2,
    "model_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 2.0,
    "tied_embed_init_std": 0.005,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "qk_gain_init": 1.5,
    "use_smear_gate": True,
    "bigram_buckets": 19,
    "bigram_dim": 8,
    "ve_enabled": True,
    "ve_dim": 6,
    "ve_last_n": 2,
}
PERVISITS = {
    "as it is": {},
    "no two sizes coincide": {
        "vocab_size": 41,
        "num_flat_blocks": 11,
        "num_crawler_blocks": 2,
        "crawler_loops": 4,
        "model_dim": 168,
        "num_heads": 12,
        "num_kv_heads": 3,
        "bigram_buckets": 23,
        "bigram_dim": 10,
        "ve_dim": 7,
        "ve_last_n": 8,
    },
    "no XSA": {"xsa_last_n": 0},
    "XSA 1": {"xsa_last_n": 1},
    "XSA 7": {"xsa_last_n": 7},
    "XSA of every block": {"xsa_last_n": 11, "num_flat_blocks": 6},
    "XSA of late decoder blocks": {"xsa_last_n": 2, "num_flat_blocks": 7, "num_crawler_blocks": 1},
    "XSA absent, deeper": {"num_flat_blocks": 8, "num_crawler_blocks": 1},
    "XSA of encoder blocks": {"xsa_last_n": 11, "num_flat_blocks": 8, "num_crawler_blocks": 1},
    "quarter of an odd half head": {"model_dim": 40, "num_heads": 4},
    "heads of six": {"model_dim": 24},
    "no smear": {"use_smear_gate": False},
    "no bigram": {"bigram_buckets": 0},
    "bigram as wide as the model": {"bigram_dim": 32},
    "no value embedding": {"ve_enabled": False},
    "value embedding of one visit, as wide as the values": {"ve_last_n": 1, "ve_dim": 16},
    "value embedding of most visits": {"ve_last_n": 6},
    "value scales of no visit": {"ve_last_n": 9},
    "value scales of nobody": {"ve_last_n": 0},
    "three passes": {"crawler_loops": 3},
    "one pass": {"crawler_loops": 1},
    "long context": {"context_tokens": 3000},
    "no flat blocks": {"num_flat_blocks": 0},
    "one flat block": {"num_flat_blocks": 1},
}


def pervisit_oracle(config):
    return PervisitOracle({name: value for name, value in config.items() if name != "context_tokens"})


def pervisit_shapes(config):
    return {name: tuple(tensor.shape) for name, tensor in pervisit_oracle(config).state_dict().items()}


def pervisit_logits(config, weights, ids_T):
    oracle = pervisit_oracle(config)
    oracle.load_state_dict(weights)
    with torch.no_grad():
        return oracle.double()(ids_T[None])[0]


LAYOUT = {
    "crawler": (CRAWLER, crawler_shapes, crawler_logits),
    "looped-unet": (UNET, looped_unet_shapes, looped_unet_logits),
    "crawler-pervisit": (PERVISIT, pervisit_shapes, pervisit_logits),
}
CASES = [
    (layout, name, changes)
    for layout, cases in (("crawler", CRAWLERS), ("looped-unet", UNETS), ("crawler-pervisit", PERVISITS))
    for name, changes in cases.items()
]


def compare(folder, layout, config, seed=0, num_tokens=14, extra=()):
    """Load random tensors of a configuration, and compare logits and what is said to be unread with the oracle."""
    _, shapes_of, logits_of = LAYOUT[layout]
    tensors = random_tensors(shapes_of(config), seed)
    stored = {**tensors, **{copy: tensors[name].clone() for copy, name in extra}}
    safetensors.torch.save_file(stored, folder / "weights.safetensors")
    ids_BT = torch.randint(config["vocab_size"], (2, num_tokens), generator=torch.Generator().manual_seed(seed))
    weights = Weights(tensors)
    expected_BTV = torch.stack([logits_of(config, weights, ids) for ids in ids_BT])
    # Random networks that matter: logits spread, and few of them at the cap.
    assert 1 < expected_BTV.std() < 25
    said = []
    for drop_unread in (False, True):
        model_config, state = load_community(
            folder / "weights.safetensors", layout, config, drop_unread=drop_unread, log=said.append
        )
        model = build(model_config)
        model.load_state_dict(state, strict=True)
        with torch.no_grad():
            logits_BTV = model(ids_BT)
        assert (logits_BTV - expected_BTV).abs().max() < 1e-4
    if layout != "crawler-pervisit":  # its oracle is a module, which reads every tensor when it loads
        unread = set(said[0].partition(": ")[2].split(", ")) if said else set()
        unread = {re.sub(r"(group_w\.\d+)\.\d+$", r"\1", name) for name in unread}
        assert unread == {name for name, tensor in tensors.items() if tensor.numel()} - weights.read


@pytest.mark.parametrize("name", FIXTURES)
def test_the_oracles_reproduce_the_fixtures(shared, name):
    config, weights, reference = read_fixture(shared, name)
    _, shapes_of, logits_of = LAYOUT[FIXTURES[name]]
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes_of(config)
    logits_BTV = torch.stack([logits_of(config, Weights(weights), ids) for ids in reference["input_ids"]])
    assert (logits_BTV - reference["logits"]).abs().max() < 3e-5


@pytest.mark.parametrize(("layout", "name", "changes"), CASES, ids=[f"{layout}: {name}" for layout, name, _ in CASES])
def test_equals_the_published_definitions(tmp_path, layout, name, changes):
    base = LAYOUT[layout][0]
    if changes is None:
        config = {key: value for key, value in base.items() if key not in OMITTABLE}
    else:
        config = {**base, **changes}
    compare(tmp_path, layout, config)


@pytest.mark.parametrize("layout", LAYOUT)
def test_each_layout_is_compared_where_no_two_sizes_coincide(layout):
    """A wrong count that happens to equal the right one goes unnoticed."""
    changes = next(changes for case, name, changes in CASES if (case, name) == (layout, "no two sizes coincide"))
    schedule = build_schedule(LAYOUTS[layout]({**LAYOUT[layout][0], **changes}).config.schedule)
    half, visits = len(schedule.encoder), len(schedule.visits)
    values = [size for size in changes.values() if isinstance(size, int)]
    values += [half, visits] if layout == "looped-unet" else [half, len(schedule.decoder), visits, visits // 2]
    assert len(set(values)) == len(values)


def test_shared_flat_blocks_may_come_as_copies(tmp_path):
    config = {**CRAWLER, "flat_weight_share": True}
    copies = [
        (name.replace(f"blocks.{a}", f"blocks.{b}"), name)
        for a, b in ((0, 3), (1, 2))
        for name in crawler_shapes(config)
        if name.startswith(f"flat_blocks.{a}")
    ]
    compare(tmp_path, "crawler", config, extra=copies)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("crawler", LONG),
        ("crawler", {"context_tokens": 3000}),
        ("looped-unet", {"context_tokens": 3000}),
        ("looped-unet", {"train_seq_len": 1024, "context_tokens": 1200}),
        ("crawler-pervisit", {"context_tokens": 3000}),
    ],
)
def test_more_tokens_than_the_published_length(tmp_path, layout, changes):
    compare(tmp_path, layout, {**LAYOUT[layout][0], **changes}, num_tokens=1100)


@pytest.mark.parametrize(("trained", "context"), [(64, 64), (1024, 1024), (2048, 1024)])
def test_a_looped_unet_without_context_never_raises_its_base(trained, context):
    config = LAYOUTS["looped-unet"]({**UNET, "train_seq_len": trained}).config
    assert (config.context_tokens, config.rope.base_tokens) == (context, trained)


def random_crawler(choose):
    unique, looped, loops = choose.randint(0, 7), choose.randint(1, 3), choose.randint(1, 4)
    shape = choose.choice(["", "flat", "pyramid", "pyramid_res", "grouped", "residual"])
    taps = (
        [
            "all",
            "deep",
            "shallow",
            ",".join(map(str, choose.sample(range(unique // 2), choose.randint(1, unique // 2)))),
        ]
        if unique >= 2
        else []
    )
    return {
        **CRAWLER,
        **(choke(shape) if shape else {}),
        **(HELIX if unique and choose.random() < 0.3 else {}),
        "num_flat_layers": unique,
        "num_crawler_layers": looped,
        "crawler_loops": loops,
        "crawler_loop_rope_scales": choose.choice([[1] * loops, [choose.choice([1, 3, 9]) for _ in range(loops + 1)]]),
        "xsa_last_n": choose.choice([0, 1, 2, 11]),
        "rope_dims": choose.choice([0, 2, 4, 8]),
        "num_kv_heads": choose.choice([1, 2, 4]),
        "ln_scale": choose.random() < 0.5,
        "mlp_act": choose.choice(["relu_sq", "leaky_relu_sq"]),
        "inst_dim": choose.choice([0, 5]),
        "anchor_dim": choose.choice([0, 4]),
        "crawler_loop_smear": choose.random() < 0.5,
        "crawler_tap_dim": choose.choice([0, 3]) if taps else 0,
        "crawler_tap_layers": choose.choice(taps) if taps else "all",
        "crawler_tap_loop_specific": choose.random() < 0.5,
        "flat_weight_share": choose.random() < 0.5,
        "bigram_vocab_size": choose.choice([0, 2, 19]),
        "ve_enabled": choose.random() < 0.7,
        "ve_layers": choose.choice(["0", "1,0", "2,5", "9,10"]),
        "context_tokens": choose.choice([64, 1024, 2048]),
        "helix_stride": choose.randint(1, max(1, unique)),
        "helix_cross_attn": choose.random() < 0.5,
    }


def random_looped_unet(choose):
    layers = choose.randint(1, 8)
    start = choose.randint(0, layers - 1)
    return {
        **UNET,
        "num_layers": layers,
        "loop_start": start,
        "loop_end": choose.randint(start, layers - 1),
        "num_loops": choose.randint(0, 3),
        "xsa_last_n": choose.choice([0, 2, 11]),
        "embedding_dim": choose.choice([32, 20]),
        "num_kv_heads": choose.choice([1, 2, 4]),
        "skip_gates_enabled": choose.random() < 0.5,
        "rope_dims": choose.choice([0, 2, 4, 8]),
        "ln_scale": choose.random() < 0.5,
        "train_seq_len": choose.choice([16, 1024]),
        "context_tokens": choose.choice([16, 1024, 2048]),
        "parallel_residual_start": choose.randint(-1, layers),
    }


def random_pervisit(choose):
    unique, looped, loops = choose.randint(0, 8), choose.randint(1, 3), choose.randint(1, 4)
    config = {
        **PERVISIT,
        "num_flat_blocks": unique,
        "num_crawler_blocks": looped,
        "crawler_loops": loops,
        "model_dim": choose.choice([24, 32, 40]),
        "num_kv_heads": choose.choice([1, 2, 4]),
        "use_smear_gate": choose.random() < 0.5,
        "bigram_buckets": choose.choice([0, 1, 19]),
        "ve_enabled": choose.random() < 0.7,
        "ve_last_n": choose.randint(1, unique + looped * loops),
        "xsa_last_n": choose.choice([0, 1, 4, 7, 11]),
        "context_tokens": choose.choice([64, 3000]),
    }
    if choose.random() < 0.3:
        del config["xsa_last_n"]
    return config


@pytest.mark.parametrize("trial", range(16))
@pytest.mark.parametrize("layout", LAYOUT)
def test_random_configurations_equal_the_published_definitions(tmp_path, layout, trial):
    choose = random.Random(f"{layout} {trial}")
    draw = {"crawler": random_crawler, "looped-unet": random_looped_unet, "crawler-pervisit": random_pervisit}[layout]
    compare(tmp_path, layout, draw(choose), seed=trial)


@pytest.mark.parametrize(
    ("table", "defaults"),
    [(CRAWLER_ARGUMENTS, CRAWLER_DEFAULTS), (PERVISIT_ARGUMENTS, PERVISIT_DEFAULTS), (LOOPED_UNET_ARGUMENTS, {})],
)
def test_defaults_of_omitted_arguments_are_the_published_ones(table, defaults):
    common = {"context_tokens": 1024, "tie_embeddings": True, "tied_embed_init_std": 0.005, "embed_bottleneck": 0}
    assert {name: default for name, (_, default) in table.optional.items()} == {**common, **defaults}


@pytest.mark.parametrize("table", [CRAWLER_ARGUMENTS, PERVISIT_ARGUMENTS, LOOPED_UNET_ARGUMENTS])
def test_errors_about_our_fields_name_arguments_that_exist(table):
    for field, argument in table.fields.items():
        assert set(argument.split(", ")) <= set(table.required) | set(table.optional), field
