"""Expected bits against the entropy of real codes, and the knob that they lead to."""

import pytest
import torch

from pipeline.quant.config import ClipSteps, CodeBits, QuantizeConfig, RateSteps
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import QuantizationPlan, TensorGroup
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.quant.steps import ClipGrids, RateGrids
from pipeline.reports.quantization import entropy_bits

CLIP = ClipSteps(
    kind="clip",
    bits=CodeBits(attention=8, mlp=8, looped=8, other=8, embedding=8, table=8),
    embedding_clip_ratio=1.0,
    table_clip_ratio=1.0,
    min_clip_std=2.0,
    max_clip_std=600.0,
)
RATE = RateSteps(kind="rate", row_exponent=1.0, column_exponent=1.0, lookup_exponent=1.0)


def gaussian_plan(rule, curvature=1.0):
    generator = torch.Generator().manual_seed(0)
    weight_RC = torch.randn(40, 6000, generator=generator) * torch.logspace(-2, 0, 40)[:, None]
    curvature_R = torch.full((40,), curvature, dtype=torch.float64)
    rated = RateGrids(weight_RC, curvature_R, torch.full((6000,), 0.5))
    steps = rated if rule is RATE else ClipGrids("a", weight_RC, 1.0, 127)
    group = TensorGroup(("a",), (40,), "matrix", weight_RC, None, steps)
    config = QuantizeConfig(
        solver="gptq",
        steps=rule,
        visit_weights="tokens",
        target_share=0.0,
        damp_frac=0.01,
        block_columns=8,
        trellis_states=None,
    )
    return QuantizationPlan((group,), {}, ("a",), config)


@pytest.mark.parametrize(("rule", "bits"), [(CLIP, 1.0), (CLIP, 4.0), (RATE, 0.5), (RATE, 2.0), (RATE, 6.0)])
def test_gaussian_codes_take_the_expected_bits(rule, bits):
    """Within a tenth: the closed form is off by so much on coarse grids."""
    plan = gaussian_plan(rule)
    rate = RateEstimate(plan)
    knob = rate.knob(bits)
    assert rate.bits(knob) == pytest.approx(bits, abs=1e-3)
    codes_RC = torch.from_numpy(quantize_plan(plan, knob)["a"].codes)
    taken = sum(entropy_bits(codes_R) for codes_R in codes_RC) / 40
    assert taken == pytest.approx(bits, abs=0.1)


@pytest.mark.parametrize("curvature", [0.0, 1e-25, 1e12])
def test_no_curvature_is_out_of_range(curvature):
    rate = RateEstimate(gaussian_plan(RATE, curvature))
    knob = rate.knob(3.0)
    assert rate.bits(knob) == pytest.approx(3.0, abs=1e-3)
    assert rate.bits(2 * knob) > rate.bits(4 * knob) > 0
    assert rate.bits(rate.knob(1e-7)) < 0.1


def test_the_clip_rule_keeps_its_limits():
    rate = RateEstimate(gaussian_plan(CLIP))
    assert rate.knob(12.0) == CLIP.min_clip_std
    assert rate.knob(1e-7) == CLIP.max_clip_std
