"""Arm B of the quantization benchmark must stay as wrong as the programs that it stands for."""

import json

import pytest
import torch
from safetensors import safe_open

from benchmarks.quantization.published_solver import published_solve, published_step
from pipeline.quant.gptq import proxy_loss, round_to_nearest


def test_real_layers_reach_the_published_losses(shared):
    with safe_open(shared / "fixtures" / "gptq_layers.safetensors", "pt") as file:
        layers = {name: json.loads(figures) for name, figures in file.metadata().items()}
        assert len(layers) == 3
        for name, stored in layers.items():
            weight_RC, hessian_CC = file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.hessian")
            step_R = published_step(weight_RC, 31)
            # The stored figures of nearest rounding use the stored step; the solver's codes do not.
            nearest_RC = round_to_nearest(weight_RC, step_R.half(), 31)
            nearest = proxy_loss(weight_RC, nearest_RC, step_R.half(), hessian_CC)
            assert nearest == pytest.approx(stored["rtn_at_that_scale"], rel=1e-6), name
            solved = proxy_loss(
                weight_RC, published_solve(weight_RC, hessian_CC, step_R, 31), step_R.half(), hessian_CC
            )
            # Two layers agree to 1e-9; in one a tie goes the other way and the raw inverse spreads it: 3e-4.
            assert solved == pytest.approx(stored["raw_inverse_ascending"], rel=1e-3), name


def test_step_has_the_published_floor_and_clips_by_quantile():
    weight_RC = 0.01 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(published_step(weight_RC, 15), torch.full((4,), 1 / 15))
    # Above the floor: one outlier is cheaper clipped than a grid that spans it.
    weight_RC = torch.linspace(-30, 30, 5001)[None].clone()
    weight_RC[0, 0] = 40
    assert 1.9 < float(published_step(weight_RC, 15)) < 40 / 15


def test_codes_keep_the_column_order():
    generator = torch.Generator().manual_seed(1)
    weight_RC, x = torch.randn(6, 150, generator=generator), torch.randn(400, 150, generator=generator)
    hessian_CC = x.T @ x / 400
    step_R = published_step(weight_RC, 15)
    codes_RC = published_solve(weight_RC, hessian_CC, step_R, 15)
    assert float((weight_RC - codes_RC * step_R[:, None]).abs().mean()) < float(step_R.max())
    order = torch.randperm(150, generator=generator)
    permuted = published_solve(weight_RC[:, order], hessian_CC[order][:, order], step_R, 15)
    assert float((permuted == codes_RC[:, order]).double().mean()) > 0.99
