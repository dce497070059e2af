"""The speed benchmark at small size: it measures what it says, and its plain solver finds our codes."""

import torch

from benchmarks.quantize_speed import (
    measure_baseline,
    measure_fit,
    measure_shares,
    plain_factor,
    plain_solve,
    random_model,
    synthetic_statistics,
)
from pipeline.model.network import build
from pipeline.quant.config import BudgetConfig, QuantizeConfig, RateSteps
from pipeline.quant.gptq import factorise, solve
from tests.networks import TINY

RATE = RateSteps(kind="rate", row_exponent=0.5, column_exponent=1.0, lookup_exponent=1.0)
QUANTIZE = QuantizeConfig(
    solver="gptq",
    steps=RATE,
    visit_weights="tokens",
    target_share=0.5,
    damp_frac=0.01,
    block_columns=16,
    trellis_states=None,
)


def test_the_plain_solver_finds_our_codes():
    statistics = synthetic_statistics(random_model(build(TINY, 0)))
    hessian_CC = statistics["moment/blocks.5.mlp.down.weight/1"].double()
    weight_RC = 0.05 * torch.randn(30, len(hessian_CC), generator=torch.Generator().manual_seed(2))
    for step in (torch.full((30,), 0.02), torch.full_like(weight_RC, 0.01)):
        expected = solve(weight_RC, factorise(hessian_CC, 0.01), step, None, 32)
        assert torch.equal(plain_solve(weight_RC, *plain_factor(hessian_CC, 0.01), step, 20).long(), expected)


def test_a_small_model_is_measured():
    model = random_model(build(TINY, 0))
    statistics = synthetic_statistics(model)
    budget = BudgetConfig(limit_bytes=40_000, code_reserve_bytes=1000, tolerance_frac=0.01)
    measured = measure_fit(model, statistics, QUANTIZE, budget)
    assert 0 <= measured["unused_bytes"] == 39_000 - measured["artifact_bytes"]
    baseline = measure_baseline(model, statistics, QUANTIZE)
    assert baseline["matrices"] == sum(
        name.startswith(("blocks.0.", "blocks.5.")) and parameter.ndim == 2 and name.endswith("weight")
        for name, parameter in model.named_parameters()
    )
    assert baseline["plain_over_ours"] > 0
    shares = measure_shares(model, statistics, QUANTIZE, 3)
    for name in ("plan_seconds", "trial_seconds"):
        assert 0 < shares[name]["slowest"] < shares[name]["alone"]
    assert 1 < shares["trial_alone_over_slowest"] < 3
