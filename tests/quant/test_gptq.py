"""The solver against brute force, its invariants, and stored figures of real layers."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pipeline.quant.gptq import (
    HessianError,
    factorise,
    proxy_loss,
    quantize_matrix,
    quantize_matrix_with_losses,
    round_to_nearest,
    solve,
    solve_stack,
)
from pipeline.quant.steps import SMALLEST_STEP, sdclip_step

_spec = importlib.util.spec_from_file_location("oracle_obq", Path(__file__).with_name("oracle_obq.py"))
oracle_obq = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle_obq)


def layer(rows=12, columns=40, seed=0, samples=200):
    """Return a weight, the correlated second moment of its inputs, and SDClip steps."""
    generator = torch.Generator().manual_seed(seed)
    weight_RC = torch.randn(rows, columns, generator=generator)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -1.5, columns)
    x = torch.randn(samples, columns, generator=generator) @ mix
    hessian_CC = x.T @ x / samples
    # Some processors' products are symmetric up to rounding only.
    return weight_RC, (hessian_CC + hessian_CC.T) / 2, sdclip_step(weight_RC, 3.0, 7)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_obq(seed):
    weight_RC, hessian_CC, step_R = layer(seed=seed)
    if seed == 3:
        hessian_CC[:, 5] = hessian_CC[5, :] = 0
    expected = oracle_obq.brute_force_obq(weight_RC.numpy(), hessian_CC.numpy(), step_R.double().numpy(), 7, 0.02)
    codes_RC = quantize_matrix(weight_RC, hessian_CC, step_R, 7, damp_frac=0.02, block_columns=16)
    assert torch.equal(codes_RC, torch.from_numpy(expected))


@pytest.mark.parametrize("block_columns", [1, 3, 16, 39, 40, 1000])
def test_block_size_changes_no_code(block_columns):
    weight_RC, hessian_CC, step_R = layer(rows=30)
    reference = quantize_matrix(weight_RC, hessian_CC, step_R, 7)
    assert torch.equal(quantize_matrix(weight_RC, hessian_CC, step_R, 7, block_columns=block_columns), reference)


def test_stacking_rows_changes_no_code():
    weight_RC, hessian_CC, step_R = layer(rows=30)
    parts = [quantize_matrix(weight_RC[i : i + 10], hessian_CC, step_R[i : i + 10], 7) for i in (0, 10, 20)]
    assert torch.equal(torch.cat(parts), quantize_matrix(weight_RC, hessian_CC, step_R, 7))


def test_reordering_columns_reorders_codes():
    weight_RC, hessian_CC, step_R = layer()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    permuted = quantize_matrix(weight_RC[:, order], hessian_CC[order][:, order], step_R, 7)
    assert torch.equal(permuted, quantize_matrix(weight_RC, hessian_CC, step_R, 7)[:, order])


def test_step_per_entry_equals_step_per_row():
    weight_RC, hessian_CC, step_R = layer()
    step_RC = step_R[:, None].repeat(1, 40)
    per_row = quantize_matrix(weight_RC, hessian_CC, step_R, 7)
    assert torch.equal(quantize_matrix(weight_RC, hessian_CC, step_RC, 7), per_row)
    step_RC[:, 20:] *= 2  # a column's step must follow it through act-order
    reverse = torch.arange(39, -1, -1)
    mirrored = quantize_matrix(weight_RC[:, reverse], hessian_CC[reverse][:, reverse], step_RC[:, reverse], 7)
    assert torch.equal(mirrored[:, reverse], quantize_matrix(weight_RC, hessian_CC, step_RC, 7))


def test_scaled_errors_sum_to_the_damped_loss():
    """The sum over columns of |e_j|^2 V_jj^2, e_j the error at j's own turn, is tr(E (H + damping) E^T)."""
    weight_RC, hessian_CC, step_R = layer()
    factor = factorise(hessian_CC, 0.01)
    codes_RC = solve(weight_RC, factor, step_R, 7, 16)
    error = (weight_RC.double() - codes_RC * step_R.double()[:, None])[:, factor.order_C]
    own_error = error @ factor.feedback_CC.T  # column j ends at its value less what it pulled
    damped = hessian_CC.double() + factor.damping * torch.eye(40, dtype=torch.float64)
    expected = torch.trace(error @ damped[factor.order_C][:, factor.order_C] @ error.T)
    assert float((own_error.square() * factor.variance_C).sum()) == pytest.approx(float(expected), rel=1e-9)
    # Each error at its own turn is at most half a step unless the grid clipped.
    unclipped = codes_RC[:, factor.order_C].abs() < 7
    assert (own_error.abs() <= 0.5 * step_R.double()[:, None] * (1 + 1e-9))[unclipped].all()


def test_factor_reproduces_the_damped_hessian():
    _, hessian_CC, _ = layer()
    factor = factorise(hessian_CC, 0.01)
    damped = hessian_CC.double() + factor.damping * torch.eye(40, dtype=torch.float64)
    transposed_CC = factor.feedback_CC * factor.variance_C.sqrt()[:, None]
    torch.testing.assert_close(transposed_CC.T @ transposed_CC, damped[factor.order_C][:, factor.order_C])
    assert torch.equal(factor.feedback_CC, factor.feedback_CC.tril())
    assert torch.equal(factor.feedback_CC.diagonal(), torch.ones(40, dtype=torch.float64))
    # The paper's U is the upper Cholesky factor of the inverse; its diagonal is the reciprocal of V's.
    upper_CC = torch.linalg.cholesky(torch.linalg.inv(damped)[factor.order_C][:, factor.order_C], upper=True)
    torch.testing.assert_close(factor.variance_C, upper_CC.diagonal() ** -2, rtol=1e-7, atol=0)
    assert factor.damping == pytest.approx(0.01 * float(hessian_CC.double().diagonal().mean()), rel=1e-12)
    assert (hessian_CC.diagonal()[factor.order_C].diff() <= 0).all()


def stack_of_layers(num, rows=24, columns=150, dead=()):
    """Return weights, factors and steps by row and by entry of layers; the n-th has the n-th set of dead columns."""
    layers = [layer(rows, columns, seed) for seed in range(num)]
    for (_, hessian_CC, _), columns_dead in zip(layers, dead, strict=False):
        hessian_CC[columns_dead] = 0
        hessian_CC[:, columns_dead] = 0
    weights, hessians, steps = zip(*layers, strict=True)
    column_C = 2.0 ** (torch.arange(columns) % 5 - 2)
    return weights, [factorise(h, 0.01) for h in hessians], steps, [step_R[:, None] * column_C for step_R in steps]


@pytest.mark.parametrize("block_columns", [1, 16, 40, 128])
def test_a_stack_is_its_matrices_each_alone(block_columns):
    """Exactly: no operation mixes matrices, and none is rounded differently for lying in a larger stack."""
    weights, factors, by_row, by_entry = stack_of_layers(5)
    for steps in (by_row, by_entry):
        stacked = solve_stack(weights, factors, steps, 7, block_columns)
        for codes_RC, *alone in zip(stacked, weights, factors, steps, strict=True):
            assert torch.equal(codes_RC, solve(*alone, 7, 128))


def test_dead_columns_of_one_matrix_are_not_those_of_its_neighbour():
    dead = [[0, 7, 149], [], list(range(150)), [3]]
    weights, factors, steps, _ = stack_of_layers(4, dead=dead)
    stacked = solve_stack(weights, factors, steps, 7, 32)
    for codes_RC, columns, weight_RC, factor, step_R in zip(stacked, dead, weights, factors, steps, strict=True):
        assert (codes_RC[:, columns] == 0).all()
        assert torch.equal(codes_RC, solve(weight_RC, factor, step_R, 7, 128))
        assert factor.order_C[150 - len(columns) :].sort().values.tolist() == columns
        assert codes_RC.count_nonzero() > 0 or len(columns) == 150


def test_codes_do_not_depend_on_the_number_of_threads():
    weights, factors, steps, _ = stack_of_layers(2, rows=300, columns=200)
    threads = torch.get_num_threads()
    codes = []
    try:
        for num in (1, 2):
            torch.set_num_threads(num)
            codes.append(torch.stack(solve_stack(weights, factors, steps, 7, 64)))
            assert torch.get_num_threads() == num
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*codes)


def test_identity_hessian_is_nearest_rounding_half_to_even():
    weight_RC = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 9.0, 0.4]])
    codes_RC = quantize_matrix(weight_RC, torch.eye(7), torch.ones(1), 7)
    assert codes_RC.tolist() == [[0, 2, 2, 0, -2, 7, 0]]
    weight_RC, _, step_R = layer()
    assert torch.equal(quantize_matrix(weight_RC, torch.eye(40), step_R, 7), round_to_nearest(weight_RC, step_R, 7))


def test_no_clipping_without_max_code():
    codes_RC = quantize_matrix(torch.tensor([[1000.0, -300.0]]), torch.eye(2), torch.ones(1), None)
    assert codes_RC.tolist() == [[1000, -300]]


def test_dead_columns_get_code_zero_and_do_not_enter_the_damping():
    weight_RC, hessian_CC, step_R = layer()
    dead = [0, 7, 39]
    hessian_CC[dead] = 0
    hessian_CC[:, dead] = 0
    live = [c for c in range(40) if c not in dead]
    solution = quantize_matrix_with_losses(weight_RC, hessian_CC, step_R, 7)
    assert (solution.codes_RC[:, dead] == 0).all()
    assert solution.damping == pytest.approx(0.01 * float(hessian_CC.double().diagonal()[live].mean()), rel=1e-12)
    alone = quantize_matrix(weight_RC[:, live], hessian_CC[live][:, live], step_R, 7)
    assert torch.equal(solution.codes_RC[:, live], alone)
    assert (quantize_matrix(weight_RC, torch.zeros(40, 40), step_R, 7) == 0).all()


@pytest.mark.parametrize(
    "hessian_CC",
    [
        -torch.eye(2),
        torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
        torch.tensor([[0.0, 1.0], [1.0, 1.0]]),
        torch.diag(torch.tensor([2.0, 0.0, -1.0])),
        torch.full((2, 2), float("nan")),
    ],
)
def test_indefinite_hessian_is_refused_by_name(hessian_CC):
    with pytest.raises(HessianError, match=r"^blocks\.3\.mlp\.down: "):
        quantize_matrix_with_losses(torch.ones(1, 2), hessian_CC, torch.ones(1), 7, name="blocks.3.mlp.down")


@pytest.mark.parametrize("step", [torch.ones(3), torch.zeros(12), torch.full((12,), float("nan"))])
def test_bad_steps_are_refused(step):
    weight_RC, hessian_CC, _ = layer()
    with pytest.raises(ValueError, match=r"^step: "):
        quantize_matrix(weight_RC, hessian_CC, step, 7)


def test_a_hessian_of_other_columns_is_refused():
    weight_RC, hessian_CC, step_R = layer()
    with pytest.raises(ValueError, match=r"^hessian: got '39 columns', expected 40"):
        quantize_matrix(weight_RC, hessian_CC[1:, 1:], step_R, 7)
    for misshapen in (hessian_CC[1:], torch.ones(()), torch.ones(40)):
        with pytest.raises(ValueError, match=r"^hessian of matrix: .*a square matrix"):
            quantize_matrix(weight_RC, misshapen, step_R, 7)


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_nearest(seed):
    weight_RC, hessian_CC, step_R = layer(rows=40, seed=seed)
    solution = quantize_matrix_with_losses(weight_RC, hessian_CC, step_R, 31)
    assert solution.proxy_loss < 0.9 * solution.nearest_proxy_loss
    assert solution.proxy_loss == proxy_loss(weight_RC, solution.codes_RC, step_R, hessian_CC)


def test_real_layers_reach_the_stored_losses(shared):
    with safe_open(shared / "fixtures" / "gptq_layers.safetensors", "pt") as file:
        for name, figures in file.metadata().items():
            stored = json.loads(figures)
            weight_RC = file.get_tensor(f"{name}.weight")
            step_R = sdclip_step(weight_RC, 12.85, 31)
            solution = quantize_matrix_with_losses(weight_RC, file.get_tensor(f"{name}.hessian"), step_R, 31)
            assert solution.proxy_loss <= 1.001 * stored["gptq_actorder_damp1pct"], name
            assert solution.nearest_proxy_loss == pytest.approx(stored["rtn"], rel=1e-6)


def test_steps_are_positive_stored_values_of_the_unbiased_deviation():
    weight_RC = torch.randn(50, 9, generator=torch.Generator().manual_seed(1))
    weight_RC[3] = 0
    step_R = sdclip_step(weight_RC, 12.85, 31)
    assert torch.equal(step_R, step_R.half().float())
    assert float(step_R[3]) == SMALLEST_STEP
    expected = weight_RC[0].sub(weight_RC[0].mean()).square().sum().div(8).sqrt() * 12.85 / 31
    assert float(step_R[0]) == pytest.approx(float(expected), rel=2**-11)
    with pytest.raises(ValueError, match="float16"):
        sdclip_step(weight_RC * 1e6, 12.85, 31)
