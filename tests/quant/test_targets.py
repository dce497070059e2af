"""Sequential targets against least squares on the activations themselves, in float64."""

import pytest
import torch

from pipeline.quant.targets import sequential_target


@pytest.fixture(scope="module")
def activations():
    """Return inputs of the float network and, correlated with them, of the quantized one; the last column is dead."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    y_NC = torch.randn(300, 6, dtype=torch.float64, generator=generator) @ mixing
    x_NC = y_NC @ (torch.eye(6) + 0.2 * mixing) + 0.3 * torch.randn(300, 6, dtype=torch.float64, generator=generator)
    x_NC[:, -1] = 0.0
    return y_NC, x_NC


@pytest.mark.parametrize("damping", [0.4, 3.0])
def test_an_error_from_the_target_costs_what_the_outputs_lose(activations, damping):
    """mean |W y - Q x|^2 + damping |W - Q|^2 is tr((T - Q) (H + damping) (T - Q)^T) and a constant, whatever Q."""
    y_NC, x_NC = activations
    weight_RC = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    hessian_CC, cross_CC = x_NC.T @ x_NC / len(x_NC), y_NC.T @ x_NC / len(x_NC)
    target_RC = sequential_target(weight_RC, cross_CC, hessian_CC, damping, 1.0).double()
    damped_CC = hessian_CC + damping * torch.eye(6, dtype=torch.float64)
    constants = []
    for seed in range(5):
        codes_RC = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(10 + seed)).round()
        lost_NR = y_NC @ weight_RC.double().T - x_NC @ codes_RC.T
        direct = lost_NR.square().sum() / len(x_NC) + damping * (weight_RC - codes_RC).square().sum()
        error_RC = target_RC - codes_RC
        constants.append(float(direct - ((error_RC @ damped_CC) * error_RC).sum()))
    # The target is float32: a relative 1e-7 of objectives of some hundreds.
    assert max(constants) - min(constants) < 1e-4
    assert min(constants) > 0
    # A column that is always zero says nothing about its weights.
    torch.testing.assert_close(target_RC[:, -1], weight_RC[:, -1].double())


def test_the_share_goes_from_the_weights_to_the_target_and_equal_inputs_move_nothing(activations):
    y_NC, x_NC = activations
    weight_RC = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    hessian_CC, cross_CC = x_NC.T @ x_NC / len(x_NC), y_NC.T @ x_NC / len(x_NC)
    none, half, whole = (sequential_target(weight_RC, cross_CC, hessian_CC, 0.1, share) for share in (0.0, 0.5, 1.0))
    assert torch.equal(none, weight_RC)
    torch.testing.assert_close(half, (weight_RC + whole) / 2)
    assert (whole - weight_RC).norm() > 0.1 * weight_RC.norm()
    assert torch.equal(sequential_target(weight_RC, hessian_CC, hessian_CC, 0.1, 1.0), weight_RC)
    nothing_CC = torch.zeros(6, 6, dtype=torch.float64)
    assert torch.equal(sequential_target(weight_RC, nothing_CC, nothing_CC, 0.0, 1.0), weight_RC)
