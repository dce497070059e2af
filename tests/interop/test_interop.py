"""Community checkpoints compute what the programs that wrote them computed."""

import dataclasses
import json
import time
import zipfile

import pytest
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from pipeline.interop import load_community
from pipeline.interop.community import LAYOUTS
from pipeline.interop.translation import unread_name
from pipeline.model import build
from pipeline.model.network import LoopedUNet

FIXTURES = {
    "crawler_4f1c_x3": "crawler",
    "crawler_5f2c_x2": "crawler",
    "crawler_4f1c_x3_tap_anchor_smear_pyramid": "crawler",
    "helix_5f1c_linear_s2": "crawler",
    "helix_5f1c_crossattn_s1": "crawler",
    "crawler_3f2c_x2_pervisit": "crawler-pervisit",
    "looped_8l_loop2to4_x3_parallel": "looped-unet",
}


def read_fixture(folder, name):
    """Return (constructor arguments, published weights, other tensors) of a fixture."""
    path = folder / "fixtures" / f"{name}.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = safetensors.torch.load_file(path)
    weights = {k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")}
    return config, weights, {k: v for k, v in tensors.items() if not k.startswith("param.")}


def load_as_model(path, layout, config, **options):
    """Return the network of a checkpoint."""
    model_config, state = load_community(path, layout, config, **options)
    model = build(model_config)
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("drop_unread", [False, True])
@pytest.mark.parametrize("name", FIXTURES)
def test_logits_and_loss_equal_the_published_program(shared, tmp_path, name, drop_unread):
    config, weights, reference = read_fixture(shared, name)
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    said = []
    model = load_as_model(
        tmp_path / "weights.safetensors", FIXTURES[name], config, drop_unread=drop_unread, log=said.append
    )
    ids_BT = reference["input_ids"]
    with torch.no_grad():
        logits_BTV = model(ids_BT)
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT.roll(-1, dims=1).flatten())
    assert logits_BTV.dtype == torch.float32
    assert (logits_BTV - reference["logits"]).abs().max() < 1e-4
    assert abs(loss - reference["loss"].item()) < 1e-5
    stored = sum(tensor.numel() for tensor in weights.values())
    kept = sum(parameter.numel() for parameter in model.parameters())
    assert kept < stored if drop_unread and said else kept == stored


def test_unread_tensors_are_named(shared, tmp_path):
    config, weights, _ = read_fixture(shared, "crawler_3f2c_x2_pervisit")
    torch.save(weights, tmp_path / "weights.pt")
    kept, dropped = [], []
    model = load_as_model(tmp_path / "weights.pt", "crawler-pervisit", config, log=kept.append)
    load_as_model(tmp_path / "weights.pt", "crawler-pervisit", config, drop_unread=True, log=dropped.append)
    assert kept == ["kept 2 tensors that no forward pass reads: skip_weights.surplus, crawler_residual_scales.0"]
    assert dropped == ["dropped 2 tensors that no forward pass reads: skip_weights.surplus, crawler_residual_scales.0"]
    assert torch.equal(model.unread.skip_weights_surplus, weights["skip_weights"][1:])


PUBLISHED_TOTALS = {
    29_415_508: {"num_flat_layers": 7, "num_crawler_layers": 3},
    14_462_508: {"num_flat_layers": 4, "num_crawler_layers": 1},
    26_270_292: {"num_flat_layers": 9, "num_crawler_layers": 1},
    26_253_908: {"num_flat_layers": 9, "num_crawler_layers": 1, "crawler_loops": 2},
}


@pytest.mark.parametrize("total", PUBLISHED_TOTALS)
def test_published_parameter_counts(total):
    """Unread value embeddings (layers 9 and 10) included."""
    translation = LAYOUTS["crawler"](
        crawler_arguments(
            vocab_size=1024,
            model_dim=512,
            num_heads=8,
            num_kv_heads=4,
            mlp_mult=3.0,
            crawler_mlp_mult=6.0,
            bigram_vocab_size=2048,
            bigram_dim=128,
            ve_enabled=True,
            ve_dim=128,
            ve_layers="9,10",
            inst_dim=32,
            **{"crawler_loops": 3, **PUBLISHED_TOTALS[total]},
        )
    )
    shapes = {unread_name(name): shape for name, shape in translation.unread.items()}
    with torch.device("meta"):
        network = LoopedUNet(dataclasses.replace(translation.config, unread=shapes))
    assert sum(parameter.numel() for parameter in network.parameters()) == total


def test_the_evaluation_fixture_loads_from_a_pt_file(shared, tmp_path):
    config, weights, _ = read_fixture(shared, "eval_crawler_4f1c_x3")
    torch.save({name: tensor.bfloat16() for name, tensor in weights.items()}, tmp_path / "weights.pt")
    model_config, state = load_community(str(tmp_path / "weights.pt"), "crawler", {**config, "context_tokens": 256})
    assert model_config.context_tokens == 256
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    build(model_config).load_state_dict(state, strict=True)


def crawler_arguments(**changes):
    return {
        "vocab_size": 24,
        "num_flat_layers": 2,
        "num_crawler_layers": 2,
        "crawler_loops": 2,
        "model_dim": 16,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mlp_mult": 2.0,
        "crawler_mlp_mult": 2.0,
        "tied_embed_init_std": 0.005,
        "logit_softcap": 30.0,
        "rope_base": 10000.0,
        "qk_gain_init": 1.5,
        "bigram_vocab_size": 0,
        "bigram_dim": 8,
        "rope_dims": 4,
        "ln_scale": True,
        **changes,
    }


def crawler_config(config):
    return LAYOUTS["crawler"](config).config


def test_omitted_arguments_take_the_published_defaults():
    config = crawler_config(crawler_arguments())
    assert config.context_tokens == 1024
    assert config.rope.loop_scales is None
    assert (config.mlp.slope, config.looped_mlp.slope) == (0.0, 0.0)
    assert (config.conditioners.flow_dim, config.value_embedding) == (32, None)
    assert config.attention.exclusive_blocks == ()


def test_exclusive_attention_counts_looped_blocks_only():
    assert crawler_config(crawler_arguments(xsa_last_n=11)).attention.exclusive_blocks == (2, 3)
    assert crawler_config(crawler_arguments(xsa_last_n=1)).attention.exclusive_blocks == (3,)


def test_a_battery_of_ones_is_off_and_surplus_entries_switch_it_on():
    assert crawler_config(crawler_arguments(crawler_loop_rope_scales=[1, 1, 1])).rope.loop_scales is None
    assert crawler_config(crawler_arguments(crawler_loop_rope_scales=[1, 1, 9])).rope.loop_scales == (1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"tie_embeddings": False}, "tie_embeddings"),
        ({"embed_bottleneck": 4}, "embed_bottleneck"),
        ({"mlp_act": "gelu"}, "mlp_act"),
        ({"crawler_loop_rope_scales": [9]}, "crawler_loop_rope_scales"),
        ({"num_flat_layer": 4}, "num_flat_layers"),
        ({"vocab_size": "24"}, "vocab_size: got '24'"),
        ({"model_dim": None}, "model_dim: got None"),
        ({"num_heads": 2.0}, "num_heads: got 2.0"),
        ({"logit_softcap": "30"}, "logit_softcap: got '30'"),
        ({"ln_scale": 1}, "ln_scale: got 1"),
        ({"mlp_act": 3}, "mlp_act: got 3"),
        ({"inst_dim": None}, "inst_dim: got None"),
        ({"crawler_loop_rope_scales": "9,1,1"}, "crawler_loop_rope_scales: got '9,1,1'"),
        ({"crawler_loop_rope_scales": [9, None]}, r"crawler_loop_rope_scales\[1\]: got None"),
        ({"crawler_loop_rope_scales": [9, -1]}, "crawler_loop_rope_scales"),
        ({"crawler_loops": -1}, "crawler_loops: got -1"),
        ({"ve_enabled": True, "ve_dim": 8, "ve_layers": "0;1"}, "ve_layers: got '0;1'"),
        ({"ve_enabled": True, "ve_dim": 8, "ve_layers": ["0"]}, r"ve_layers\[0\]: got '0'"),
        ({"ve_enabled": True, "ve_dim": 8, "ve_layers": None}, "ve_layers: got None"),
        ({"ve_enabled": True, "ve_dim": 8, "ve_layers": "0,0"}, "ve_layers"),
        ({"xsa_last_n": -1}, "xsa_last_n: got -1"),
        ({"num_flat_layers": -1}, "num_flat_layers: got -1"),
    ],
)
def test_what_the_network_cannot_express_is_refused_by_name(changes, names):
    with pytest.raises(ValueError, match=names) as refusal:
        crawler_config(crawler_arguments(**changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("config", [None, [], "model_dim"])
def test_a_config_that_is_no_mapping_is_one_line(config):
    with pytest.raises(ValueError, match="config: got"):
        crawler_config(config)


def test_value_blocks_come_as_text_or_list():
    for layers in ("0,1", " 0, 1,", [0, 1]):
        config = crawler_config(crawler_arguments(ve_enabled=True, ve_dim=8, ve_layers=layers))
        assert config.value_embedding.readers == (0, 1)


def test_a_missing_argument_is_named():
    arguments = crawler_arguments()
    del arguments["rope_base"]
    with pytest.raises(ValueError, match="rope_base"):
        crawler_config(arguments)


def test_an_unknown_layout_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="crawler"):
        load_community(tmp_path / "weights.pt", "folded", {})


def test_tensors_that_do_not_fit_are_named(shared, tmp_path):
    config, weights, _ = read_fixture(shared, "crawler_4f1c_x3")
    del weights["smear.gate"]
    weights["lm_head.weight"] = torch.zeros(3)
    weights["flat_blocks.1.attn.q_gain"] = torch.zeros(5)
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"missing smear\.gate") as refusal:
        load_community(tmp_path / "weights.safetensors", "crawler", config)
    assert "extra lm_head.weight" in str(refusal.value)
    assert "flat_blocks.1.attn.q_gain has shape (5,), expected (4,)" in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_unreadable_file_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint") as refusal:
        load_community(path, "crawler", crawler_arguments())
    assert "\n" not in str(refusal.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"weight": tmp_path}, tmp_path / "weights.pt")
    line = refusal_of(tmp_path / "weights.pt")
    assert "unreadable (beside tensors it holds pathlib.PosixPath, whose code is not run)" in line
    assert "fetch it anew, or write it with torch.save(model.state_dict(), FILE)" in line


NO_CHECKPOINTS = {
    b"hello, world": "(first bytes: got b'hello, world', expected those of a file that torch.save writes)",
    b"version https://git-lfs.github.com/spec/v1": "(first bytes: got b'version https://git-lfs.'",
    b"PK\3\4 and no more": "(it is truncated: the list of its members, at its end, is missing)",
    b"\x80\x02he": "(it is damaged: its parts contradict each other)",
    b"\x80\x02": "(it ends too early)",
    b"\x80\x02\xff": "(it is damaged, or holds more than tensors)",
}
"""Content of a .pt file -> the reason; torch's reader raises KeyError 101 for a file that begins with `he`."""


@pytest.mark.parametrize("content", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_has_a_reason_in_words(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    line = refusal_of(tmp_path / "weights.pt")
    assert f"unreadable {NO_CHECKPOINTS[content]}" in line
    assert "weights_only" not in line


@pytest.mark.parametrize("layout", ["crawlr", 3, ["crawler"], "x" * 10_000])
def test_an_unknown_layout_names_all_and_the_nearest(tmp_path, weights, layout):
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"^layout: got .{1,100}, expected one of ") as refusal:
        load_community(tmp_path / "weights.pt", layout, crawler_arguments())
    assert f"expected one of {', '.join(LAYOUTS)} (nearest: " in str(refusal.value)
    assert layout != "crawlr" or "(nearest: crawler)" in str(refusal.value)


@pytest.fixture
def weights():
    """Return the tensors of a small crawler under their published names."""
    translation = LAYOUTS["crawler"](crawler_arguments())
    return {
        translation.published_name(name): tensor.clone()
        for name, tensor in build(translation.config).state_dict().items()
    }


def refusal_of(path, config=None):
    """Return the one short line that refuses a checkpoint, without the path."""
    with pytest.raises(ValueError, match="checkpoint") as refusal:
        load_community(path, "crawler", config or crawler_arguments())
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line.replace(str(path), "")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapped_names_are_unwrapped_and_said(tmp_path, weights, prefix):
    torch.save({f"{prefix}{name}": tensor for name, tensor in weights.items()}, tmp_path / "wrapped.pt")
    torch.save(weights, tmp_path / "plain.pt")
    said = []
    _, state = load_community(tmp_path / "wrapped.pt", "crawler", crawler_arguments(), log=said.append)
    _, plain = load_community(tmp_path / "plain.pt", "crawler", crawler_arguments())
    assert said == [f"unwrapped: the names of all {len(weights)} tensors begin with {prefix}"]
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())


HOLDERS = {
    "model": lambda weights: {"model": weights},
    "state_dict": lambda weights: {"step": 5, "state_dict": weights, "optimizer": {"state": {0: {"exp_avg": weights}}}},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "rng": {"cpu": torch.zeros(9)}, "best": {}},
    "model.state_dict": lambda weights: {"model": {"state_dict": weights}, "args": {"dim": 16}},
}
"""Chain of keys -> a file with a state dict there."""


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_state_dict_under_a_known_key_is_unwrapped_and_said(tmp_path, weights, keys, prefix):
    held = HOLDERS[keys]({f"{prefix}{name}": tensor for name, tensor in weights.items()})
    torch.save(held, tmp_path / "held.pt")
    torch.save(weights, tmp_path / "plain.pt")
    said = []
    _, state = load_community(tmp_path / "held.pt", "crawler", crawler_arguments(), log=said.append)
    _, plain = load_community(tmp_path / "plain.pt", "crawler", crawler_arguments())
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    beside = [key for key in held if key not in keys]
    also = f"; the names of all {len(weights)} tensors begin with {prefix}" if prefix else ""
    others = f", beside {', '.join(beside)}" if beside else ""
    assert said == [f"unwrapped: the state dict lies under {keys}{others}{also}"]


@pytest.mark.parametrize(
    ("wrap", "found", "chain"),
    [
        (lambda weights: {"ema": weights}, "'ema'", "['ema']"),
        (lambda weights: {"step": 1, "model": weights, "ema": weights}, "'model', 'ema'", "['model']"),
        (lambda weights: {"model": weights, "state_dict": weights}, "'model', 'state_dict'", "['model']"),
        (lambda weights: {"model": {"net": weights}}, "'net'", "['model']['net']"),
        (lambda weights: {7: weights}, "7", "[7]"),
    ],
)
def test_other_wrappers_say_how_to_unwrap(tmp_path, weights, wrap, found, chain):
    torch.save(wrap(weights), tmp_path / "weights.pt")
    line = refusal_of(tmp_path / "weights.pt")
    assert f"got weights under {found}, expected them under one of model, state_dict, model_state_dict" in line
    assert f"torch.save(torch.load('weights.pt', map_location='cpu', weights_only=True){chain}, " in line


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    held = {}
    held["model"] = held
    torch.save(held, tmp_path / "weights.pt")
    assert "dict under 'model'" in refusal_of(tmp_path / "weights.pt")


def test_a_prefix_of_some_names_is_no_wrapper(tmp_path, weights):
    weights["module.tok_emb.weight"] = weights.pop("tok_emb.weight")
    torch.save(weights, tmp_path / "weights.pt")
    assert "missing tok_emb.weight; extra module.tok_emb.weight" in refusal_of(tmp_path / "weights.pt")


ODD_TENSORS = {
    "int8": lambda weight: weight.to(torch.int8),
    "bool": lambda weight: weight > 0,
    "complex64": lambda weight: weight.to(torch.complex64),
    "sparse_coo": lambda weight: weight.to_sparse(),
    "sparse_csr": lambda weight: weight.to_sparse_csr(),
    "meta": lambda weight: weight.to("meta"),
    "qint8": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    "nested": lambda weight: torch.nested.nested_tensor(list(weight)),
    "repeat": lambda weight: torch.ones(()).expand(1 << 20, 1 << 20),
    "nan": lambda weight: weight.index_fill(0, torch.tensor(3), float("nan")),
    "inf": lambda weight: weight.index_fill(0, torch.tensor(3), float("-inf")),
    "1e+30": lambda weight: weight.index_fill(0, torch.tensor(3), 1e30),
    "got inf": lambda weight: weight.double().index_fill(0, torch.tensor(3), 1e300),
}
"""What the refusal says of a tensor -> how to make it."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("says", ODD_TENSORS)
def test_tensors_that_are_no_finite_floats_are_refused_by_name(tmp_path, weights, says):
    weights["tok_emb.weight"] = ODD_TENSORS[says](weights["tok_emb.weight"])
    torch.save(weights, tmp_path / "weights.pt")
    line = refusal_of(tmp_path / "weights.pt")
    assert "tok_emb.weight: got" in line
    assert says in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({3: torch.ones(2)}, "Tensor under 3"),
        ([torch.ones(2)], "got 'list'"),
        ({"model": {}}, "dict under 'model'"),
        ({}, "number of tensors: got 0"),
        (torch.ones(2), "got 'Tensor'"),
        ({"x" * 10_000: 1}, "int under"),
        ({f"{'x' * 10_000}{i}": torch.ones(1) for i in range(50)}, "and 47 more"),
    ],
)
def test_files_that_hold_something_else_say_what(tmp_path, content, says):
    torch.save(content, tmp_path / "weights.pt")
    assert says in refusal_of(tmp_path / "weights.pt")


def test_floats_of_every_width_load(tmp_path, weights):
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "weights.pt")
        _, state = load_community(tmp_path / "weights.pt", "crawler", crawler_arguments())
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_zero_matrices_load(tmp_path, weights):
    torch.save({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, tmp_path / "weights.pt")
    _, state = load_community(tmp_path / "weights.pt", "crawler", crawler_arguments())
    assert not any(tensor.any() for tensor in state.values())


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path, weights):
    torch.save(weights, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "weights.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member) + bytes(1 << 20))
    assert "unpacked size" in refusal_of(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_crawler_layers": 10**15},
        {"crawler_loops": 10**15},
        {"mlp_mult": 1e12},
        {"model_dim": 2**40},
        {"inst_dim": 2**62},
        {"bigram_vocab_size": 2**62},
        {"xsa_last_n": 10**18},
        {"num_flat_layers": 10**12},
        {"crawler_mlp_choke_dim": 2**20, "crawler_mlp_choke_shape": "grouped", "crawler_mlp_choke_groups": 2**20},
        {"vocab_size": 10**4000},
        {"num_crawler_layers": 128, "crawler_loops": 128},
        {"mlp_mult": 1e300},
    ],
)
def test_absurd_sizes_are_one_line_at_once(tmp_path, weights, changes):
    torch.save(weights, tmp_path / "weights.pt")
    started = time.monotonic()
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  which size is refused first does not matter
        load_community(tmp_path / "weights.pt", "crawler", crawler_arguments(**changes))
    assert time.monotonic() - started < 5
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["import_nonfinite/nan", "import_odd_tensors/intkey", "import_odd_tensors/int8", "import_odd_tensors/empty"]
)
def test_checkpoints_that_once_passed_are_refused(shared, name):
    path = shared / "hostile" / f"{name}.pt"
    assert "expected" in refusal_of(path, json.loads((path.parent / "c.json").read_text()))


def test_the_wrapped_checkpoint_that_once_failed_loads(shared):
    folder = shared / "hostile/import_prefix"
    config, said = json.loads((folder / "c.json").read_text()), []
    load_community(folder / "module.pt", "crawler", config, log=said.append)
    assert "begin with module." in said[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["x" * 2000, "two\nlines"])
def test_an_argument_of_any_name_is_refused_in_one_short_line(tmp_path, layout, name):
    with pytest.raises(ValueError, match="expected no such argument of layout") as refused:
        load_community(tmp_path / "weights.pt", layout, {name: 1})
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
