"""Calibration on the looped forward, and from its statistics to an artifact on budget, with a real tiny network."""

import copy
import hashlib
import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.codec import read_artifact
from pipeline.codec.container import decode_artifact, dequantize
from pipeline.codec.restore import dequantized_model
from pipeline.quant.budget import MAX_TRIALS, KnobTrial, KnobWindow, search_knob
from pipeline.quant.config import (
    BudgetConfig,
    CalibrateConfig,
    ClipSteps,
    CodeBits,
    ProvisionalConfig,
    QuantizeConfig,
    RateSteps,
)
from pipeline.quant.curvature import lookup_curvature
from pipeline.quant.fit import BudgetError, fit_to_budget, quantize_plan
from pipeline.quant.gptq import HessianError, factorise, proxy_loss
from pipeline.quant.plan import plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.quant.roles import tensor_roles
from pipeline.quant.statistics import check_statistics, pooled_mean, site_members
from pipeline.quant.targets import sequential_target
from pipeline.reports.quantization import describe_quantization, quantization_report
from tests.networks import TINY, changed, roused

MODEL = changed(
    TINY,
    {
        "vocab_size": 64,
        "context_tokens": 24,
        "schedule.unique_blocks": 2,
        "schedule.looped_blocks": 1,
        "attention.exclusive_blocks": [2],
        "rope.dims": 4,
        "rope.loop_scales": [2.0, 1.0, 1.0],
        "looped_mlp.slope": 0.5,
        "bigram.buckets": 50,
        "value_embedding.readers": [0],
        "embed_init_std": 0.05,
    },
)
CLIP = ClipSteps(
    kind="clip",
    bits=CodeBits(attention=6, mlp=6, looped=6, other=6, embedding=8, table=6),
    embedding_clip_ratio=1.55,
    table_clip_ratio=1.55,
    min_clip_std=2.0,
    max_clip_std=60.0,
)
QUANTIZE = QuantizeConfig(
    solver="gptq",
    steps=CLIP,
    visit_weights="tokens",
    target_share=0.0,
    damp_frac=0.01,
    block_columns=16,
    trellis_states=None,
)
RATE_STEPS = RateSteps(kind="rate", row_exponent=0.5, column_exponent=1.0, lookup_exponent=1.0)
RATE = replace(QUANTIZE, steps=RATE_STEPS)
CPU = torch.device("cpu")
ALONE = Ranks(0, 0, 1)
LOOPED_DOWN = "blocks.2.mlp.down.weight"


def settings(sweeps, target_share=0.0, steps=RATE_STEPS, sensitivity_sequences=4):
    provisional = ProvisionalConfig(bits_per_weight=2.5, steps=steps, target_share=target_share, damp_frac=0.01)
    return CalibrateConfig(
        num_sequences=8,
        batch_sequences=3,
        sensitivity_sequences=sensitivity_sequences,
        sweeps=sweeps,
        provisional=provisional,
        mixture=None,
    )


def calibrated(model, ids_NT, config):
    return calibrate(model, ids_NT, config, ALONE, CPU, silent)


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3)


@pytest.fixture(scope="module")
def ids_NT():  # noqa: N802
    return torch.randint(0, 64, (8, 24), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def statistics(model, ids_NT):
    return calibrated(model, ids_NT, settings(2, 0.5))


def inputs_by_visit(network, module, ids_NT):
    seen = []
    handle = module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        network.hidden(ids_NT)
    handle.remove()
    return seen


def test_float_moments_are_those_of_each_visit(model, ids_NT):
    statistics = calibrated(model, ids_NT, settings(0))
    x = inputs_by_visit(model, model.blocks[0].mlp.down, ids_NT)
    assert len(x) == 1
    x_NC = x[0].reshape(-1, x[0].shape[-1]).double()
    torch.testing.assert_close(
        statistics["moment/blocks.0.mlp.down.weight/0"].double(), x_NC.T @ x_NC / len(x_NC), rtol=1e-4, atol=1e-6
    )
    assert int(statistics["tokens/blocks.0.mlp.down.weight/0"]) == ids_NT.numel()
    hidden_ND = model.hidden(ids_NT).detach().reshape(-1, 32).double()
    torch.testing.assert_close(
        statistics["moment/head"].double(), hidden_ND.T @ hidden_ND / len(hidden_ND), rtol=1e-4, atol=1e-6
    )
    assert torch.equal(statistics["token_frequency"], torch.bincount(ids_NT.flatten(), minlength=64))


def test_a_sweep_sees_the_model_that_quantize_would_store(model, ids_NT):
    """Every kind of tensor in it is the quantized one: the moments are those of a dequantized artifact."""
    floats, swept = (calibrated(model, ids_NT, settings(sweeps, 0.5 * sweeps)) for sweeps in (0, 1))
    plan = plan_quantization(model, floats, RATE)
    quantized = dequantized_model(quantize_plan(plan, RateEstimate(plan).knob(2.5)), MODEL)
    check_moments(swept, "moment", quantized, quantized, ids_NT)
    check_moments(swept, "cross", model, quantized, ids_NT)
    for key in ("moment/blocks.0.mlp.down.weight/0", f"moment/{LOOPED_DOWN}/2", "moment/head"):
        assert (swept[key] - floats[key]).norm() > 0.02 * floats[key].norm()
    cross_CC = swept[f"cross/{LOOPED_DOWN}/2"]
    assert (cross_CC - swept[f"moment/{LOOPED_DOWN}/2"]).norm() > 0.02 * cross_CC.norm()
    assert all(torch.equal(swept[key], floats[key]) for key in floats if not key.startswith("moment/"))


def check_moments(statistics, kind, left, right, ids_NT):
    """Compare with products of the inputs of networks `left` and `right`: an unlooped site, a looped one, the head."""
    for owner in ("blocks.0.mlp.down.weight", LOOPED_DOWN):
        name = owner.removesuffix(".weight")
        pairs = zip(*(inputs_by_visit(n, n.get_submodule(name), ids_NT) for n in (left, right)), strict=True)
        for visit, (y, x) in enumerate(pairs):
            expected = y.flatten(0, 1).T @ x.flatten(0, 1) / ids_NT.numel()
            torch.testing.assert_close(statistics[f"{kind}/{owner}/{visit}"], expected, rtol=1e-4, atol=1e-6)
    if kind == "moment":
        x_ND = right.hidden(ids_NT).detach().flatten(0, 1)
        torch.testing.assert_close(statistics["moment/head"], x_ND.T @ x_ND / len(x_ND), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_each_sweep_quantizes_with_the_statistics_of_the_one_before(model, ids_NT, share):
    once, twice = (calibrated(model, ids_NT, settings(sweeps, share)) for sweeps in (1, 2))
    plan = plan_quantization(model, once, replace(RATE, target_share=share))
    quantized = dequantized_model(quantize_plan(plan, RateEstimate(plan).knob(2.5)), MODEL)
    check_moments(twice, "moment", quantized, quantized, ids_NT)
    assert not torch.equal(once["moment/head"], twice["moment/head"])


def test_the_rate_of_a_sweep_is_near_the_one_asked_for(model, statistics):
    for config, bits in ((RATE, 2.5), (RATE, 4.0), (QUANTIZE, 4.0)):
        plan = plan_quantization(model, statistics, config)
        report = describe_quantization(plan, quantize_plan(plan, RateEstimate(plan).knob(bits)))
        assert report["totals"]["entropy_bits"] == pytest.approx(bits, abs=0.4)


def test_sweeps_by_the_rate_rule_need_sensitivities():
    with pytest.raises(ValueError, match=r"^sensitivity_sequences: got 0, expected above 0: provisional\.steps"):
        settings(1, sensitivity_sequences=0)
    with pytest.raises(ValueError, match=r"^sweeps: got 0, expected above 0, which provisional\.target_share"):
        settings(0, 0.5)
    settings(0, sensitivity_sequences=0)


def test_sweeps_by_the_clip_rule_need_none(model, ids_NT):
    statistics = calibrated(model, ids_NT, settings(1, steps=CLIP, sensitivity_sequences=0))
    assert not any(key.startswith("sensitivity/") for key in statistics)


def test_matrices_with_one_input_share_a_site(model, statistics):
    members = site_members(statistics)
    attention = "blocks.2.attention."
    assert members[f"{attention}query.weight"] == [f"{attention}{n}.weight" for n in ("query", "key", "value")]
    matrices = {name for name, role in tensor_roles(model).items() if role == "matrix"}
    assert sorted(name for names in members.values() for name in names) == sorted(matrices)
    assert int(statistics[f"uses/{LOOPED_DOWN}/{LOOPED_DOWN}"]) == 3


def group_of(model, statistics, config, name=LOOPED_DOWN):
    (group,) = (group for group in plan_quantization(model, statistics, config).groups if group.names == (name,))
    return group


@pytest.mark.parametrize("choice", ["tokens", "sensitivity", (0.5, 1.0, 4.0, 9.0)])
def test_visits_are_pooled_as_chosen(model, statistics, choice):
    weights = {
        "tokens": [1.0] * 3,
        "sensitivity": [float(statistics[f"sensitivity/{LOOPED_DOWN}/{visit}"].double().mean()) for visit in range(3)],
    }.get(choice, [0.5, 1.0, 4.0])
    pooled = {
        kind: sum(weight * statistics[f"{kind}/{LOOPED_DOWN}/{visit}"].double() for visit, weight in enumerate(weights))
        / sum(weights)
        for kind in ("moment", "cross")
    }
    group = group_of(model, statistics, replace(QUANTIZE, visit_weights=choice))
    torch.testing.assert_close(group.factor.hessian_CC, pooled["moment"])
    group = group_of(model, statistics, replace(QUANTIZE, visit_weights=choice, target_share=1.0))
    expected_RC = sequential_target(
        model.get_parameter(LOOPED_DOWN).detach(), pooled["cross"], pooled["moment"], group.factor.damping, 1.0
    )
    torch.testing.assert_close(group.weight_RC, expected_RC)
    assert group.factor.damping == pytest.approx(0.01 * float(pooled["moment"].diagonal().mean()))


def test_the_choices_of_pooling_differ_and_too_few_numbers_are_refused(model, statistics):
    means = [
        group_of(model, statistics, replace(QUANTIZE, visit_weights=choice)).factor.hessian_CC
        for choice in ("tokens", "sensitivity", (1.0, 2.0, 4.0))
    ]
    assert all((one - other).norm() > 1e-3 * one.norm() for one, other in itertools.pairwise(means))
    with pytest.raises(ValueError, match=r"^quantize\.visit_weights: got '2 numbers', expected 3, the visits of "):
        plan_quantization(model, statistics, replace(QUANTIZE, visit_weights=(1.0, 2.0)))
    with pytest.raises(ValueError, match=r"^visit_weights: got \[1\.0, 0\.0\]"):
        replace(QUANTIZE, visit_weights=(1.0, 0.0))


def test_sequential_targets_take_back_what_came_before(model, ids_NT):
    """Of the outputs of a looped matrix on the quantized trajectory, over all its passes."""
    floats, swept = (calibrated(model, ids_NT, settings(sweeps, 0.5 * sweeps)) for sweeps in (0, 1))
    plan = plan_quantization(model, floats, RATE)
    network = dequantized_model(quantize_plan(plan, RateEstimate(plan).knob(2.5)), MODEL)
    y, x = (
        torch.cat(inputs_by_visit(n, n.blocks[2].mlp.down, ids_NT)).flatten(0, 1).double() for n in (model, network)
    )
    wanted = y @ model.get_parameter(LOOPED_DOWN).detach().double().T
    lost = {}
    for share in (0.0, 1.0):
        plan = plan_quantization(model, swept, replace(RATE, target_share=share))
        down = quantize_plan(plan, RateEstimate(plan).knob(4.0))[LOOPED_DOWN]
        lost[share] = float((wanted - x @ torch.from_numpy(down.codes * down.full_step()).double().T).square().mean())
    assert lost[1.0] < 0.8 * lost[0.0]


def test_targets_without_cross_moments_say_what_to_set(model, statistics):
    lacking = {key: tensor for key, tensor in statistics.items() if not key.startswith("cross/")}
    plan_quantization(model, lacking, RATE)
    with pytest.raises(
        ValueError, match=r"^calibration statistics: got 'no cross/.* set calibrate\.provisional\.target_share"
    ):
        plan_quantization(model, lacking, replace(RATE, target_share=0.5))


def test_a_row_counts_for_both_its_uses_and_unseen_rows_for_something():
    factor = factorise(torch.diag(torch.tensor([4.0, 1.0])), 1e-9)
    statistics = {"sensitivity/table": torch.tensor([0.0, 8.0]), "sensitivity/head": torch.tensor([2.0, 1.0])}
    rule = RateSteps(kind="rate", row_exponent=1.0, column_exponent=1.0, lookup_exponent=1.0)
    rows_V, step_C = lookup_curvature("table", statistics, None, rule)
    assert rows_V.tolist() == pytest.approx([0.4, 8.4])
    assert step_C is None
    rows_V, step_C = lookup_curvature("table", statistics, factor, rule)
    seen = torch.tensor([0.0 / 2.5 + 2.0, 8.0 / 2.5 + 1.0])  # 2.5: mean variance of the inputs
    assert rows_V.tolist() == pytest.approx((seen + 0.1 * seen.mean()).tolist())
    assert step_C.tolist() == [0.5, 1.0]


def test_calibration_leaves_the_model_alone(model, ids_NT):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    calibrated(model, ids_NT, settings(1))
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


def test_a_fine_grid_reproduces_the_float_logits_and_a_coarse_one_does_not(model, ids_NT, statistics):
    fine = replace(
        QUANTIZE, steps=replace(CLIP, bits=replace(CLIP.bits, attention=8, mlp=8, looped=8, other=8, table=8))
    )
    near = dequantized_model(quantize_plan(plan_quantization(model, statistics, fine), 4.0), MODEL)
    far = dequantized_model(quantize_plan(plan_quantization(model, statistics, QUANTIZE), 60.0), MODEL)
    assert logit_error(model, near, ids_NT) < 0.03  # steps of about a thirtieth of a standard deviation
    assert logit_error(model, far, ids_NT) > 10 * logit_error(model, near, ids_NT)


def budget_config(limit_bytes, tolerance_frac=0.002):
    return BudgetConfig(limit_bytes=limit_bytes, code_reserve_bytes=1000, tolerance_frac=tolerance_frac)


def test_bytes_do_not_depend_on_threads_as_everything_is_computed_on_one(model, statistics):
    """Factors of wide matrices do: a Cholesky factorisation on two threads adds up in another order."""
    seen, before = set(), torch.get_num_threads()
    torch.set_num_threads(2)
    budget = budget_config(22_000)
    fit_to_budget(model, statistics, QUANTIZE, budget, {}, lambda *shown: seen.add(torch.get_num_threads()))
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (seen, after) == ({1}, 2)


def test_bits_per_weight_are_those_in_the_file_wherever_they_are_told(model, statistics):
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(22_000), {}, silent)
    report = quantization_report(model, statistics, fit)
    totals, layers = report["totals"], report["layers"]
    coded_bytes = sum(layer["coded_bytes"] for layer in layers)
    assert coded_bytes == len(fit.content) - report["passthrough_bytes"]
    assert totals["bits_per_weight"] == 8 * coded_bytes / totals["weights"]
    for layer in layers:
        assert layer["bits_per_weight"] == 8 * layer["coded_bytes"] / math.prod(layer["shape"])


def test_fit_lands_within_tolerance_below_the_budget(model, statistics):
    budget = budget_config(22_000)
    fit = fit_to_budget(model, statistics, QUANTIZE, budget, {"k": 1}, silent)
    content, report = fit.content, quantization_report(model, statistics, fit)
    assert 21_000 - 44 <= len(content) <= 21_000
    assert report["artifact_bytes"] == len(content)
    assert report["budget"]["reached"]
    assert len(report["search"]) <= 8
    assert fit_to_budget(model, statistics, QUANTIZE, budget, {"k": 1}, silent).content == content
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert len(layers) == sum(role != "passthrough" for role in tensor_roles(model).values())
    assert layers[LOOPED_DOWN]["proxy_loss"] < layers[LOOPED_DOWN]["nearest_proxy_loss"]
    assert layers["bigram.table.weight"]["proxy_loss"] is None
    tensors, meta = decode_artifact(content)
    assert meta == {"k": 1}
    values = dequantize(fit.tensors)
    assert all(np.array_equal(values[name], stored) for name, stored in dequantize(tensors).items())
    down = tensors[LOOPED_DOWN]
    codes_RC, step_R = torch.from_numpy(down.codes.astype(np.int64)), torch.from_numpy(down.step.astype(np.float32))
    weight_RC = model.get_parameter(LOOPED_DOWN)
    of_file = proxy_loss(weight_RC, codes_RC, step_R, pooled_mean(statistics, "moment", LOOPED_DOWN, codes_RC.shape[1]))
    assert layers[LOOPED_DOWN]["proxy_loss"] == pytest.approx(of_file, rel=1e-5)  # float32 products
    assert report["knob"] in [trial["knob"] for trial in report["search"]]
    # Codes were chosen with the stored steps: nearest rounding of a table must reproduce from the file alone.
    table = tensors["bigram.table.weight"]
    nearest = np.rint(model.bigram.table.weight.detach().double().numpy() / table.step.astype(np.float64)[:, None])
    assert np.array_equal(table.codes, np.clip(nearest, -31, 31))


def test_the_rate_rule_lands_on_budget_and_needs_fewer_nats_than_the_clip(model, ids_NT, statistics):
    """At equal bytes, on the text whose labels the model itself gives: the divergence from the float model."""
    budget, divergence = budget_config(16_000), {}
    configs = {
        "rate": RATE,
        "clip": QUANTIZE,
        "nearest": replace(RATE, solver="nearest"),
        "trellis": replace(RATE, trellis_states=8),
    }
    for name, config in configs.items():
        fit = fit_to_budget(model, statistics, config, budget, {}, silent)
        assert 15_000 - 0.002 * budget.limit_bytes <= len(fit.content) <= 15_000
        divergence[name] = mean_divergence(model, dequantized_model(fit.tensors, MODEL), ids_NT)
    assert divergence["rate"] < 0.7 * divergence["clip"]
    assert divergence["rate"] < divergence["nearest"]
    assert divergence["trellis"] < divergence["rate"]


def test_small_rows_stay_off_the_paths(model, statistics):
    """They keep even codes, mostly zeros: half a step of error would be many times what they hold."""
    plan = plan_quantization(model, statistics, replace(RATE, trellis_states=8))
    group = max((group for group in plan.groups if group.role == "matrix"), key=lambda group: len(group.weight_RC))
    weight_RC = group.weight_RC.clone()
    weight_RC[::2] *= 0.01
    tensors = quantize_plan(
        plan._replace(groups=(group._replace(weight_RC=weight_RC),), passthrough={}, order=group.names), knob=0.004
    )
    on_path_R = np.concatenate([tensors[name].on_path for name in group.names])
    codes_RC = np.concatenate([tensors[name].codes for name in group.names])
    assert not on_path_R[::2].any()
    assert on_path_R[1::2].mean() > 0.9
    assert not (codes_RC[::2] & 1).any()
    assert 0.4 < (codes_RC[on_path_R] & 1).mean() < 0.6


def mean_divergence(model, network, ids_NT):
    """Return KL(float || quantized) in nats per token."""
    with torch.no_grad():
        ours, theirs = model(ids_NT).log_softmax(-1), network(ids_NT).log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def test_the_rate_rule_without_sensitivities_says_what_to_set(model, statistics):
    lacking = {key: tensor for key, tensor in statistics.items() if not key.startswith("sensitivity/")}
    with pytest.raises(ValueError, match=r"calibrate\.sensitivity_sequences above 0"):
        plan_quantization(model, lacking, RATE)


def test_progress_counts_trials_of_those_that_there_may_be(model, statistics):
    seen = []
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(22_000), {}, lambda *shown: seen.append(shown))
    trials = len(fit.trace)
    assert trials < MAX_TRIALS
    assert [shown[:2] for shown in seen] == [(trial, MAX_TRIALS) for trial in range(1, trials + 1)]


def test_a_budget_between_two_file_sizes_takes_the_one_below(model, statistics):
    """A tolerance of less than a byte: a file of exactly the budget's bytes would be luck."""
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(22_000, 1e-9), {}, silent)
    budget = quantization_report(model, statistics, fit)["budget"]
    assert not budget["finest_fits"]
    assert budget["unused_bytes"] == 21_000 - len(fit.content) >= 0
    assert budget["reached"] == (len(fit.content) == 21_000)


def damaged_statistics(statistics):
    """Yield (statistics, what its error starts with): entries that are missing or of another shape."""
    for key in (
        "moment/head",
        f"moment/{LOOPED_DOWN}/0",
        f"moment/{LOOPED_DOWN}/2",
        f"tokens/{LOOPED_DOWN}/1",
        f"uses/{LOOPED_DOWN}/{LOOPED_DOWN}",
    ):
        missing = f"no {key} in it" if not key.startswith("uses") else f"got 'no moments of {LOOPED_DOWN}'"
        yield {name: tensor for name, tensor in statistics.items() if name != key}, missing
        if key.startswith("moment"):
            for tensor in (statistics[key][1:], statistics[key][0], statistics[key][0, 0]):
                yield {**statistics, key: tensor}, f"{key}: got {list(tensor.shape)}"
    yield {**statistics, "moment/head": statistics["moment/head"][1:, 1:]}, "moment/head: got [31, 31]"
    yield (
        {**statistics, **{f"moment/{LOOPED_DOWN}/{visit}": torch.eye(7) for visit in range(3)}},
        f"moment/{LOOPED_DOWN}/0: got [7, 7]",
    )


def test_damaged_statistics_are_one_line(model, statistics):
    for damaged, complaint in damaged_statistics(statistics):
        with pytest.raises(ValueError, match=r"^calibration statistics: ") as caught:
            plan_quantization(model, damaged, QUANTIZE)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "calibrate" in str(caught.value)


def test_an_impossible_budget_says_what_would_work(model, statistics):
    with pytest.raises(BudgetError, match=r"^budget.limit_bytes: 5000 .* to at least \d+") as caught:
        fit_to_budget(model, statistics, QUANTIZE, budget_config(5000), {}, silent)
    enough = int(str(caught.value).split("to at least ")[1].split()[0])
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(enough), {}, silent)
    assert len(fit.content) <= enough - 1000
    with pytest.raises(BudgetError):
        fit_to_budget(model, statistics, QUANTIZE, budget_config(enough - 500), {}, silent)


@pytest.mark.parametrize("budget", [10, 1500])
def test_an_impossible_budget_of_the_rate_rule_is_one_line(model, statistics, budget):
    with pytest.raises(BudgetError, match=r"^budget.limit_bytes: \d+ leaves .* to at least \d+"):
        fit_to_budget(model, statistics, RATE, budget_config(1000 + budget), {}, silent)


def test_a_generous_budget_takes_the_finest_clip(model, statistics):
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(10**6), {}, silent)
    report = quantization_report(model, statistics, fit)
    assert report["knob"] == CLIP.min_clip_std
    assert report["budget"]["finest_fits"]
    assert not report["budget"]["reached"]
    assert len(report["search"]) == 1
    assert len(fit.content) < 10**6


@pytest.mark.parametrize("limit_bytes", [10**7, 10**15])
@pytest.mark.parametrize("config", [RATE, replace(RATE, trellis_states=8), QUANTIZE], ids=["rate", "trellis", "clip"])
def test_a_budget_beyond_all_steps_takes_the_finest(model, statistics, config, limit_bytes):
    fit = fit_to_budget(model, statistics, config, budget_config(limit_bytes), {}, silent)
    assert [knob for knob, _ in fit.trace] == [fit.window.min_knob]
    assert len(fit.content) < 100_000


def test_more_bits_than_a_code_holds_have_a_knob(model, statistics):
    rate = RateEstimate(plan_quantization(model, statistics, RATE))
    assert 0 < rate.knob(1e6) == rate.knob(1e5) < rate.knob(20)


@pytest.mark.parametrize(
    "config",
    [RATE, replace(RATE, trellis_states=8), replace(RATE, solver="nearest"), QUANTIZE],
    ids=["rate", "trellis", "nearest", "clip"],
)
@pytest.mark.parametrize("zero", ["", "token_embedding", "bigram.table", "blocks.1.mlp", "attention.query"])
def test_zero_matrices_take_no_bits(ids_NT, config, zero):
    """Without bigrams, or with nothing at all, nothing feeds the blocks and the head either."""
    model = roused(changed(MODEL, {"bigram": None, "value_embedding": None}) if zero == "token_embedding" else MODEL, 3)
    for name, parameter in model.named_parameters():
        if zero in name:
            parameter.data.zero_()
    statistics = calibrated(model, ids_NT, settings(1, 0.5, config.steps))
    check_statistics(statistics)
    fit = fit_to_budget(model, statistics, config, budget_config(20_000), {}, silent)
    report = quantization_report(model, statistics, fit)
    lines = {layer["name"]: layer for layer in report["layers"] if zero in layer["name"]}
    assert lines
    assert all(line["entropy_bits"] == 0 for line in lines.values())


def test_overflow_is_one_line_that_names_a_tensor(ids_NT):
    model = roused(MODEL, 3)
    model.get_parameter(LOOPED_DOWN).data.fill_(3e38)
    with pytest.raises(ValueError, match=f"^{LOOPED_DOWN}: got .*overflow"):
        calibrated(model, ids_NT, settings(1))
    with pytest.raises(HessianError, match=r"^[\w.]+: the Hessian holds values that are not finite"):
        calibrated(model, ids_NT, settings(1, 0.0, CLIP, sensitivity_sequences=0))


def test_codes_beyond_16_bits_are_one_line(ids_NT):
    model = roused(MODEL, 3)
    model.get_parameter("conditioners.flow.down.weight").data.fill_(6e4)
    statistics = calibrated(model, ids_NT, settings(0))
    with pytest.raises(ValueError, match=r"^conditioners\.flow\.down\.weight: got 'code \d+'"):
        fit_to_budget(model, statistics, RATE, budget_config(60_000), {}, silent)


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("moment/head", torch.full((32, 32), float("nan"))),
        ("moment/head", torch.eye(32).long()),
        ("moment/head", torch.ones(3)),
        (f"uses/{LOOPED_DOWN}/{LOOPED_DOWN}", torch.tensor(10**15)),
        (f"uses/{LOOPED_DOWN}", torch.tensor(3)),
        (f"tokens/{LOOPED_DOWN}/0", torch.tensor(0)),
        (f"tokens/{LOOPED_DOWN}/0", torch.tensor(1.5)),
        (f"sensitivity/{LOOPED_DOWN}/0", torch.full((32,), float("inf"))),
        ("token_frequency", torch.full((64,), -1)),
        ("x" * 10_000, torch.ones(1)),
    ],
)
def test_an_entry_that_calibration_never_writes_is_named(statistics, key, entry):
    check_statistics(statistics)
    with pytest.raises(ValueError, match=f"^calibration statistics: {key[:100]}") as caught:
        check_statistics({**statistics, key: entry})
    assert len(str(caught.value)) < 500


def test_search_survives_sizes_that_are_not_monotone():
    def attempt(clip):
        return KnobTrial(clip, {}, bytes(int(10_000 / clip**0.7 + 60 * np.sin(400 * clip))))

    search = search_knob(attempt, 3.0, KnobWindow(1.0, 50.0, 3999, 4000), 100.0)
    assert search.best == attempt(search.best.knob)
    assert len(search.best.content) <= 4000
    assert len(search.best.content) == max(size for _, size in search.trace if size <= 4000)
    assert len(search.best.content) >= 3900


def test_search_keeps_the_largest_file_that_fits_not_the_last():
    sizes = iter([3900] + [3800] * 40)
    search = search_knob(
        lambda clip: KnobTrial(clip, {"clip": np.array(clip)}, bytes(next(sizes))),
        3.0,
        KnobWindow(1.0, 50.0, 3999, 4000),
        100.0,
    )
    assert len(search.best.content) == 3900
    assert search.best.knob == search.best.tensors["clip"] == 3.0


def test_decoding_in_a_fresh_process_gives_the_same_bits(model, statistics, tmp_path, repo):
    fit = fit_to_budget(model, statistics, QUANTIZE, budget_config(22_000), {}, silent)
    path = tmp_path / "model.fwy"
    path.write_bytes(fit.content)
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


def test_mismatches_name_the_tensor(model, ids_NT, statistics):
    with pytest.raises(ValueError, match=r"no moments of blocks\.2\.mlp\.down\.weight"):
        plan_quantization(model, {k: v for k, v in statistics.items() if LOOPED_DOWN not in k}, QUANTIZE)
    spoilt = {**statistics, "moment/blocks.0.mlp.down.weight/0": -statistics["moment/blocks.0.mlp.down.weight/0"]}
    with pytest.raises(HessianError, match=r"^blocks\.0\.mlp\.down\.weight: "):
        plan_quantization(model, spoilt, QUANTIZE)
    overflowing = copy.deepcopy(model)
    overflowing.skip_weights.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"^tensor skip_weights: .*float16"):
        plan_quantization(overflowing, statistics, QUANTIZE)
