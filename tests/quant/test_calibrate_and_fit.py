"""Calibration on the looped forward, and from its bundle to an artifact on budget, with a real tiny network."""

import copy
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.codec import ArtifactError, QuantizedTensor, read_artifact
from pipeline.codec.container import decode_artifact
from pipeline.progress import silent
from pipeline.quant.budget import MAX_TRIALS, KnobWindow, search_knob
from pipeline.quant.config import (
    CalibrateConfig,
    ClipSteps,
    ProvisionalConfig,
    QuantizeConfig,
    RateSteps,
    SizeConfig,
)
from pipeline.quant.curvature import lookup_curvature
from pipeline.quant.dequantize import dequantized_model
from pipeline.quant.gptq import HessianError, factorise, proxy_loss
from pipeline.quant.hessian import find_input_sites
from pipeline.quant.loop_aware import calibrate, core_sites, looped_prefixes, provisional_rows
from pipeline.quant.moments import mean_moment, site_members
from pipeline.quant.plan import plan_quantization
from pipeline.quant.quantizer import BudgetError, fit_to_budget, quantize_plan
from pipeline.quant.roles import tensor_roles
from tests.networks import TINY, changed, roused

MODEL = changed(TINY, {
    "vocab_size": 64, "context_tokens": 24, "schedule.unique_blocks": 2, "schedule.looped_blocks": 1,
    "attention.exclusive_blocks": [2], "rope.dims": 4, "rope.loop_scales": [2.0, 1.0, 1.0], "looped_mlp.slope": 0.5,
    "bigram.buckets": 50, "value_embedding.readers": [0], "embed_init_std": 0.05,
})  # fmt: skip
CLIP = ClipSteps(kind="clip", matrix_bits=6, embedding_bits=8, table_bits=6, embedding_clip_ratio=1.55,
                 table_clip_ratio=1.55, min_clip_std=2.0, max_clip_std=60.0)  # fmt: skip
QUANTIZE = QuantizeConfig(solver="gptq", steps=CLIP, damp_frac=0.01, block_columns=16)
RATE = replace(QUANTIZE, steps=RateSteps(kind="rate", row_exponent=0.5, column_exponent=1.0, lookup_exponent=1.0))
CPU = torch.device("cpu")
LOOPED_DOWN = "blocks.2.mlp.down.weight"


def settings(sweeps):
    return CalibrateConfig(num_sequences=8, batch_sequences=3, sweeps=sweeps, sensitivity_sequences=4,
                           provisional=ProvisionalConfig(matrix_bits=4, clip_std=4.0, damp_frac=0.01))  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3)


@pytest.fixture(scope="module")
def ids_NT():  # noqa: N802
    return torch.randint(0, 64, (8, 24), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def bundle(model, ids_NT):
    return calibrate(model, ids_NT, settings(2), CPU, silent)


def inputs_by_visit(network, module, ids_NT):
    seen = []
    handle = module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        network.hidden(ids_NT)
    handle.remove()
    return seen


def test_float_moments_are_those_of_each_visit(model, ids_NT):
    bundle = calibrate(model, ids_NT, settings(0), CPU, silent)
    x = inputs_by_visit(model, model.blocks[0].mlp.down, ids_NT)
    assert len(x) == 1
    x_NC = x[0].reshape(-1, x[0].shape[-1]).double()
    torch.testing.assert_close(bundle["moment/blocks.0.mlp.down.weight/0"].double(), x_NC.T @ x_NC / len(x_NC),
                               rtol=1e-4, atol=1e-6)  # fmt: skip
    assert int(bundle["tokens/blocks.0.mlp.down.weight/0"]) == ids_NT.numel()
    hidden_ND = model.hidden(ids_NT).detach().reshape(-1, 32).double()
    torch.testing.assert_close(bundle["head/moment"].double(), hidden_ND.T @ hidden_ND / len(hidden_ND),
                               rtol=1e-4, atol=1e-6)  # fmt: skip
    assert torch.equal(bundle["token_frequency"], torch.bincount(ids_NT.flatten(), minlength=64))


def test_looped_moments_are_those_of_the_perturbed_stream(model, ids_NT):
    """With 0 sweeps: exactly a model whose matrices outside the core went through provisional codes."""
    config = settings(0)
    sites = find_input_sites(model, ids_NT[:1])
    core = {site.owner for site in core_sites(sites, looped_prefixes(model))}
    bundle = calibrate(model, ids_NT, config, CPU, silent)
    perturbed = copy.deepcopy(model)
    for owner, members in site_members(bundle).items():
        for name in members if owner not in core else []:
            weight = perturbed.get_parameter(name)
            weight.data = provisional_rows(weight.data, mean_moment(bundle, owner), config.provisional, name)
    visits = inputs_by_visit(perturbed, perturbed.blocks[2].mlp.down, ids_NT)
    assert len(visits) == 3
    floats = inputs_by_visit(model, model.blocks[2].mlp.down, ids_NT)
    for visit, (x, x_float) in enumerate(zip(visits, floats, strict=True)):
        x_NC, float_NC = x.reshape(-1, x.shape[-1]), x_float.reshape(-1, x.shape[-1])
        moment = bundle[f"moment/{LOOPED_DOWN}/{visit}"]
        expected = x_NC.T @ x_NC / len(x_NC)
        torch.testing.assert_close(moment, expected, rtol=2e-3, atol=1e-3 * float(expected.abs().max()))
        assert (moment - float_NC.T @ float_NC / len(x_NC)).norm() > 0.02 * moment.norm()


def test_sweeps_move_the_core_only(model, ids_NT, bundle):
    without = calibrate(model, ids_NT, settings(0), CPU, silent)
    assert without.keys() == bundle.keys()
    changed = {key for key in bundle if not torch.equal(bundle[key], without[key])}
    assert all(key.startswith("moment/") for key in changed)
    moved = {key.split("/")[1] for key in changed}
    sites = find_input_sites(model, ids_NT[:1])
    core = {site.owner for site in core_sites(sites, looped_prefixes(model))}
    assert LOOPED_DOWN in moved
    assert moved <= core
    assert "conditioners.flow.down.weight" in core
    assert "bigram.projection.weight" not in core


def test_matrices_with_one_input_share_a_site(model, bundle):
    members = site_members(bundle)
    attention = "blocks.2.attention."
    assert members[f"{attention}query.weight"] == [f"{attention}{n}.weight" for n in ("query", "key", "value")]
    matrices = {name for name, role in tensor_roles(model).items() if role == "matrix"}
    assert sorted(name for names in members.values() for name in names) == sorted(matrices)
    assert int(bundle[f"uses/{LOOPED_DOWN}/{LOOPED_DOWN}"]) == 3


def test_visits_are_pooled_by_tokens(bundle):
    parts = [bundle[f"moment/{LOOPED_DOWN}/{visit}"].double() for visit in range(3)]
    torch.testing.assert_close(mean_moment(bundle, LOOPED_DOWN), sum(parts) / 3)


def test_the_rate_rule_pools_visits_by_their_sensitivity(model, bundle):
    parts = [bundle[f"moment/{LOOPED_DOWN}/{visit}"].double() for visit in range(3)]
    weights = [float(bundle[f"sensitivity/{LOOPED_DOWN}/{visit}"].double().mean()) for visit in range(3)]
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True)) / sum(weights)
    (group,) = (group for group in plan_quantization(model, bundle, RATE).groups if group.names == (LOOPED_DOWN,))
    torch.testing.assert_close(group.hessian_CC, expected)
    assert (expected - sum(parts) / 3).norm() > 1e-3 * expected.norm()


def test_a_row_counts_for_both_its_uses_and_unseen_rows_for_something():
    factor = factorise(torch.diag(torch.tensor([4.0, 1.0])), 1e-9)
    bundle = {"sensitivity/table": torch.tensor([0.0, 8.0]), "sensitivity/head": torch.tensor([2.0, 1.0])}
    rule = RateSteps(kind="rate", row_exponent=1.0, column_exponent=1.0, lookup_exponent=1.0)
    rows_V, step_C = lookup_curvature("table", bundle, None, rule)
    assert rows_V.tolist() == pytest.approx([0.4, 8.4])
    assert step_C is None
    rows_V, step_C = lookup_curvature("table", bundle, factor, rule)
    seen = torch.tensor([0.0 / 2.5 + 2.0, 8.0 / 2.5 + 1.0])  # 2.5: mean variance of the inputs
    assert rows_V.tolist() == pytest.approx((seen + 0.1 * seen.mean()).tolist())
    assert step_C.tolist() == [0.5, 1.0]


def test_calibration_leaves_the_model_alone(model, ids_NT):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    calibrate(model, ids_NT, settings(1), CPU, silent)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_roles_cover_the_state_dict(model):
    roles = tensor_roles(model)
    assert list(roles) == list(model.state_dict())
    assert roles["token_embedding.weight"] == "embedding"
    assert roles["bigram.table.weight"] == roles["value_embedding.table.weight"] == "table"
    assert roles["skip_weights"] == "passthrough"


def logit_error(model, network, ids_NT):
    with torch.no_grad():
        return float((network(ids_NT) - model(ids_NT)).norm() / model(ids_NT).norm())


def test_a_fine_grid_reproduces_the_float_logits_and_a_coarse_one_does_not(model, ids_NT, bundle):
    fine = replace(QUANTIZE, steps=replace(CLIP, matrix_bits=8, table_bits=8))
    near = dequantized_model(quantize_plan(plan_quantization(model, bundle, fine), 4.0), MODEL)
    far = dequantized_model(quantize_plan(plan_quantization(model, bundle, QUANTIZE), 60.0), MODEL)
    assert logit_error(model, near, ids_NT) < 0.03  # steps of about a thirtieth of a standard deviation
    assert logit_error(model, far, ids_NT) > 10 * logit_error(model, near, ids_NT)


def size_config(limit_bytes, tolerance_frac=0.002):
    return SizeConfig(limit_bytes=limit_bytes, code_reserve_bytes=1000, tolerance_frac=tolerance_frac)


def test_fit_lands_within_tolerance_below_the_budget(model, bundle):
    size = size_config(22_000)
    content, report = fit_to_budget(model, bundle, QUANTIZE, size, {"k": 1}, silent)
    assert 21_000 - 44 <= len(content) <= 21_000
    assert report["bytes"] == len(content)
    assert report["budget"]["reached"]
    assert len(report["search"]) <= 8
    assert fit_to_budget(model, bundle, QUANTIZE, size, {"k": 1}, silent)[0] == content
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert len(layers) == sum(role != "passthrough" for role in tensor_roles(model).values())
    assert layers[LOOPED_DOWN]["proxy_loss"] < layers[LOOPED_DOWN]["nearest_proxy_loss"]
    assert layers["bigram.table.weight"]["proxy_loss"] is None
    tensors, meta = decode_artifact(content)
    assert meta == {"k": 1}
    down = tensors[LOOPED_DOWN]
    codes_RC, step_R = torch.from_numpy(down.codes.astype(np.int64)), torch.from_numpy(down.step.astype(np.float32))
    weight_RC = model.get_parameter(LOOPED_DOWN)
    of_file = proxy_loss(weight_RC, codes_RC, step_R, mean_moment(bundle, LOOPED_DOWN))
    assert layers[LOOPED_DOWN]["proxy_loss"] == pytest.approx(of_file, rel=1e-5)  # float32 products
    assert report["knob"] in [trial["knob"] for trial in report["search"]]
    assert all(layer["seconds"] > 0 for layer in layers.values())
    assert sum(layer["seconds"] for layer in layers.values()) <= report["phases"]["solve_seconds"]
    assert set(report["phases"]) == {"plan_seconds", "solve_seconds", "encode_seconds", "report_seconds"}
    # Codes were chosen with the stored steps: nearest rounding of a table must reproduce from the file alone.
    table = tensors["bigram.table.weight"]
    nearest = np.rint(model.bigram.table.weight.detach().double().numpy() / table.step.astype(np.float64)[:, None])
    assert np.array_equal(table.codes, np.clip(nearest, -31, 31))


def test_the_rate_rule_lands_on_budget_and_needs_fewer_nats_than_the_clip(model, ids_NT, bundle):
    """At equal bytes, on the text whose labels the model itself gives: the divergence from the float model."""
    size, divergence = size_config(16_000), {}
    for name, config in (("rate", RATE), ("clip", QUANTIZE), ("nearest", replace(RATE, solver="nearest"))):
        content, report = fit_to_budget(model, bundle, config, size, {}, silent)
        assert report["budget"]["reached"]
        assert report["budget"]["unused_bytes"] <= 0.002 * size.limit_bytes
        divergence[name] = mean_divergence(model, dequantized_model(decode_artifact(content)[0], MODEL), ids_NT)
    assert divergence["rate"] < 0.7 * divergence["clip"]
    assert divergence["rate"] < divergence["nearest"]


def mean_divergence(model, network, ids_NT):
    """Return KL(float || quantized) in nats per token."""
    with torch.no_grad():
        ours, theirs = model(ids_NT).log_softmax(-1), network(ids_NT).log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def test_the_rate_rule_without_sensitivities_says_what_to_set(model, bundle):
    lacking = {key: tensor for key, tensor in bundle.items() if not key.startswith("sensitivity/")}
    with pytest.raises(ValueError, match=r"calibrate\.sensitivity_sequences above 0"):
        plan_quantization(model, lacking, RATE)


def test_progress_counts_trials_and_ends_full(model, bundle):
    seen = []
    _, report = fit_to_budget(model, bundle, QUANTIZE, size_config(22_000), {}, lambda *shown: seen.append(shown))
    trials = len(report["search"])
    assert [done for done, _, _ in seen] == [*range(1, trials + 1), trials]
    assert all(total == MAX_TRIALS > trials for _, total, _ in seen[:-1])
    assert seen[-1][:2] == (trials, trials)


def test_a_budget_between_two_file_sizes_takes_the_one_below(model, bundle):
    """A tolerance of less than a byte: a file of exactly the budget's bytes would be luck."""
    content, report = fit_to_budget(model, bundle, QUANTIZE, size_config(22_000, 1e-9), {}, silent)
    budget = report["budget"]
    assert not budget["finest_fits"]
    assert budget["unused_bytes"] == 21_000 - len(content) >= 0
    assert budget["reached"] == (len(content) == 21_000)


def damaged_bundles(bundle):
    """Yield (bundle, what its error starts with): entries that are missing or of another shape."""
    for key in ("head/moment", f"moment/{LOOPED_DOWN}/0", f"moment/{LOOPED_DOWN}/2", f"tokens/{LOOPED_DOWN}/1",
                f"uses/{LOOPED_DOWN}/{LOOPED_DOWN}"):  # fmt: skip
        missing = f"no {key} in it" if not key.startswith("uses") else f"got 'no moments of {LOOPED_DOWN}'"
        yield {name: tensor for name, tensor in bundle.items() if name != key}, missing
        if key.startswith(("head", "moment")):
            for tensor in (bundle[key][1:], bundle[key][0], bundle[key][0, 0]):
                yield {**bundle, key: tensor}, f"{key}: got {tuple(tensor.shape)}"
    yield {**bundle, "head/moment": bundle["head/moment"][1:, 1:]}, "head/moment: got (31, 31)"
    yield {**bundle, **{f"moment/{LOOPED_DOWN}/{visit}": torch.eye(7) for visit in range(3)}}, "7 columns"


def test_a_damaged_bundle_is_one_line(model, bundle):
    for damaged, complaint in damaged_bundles(bundle):
        with pytest.raises(ValueError, match=r"^calibration bundle: ") as caught:
            plan_quantization(model, damaged, QUANTIZE)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "calibrate" in str(caught.value)


def test_an_impossible_budget_says_what_would_work(model, bundle):
    with pytest.raises(BudgetError, match=r"^size\.limit_bytes: 5000 .* to at least \d+") as caught:
        fit_to_budget(model, bundle, QUANTIZE, size_config(5000), {}, silent)
    enough = int(str(caught.value).split("to at least ")[1].split()[0])
    content, _ = fit_to_budget(model, bundle, QUANTIZE, size_config(enough), {}, silent)
    assert len(content) <= enough - 1000
    with pytest.raises(BudgetError):
        fit_to_budget(model, bundle, QUANTIZE, size_config(enough - 1), {}, silent)


def test_a_generous_budget_takes_the_finest_clip(model, bundle):
    content, report = fit_to_budget(model, bundle, QUANTIZE, size_config(10**6), {}, silent)
    assert report["knob"] == CLIP.min_clip_std
    assert report["budget"]["finest_fits"]
    assert not report["budget"]["reached"]
    assert len(report["search"]) == 1
    assert len(content) < 10**6


def test_search_survives_sizes_that_are_not_monotone():
    def encode(clip):
        return bytes(int(10_000 / clip**0.7 + 60 * np.sin(400 * clip)))

    search = search_knob(encode, 3.0, KnobWindow(1.0, 50.0, 3999, 4000), 100.0)
    assert len(search.best.content) <= 4000
    assert len(search.best.content) == max(size for _, size in search.trace if size <= 4000)
    assert len(search.best.content) >= 3900


def test_search_keeps_the_largest_file_that_fits_not_the_last():
    sizes = iter([3900] + [3800] * 40)
    search = search_knob(lambda clip: bytes(next(sizes)), 3.0, KnobWindow(1.0, 50.0, 3999, 4000), 100.0)
    assert len(search.best.content) == 3900
    assert search.best.knob == 3.0


def test_decoding_in_a_fresh_process_gives_the_same_bits(model, bundle, tmp_path, repo):
    content, _ = fit_to_budget(model, bundle, QUANTIZE, size_config(22_000), {}, silent)
    path = tmp_path / "model.fwy"
    path.write_bytes(content)
    ours = hashlib.sha256()
    for name, tensor in dequantized_model(read_artifact(path)[0], MODEL).state_dict().items():
        ours.update(name.encode() + tensor.numpy().tobytes())
    program = (
        "import sys, hashlib\nfrom pathlib import Path\n"
        "from pipeline.codec import read_artifact, dequantize\n"
        "d = hashlib.sha256()\n"
        "for n, a in dequantize(read_artifact(Path(sys.argv[1]))[0]).items(): d.update(n.encode() + a.tobytes())\n"
        "assert 'torch' not in sys.modules\n"
        "print(d.hexdigest())\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    out = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ours.hexdigest()


def test_mismatches_name_the_tensor(model, ids_NT, bundle):
    tensors = quantize_plan(plan_quantization(model, bundle, QUANTIZE), 12.0)
    lacking = {name: tensor for name, tensor in tensors.items() if name != "skip_weights"}
    with pytest.raises(ArtifactError, match="lacks skip_weights"):
        dequantized_model(lacking, MODEL)
    wrong = {**tensors, LOOPED_DOWN: QuantizedTensor(np.zeros((2, 2), np.int8), np.ones(2, np.float16))}
    with pytest.raises(ArtifactError, match=rf"{LOOPED_DOWN} of shape \(2, 2\)"):
        dequantized_model(wrong, MODEL)
    with pytest.raises(ValueError, match=r"no moments of blocks\.2\.mlp\.down\.weight"):
        plan_quantization(model, {k: v for k, v in bundle.items() if LOOPED_DOWN not in k}, QUANTIZE)
    spoilt = {**bundle, "moment/blocks.0.mlp.down.weight/0": -bundle["moment/blocks.0.mlp.down.weight/0"]}
    with pytest.raises(HessianError, match=r"^blocks\.0\.mlp\.down\.weight: "):
        plan_quantization(model, spoilt, QUANTIZE)
    overflowing = copy.deepcopy(model)
    overflowing.skip_weights.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"^tensor skip_weights: .*float16"):
        plan_quantization(overflowing, bundle, QUANTIZE)
