"""The bound against closed forms and against a code that cannot beat it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.quantization.bound import code_bits, gaussian_bits, water_filling_bits
from pipeline.base.config import load_params
from pipeline.codec.container import QuantizedTensor
from pipeline.codec.integers import IntegerWriter
from pipeline.codec.tables import TABLE_BITS
from pipeline.quant.fit import quantize_plan
from pipeline.quant.gptq import factorise
from pipeline.quant.plan import QuantizationPlan, TensorGroup
from pipeline.quant.steps import RateGrids


def test_fine_errors_cost_half_a_logarithm_of_the_mean_ratio():
    variance_N = torch.tensor([4.0, 1.0, 16.0], dtype=torch.float64)
    bits = 0.5 * sum(math.log2(variance / 0.25) for variance in variance_N.tolist())
    assert water_filling_bits(variance_N, 0.75) == pytest.approx(bits)


def test_what_is_below_the_water_gets_no_bits():
    variance_N = torch.tensor([0.1, 8.0], dtype=torch.float64)
    assert water_filling_bits(variance_N, 0.1 + 2.0) == pytest.approx(1)
    assert water_filling_bits(variance_N, 8.1) == pytest.approx(0)
    assert water_filling_bits(variance_N, 9.0) == pytest.approx(0)


@pytest.mark.parametrize("states", [None, 8])
def test_the_bound_of_correlated_inputs_is_that_of_their_innovations(repo, states):
    """Whatever the inputs, Gaussians of this spread on fine grids of step D want log2(spread / D) + log2(12) / 2."""
    generator = torch.Generator().manual_seed(0)
    mixed_CC = torch.randn(48, 96, generator=generator) + 1
    hessian_CC = mixed_CC @ mixed_CC.T / 96
    spread_R = torch.exp(0.5 * torch.randn(512, 1, generator=generator))
    weight_RC = torch.randn(512, 48, generator=generator) * spread_R
    steps = RateGrids(weight_RC, torch.full((512,), 1e-8), None)
    group = TensorGroup(("w",), (512,), "matrix", weight_RC, factorise(hessian_CC, 0.01), steps)
    config = load_params(repo / "params.yaml", ["quantize"]).quantize
    plan = QuantizationPlan((group,), {}, ("w",), dataclasses.replace(config, trellis_states=states))
    tensors = quantize_plan(plan, 1e-5)
    whole = float(tensors["w"].step[0]) * (2 if states else 1)
    bits = gaussian_bits(plan, tensors) / weight_RC.numel()
    # Logarithms of 512 sample variances of 48 elements each are a little below those of the true ones; 8 states leave
    # 0.79 of the squared error of rounding.
    wanted = float((spread_R / whole).log2().mean()) + 0.5 * math.log2(12) - 0.015
    assert bits == pytest.approx(wanted + (0.5 * math.log2(1 / 0.79) if states else 0), abs=0.01)
    # A uniform error wastes log2(2 pi e / 12) / 2; paths of 128 rows get 0.17 of it back.
    wasted = 0.5 * math.log2(2 * math.pi * math.e / 12) - (0.5 * math.log2(1 / 0.79) if states else 0)
    assert code_bits(tensors) / weight_RC.numel() - bits == pytest.approx(wasted, abs=0.015)


def test_bits_of_codes_are_theirs_alone():
    scale_R1 = np.where(np.arange(64) % 10, 0.5, 50)[:, None]
    code_RC = np.rint(np.random.default_rng(0).normal(size=(64, 200)) * scale_R1).astype(np.int16)
    writer = IntegerWriter()
    writer.add_matrix(code_RC)
    assert any(excess_N.any() for excess_N in writer.excess[:4])  # row indices further apart than their symbols
    codelength = sum(float(np.sum(TABLE_BITS - np.log2(frequency_N))) for _, frequency_N in writer.runs[4:])
    tensor = QuantizedTensor(code_RC, np.ones(64, np.float16))
    assert code_bits({"w": tensor, "b": np.ones(3, np.float16)}) == pytest.approx(codelength)
