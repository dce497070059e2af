"""Published additions to a quantizer, each against a slow form of its definition."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.quantization.additions import (
    CORRECTED_TENSORS,
    SCALE_EXPONENTS,
    best_product,
    best_scale,
    corrected,
    correction,
    folded,
    members,
    percentile_step,
    pruned,
    removal_cost,
    scaled_network,
    weighted_loss,
)
from benchmarks.quantization.arms import ADDITIONS, ladder
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.calibration.calibrate import calibrate
from pipeline.codec.container import decode_artifact, dequantize, encode_artifact
from pipeline.codec.restore import dequantized_model
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from tests.conftest import REPO
from tests.networks import TINY, random_ids, roused

PARAMS = load_params(REPO / "params.yaml", ["calibrate", "quantize"])
CALIBRATE = dataclasses.replace(PARAMS.calibrate, num_sequences=16, sensitivity_sequences=16)
ARMS = ladder(CALIBRATE, PARAMS.quantize)
MODEL = roused(TINY, 3)
IDS = random_ids(TINY, 16, 32)


def statistics_of(model):
    return calibrate(model, IDS, CALIBRATE, ALONE, torch.device("cpu"), silent)


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(MODEL)


def plan_of(arm, statistics):
    return plan_quantization(MODEL, statistics, ARMS[arm].quantize)


def random_problem(rows=7, columns=9):
    """Return an error, a Hessian and the curvature of rows, float64."""
    generator = torch.Generator().manual_seed(0)
    error_RC, x = (torch.randn(size, columns, generator=generator).double() for size in (rows, 40))
    return error_RC, x.T @ x / 40, torch.rand(rows, generator=generator).double() + 0.1


def test_no_product_of_the_rank_leaves_less():
    error_RC, hessian_CC, curvature_R = random_problem()
    found = weighted_loss(
        error_RC - torch.mm(*best_product(error_RC, hessian_CC, curvature_R, 2)), hessian_CC, curvature_R
    )
    right_KC = torch.randn(2, 9, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(200):  # least squares for one factor, then for the other
        left_RK = error_RC @ hessian_CC @ right_KC.T @ torch.linalg.inv(right_KC @ hessian_CC @ right_KC.T)
        weighted_RK = curvature_R[:, None] * left_RK
        right_KC = torch.linalg.inv(left_RK.T @ weighted_RK) @ weighted_RK.T @ error_RC
    assert found == pytest.approx(weighted_loss(error_RC - left_RK @ right_KC, hessian_CC, curvature_R), rel=1e-6)
    assert found < 0.9 * weighted_loss(error_RC, hessian_CC, curvature_R)


@pytest.mark.parametrize("arm", ["CL", "HL"])
def test_corrections_travel_in_the_file_and_lower_the_loss(statistics, arm):
    plan, knob = plan_of(arm, statistics), 0.05 if arm == "HL" else 16.0
    plain, tensors = quantize_plan(plan, knob), corrected(plan, knob)
    names = [name.removesuffix("/left") for name in tensors if name.endswith("/left")]
    assert len(names) == CORRECTED_TENSORS
    read, _ = decode_artifact(encode_artifact(tensors, {}))
    loaded, before = dequantize(folded(read)), dequantize(plain)
    assert loaded.keys() == before.keys()
    assert {name for name in loaded if not np.array_equal(loaded[name], before[name])} == set(names)
    saved = {member.name: correction(member)[0] for member in members(plan, plain) if member.curvature_R.any()}
    assert min(saved[name] for name in names) >= max(saved[name] for name in saved if name not in names)
    for member in members(plan, plain):
        if member.name in names:
            moved_RC = torch.from_numpy(loaded[member.name] - before[member.name]).double()
            hessian_CC = member.group.factor.hessian_CC
            after = weighted_loss(member.error_RC - moved_RC, hessian_CC, member.curvature_R)
            assert after < 0.95 * weighted_loss(member.error_RC, hessian_CC, member.curvature_R)
    dequantized_model(folded(read), TINY)


def test_a_scaled_network_is_the_same_function_with_the_statistics_that_it_would_have(statistics):
    model, expected = scaled_network(MODEL, statistics)
    torch.testing.assert_close(model(IDS[:2]), MODEL(IDS[:2]), rtol=0, atol=1e-4)
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, MODEL.state_dict()[name])}
    assert moved == {f"blocks.{index}.mlp.{side}.weight" for index in range(6) for side in ("up", "down")}
    found = statistics_of(model)
    assert found.keys() == expected.keys()
    for key, entry in found.items():
        torch.testing.assert_close(expected[key], entry, rtol=1e-3, atol=1e-7, msg=key)


def test_scales_are_the_best_power_of_the_inputs_size():
    weight_RC, hessian_CC, _ = random_problem(5, 8)
    size_C = torch.logspace(-1, 1, 8).double()
    weight_RC, hessian_CC = weight_RC.float(), hessian_CC * size_C[:, None] * size_C
    losses = []
    for exponent in SCALE_EXPONENTS:
        scale_C = hessian_CC.diagonal() ** (exponent / 2)
        scale_C = scale_C / (scale_C.max() * scale_C.min()).sqrt()
        step_R = (12.85 * (weight_RC * scale_C).std(1) / 31).half().double()
        rounded_RC = (weight_RC * scale_C / step_R[:, None]).round().clamp(-31, 31) * step_R[:, None] / scale_C
        error_RC = weight_RC - rounded_RC
        losses.append((float(torch.trace(error_RC @ hessian_CC @ error_RC.T)), scale_C))
    least, scale_C = min(losses, key=lambda each: each[0])
    torch.testing.assert_close(best_scale(weight_RC, hessian_CC), scale_C.float(), rtol=1e-5, atol=0)
    assert least < 0.8 * losses[0][0]


@pytest.mark.parametrize(("arm", "knob"), [("C", 6.0), ("Gf", 0.05)])
def test_the_codes_that_cost_least_are_zeroed(statistics, arm, knob):
    plan = plan_of(arm, statistics)
    plain, half, all_ = (pruned(share, plan, knob) for share in (0.0, 0.5, 1.0))
    expected = quantize_plan(plan, knob)
    assert all(np.array_equal(dequantize(plain)[name], value) for name, value in dequantize(expected).items())
    kept, zeroed = [], []
    for member in members(plan, plain):
        cost_RC, codes_RC = removal_cost(member), member.stored.codes
        assert (np.abs(all_[member.name].codes) != 1).all()
        is_zeroed_RC = (half[member.name].codes == 0) & (np.abs(codes_RC) == 1)
        is_kept_RC = np.abs(half[member.name].codes) == 1
        assert np.array_equal(half[member.name].codes[~is_zeroed_RC], codes_RC[~is_zeroed_RC])
        zeroed.append(cost_RC[torch.from_numpy(is_zeroed_RC)])
        kept.append(cost_RC[torch.from_numpy(is_kept_RC)])
    assert torch.cat(zeroed).max() <= torch.cat(kept).min()
    assert len(torch.cat(zeroed)) == pytest.approx(len(torch.cat(kept)), abs=1)


def test_a_removal_costs_what_its_error_alone_does(statistics):
    plan = plan_of("Gf", statistics)
    tensors = quantize_plan(plan, 0.05)
    member = next(each for each in members(plan, tensors) if (np.abs(each.stored.codes) == 1).any())
    cost_RC, value_RC = removal_cost(member), dequantize({"it": member.stored})["it"]
    for row, column in cost_RC.isfinite().nonzero()[:20].tolist():
        error_RC = torch.zeros_like(member.error_RC)
        error_RC[row, column] = float(value_RC[row, column])
        alone = weighted_loss(error_RC, member.group.factor.hessian_CC, member.curvature_R)
        assert float(cost_RC[row, column]) == pytest.approx(alone, rel=1e-6)


def test_rows_end_at_the_quantile_that_rounds_best():
    generator = torch.Generator().manual_seed(2)
    weight_RC = torch.randn(6, 400, generator=generator) * torch.logspace(-3, 1, 6)[:, None]
    weight_RC[:3, 0] *= 100  # cheaper clipped than spanned
    step_R = percentile_step(weight_RC, 15)
    chosen = []
    for row_C, step in zip(weight_RC, step_R, strict=True):
        errors = {}
        for quantile in (0.999, 0.9995, 0.9999, 0.99999, 1.0):
            candidate = (row_C.abs().quantile(quantile) / 15).half().float()
            rounded_C = (row_C / candidate).round().clamp(-15, 15) * candidate
            errors[float(candidate)] = float((row_C - rounded_C).square().sum())
        assert float(step) == min(errors, key=errors.get)
        chosen.append(float(step) * 15 / float(row_C.abs().max()))
    assert min(chosen) < 0.9
    assert max(chosen) > 0.99


def test_every_addition_is_measured_on_what_it_adds_to():
    assert [name for name in ARMS if name in ADDITIONS] == list(ADDITIONS) == list(ARMS)[-len(ADDITIONS) :]
    for name, base in ADDITIONS.items():
        assert (ARMS[name].calibrate, ARMS[name].quantize) == (ARMS[base].calibrate, ARMS[base].quantize)
        assert ARMS[name].codec is ARMS[base].codec


def test_a_path_cannot_be_pruned(statistics):
    plan = plan_of("H32", statistics)
    with pytest.raises(AssertionError, match="path"):
        pruned(0.5, plan, 0.01)
