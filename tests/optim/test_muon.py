"""Muon against torch.optim.Muon (one matrix at a time, bf16) and against the float64 polar factor."""

import pytest
import torch

from pipeline.optim.muon import QUINTIC_COEFFICIENTS, Muon, orthogonalise_stack

SHAPES = [(24, 24), (24, 24), (48, 24), (24, 48), (8, 40), (40, 8), (3, 32)]


def matrices_with_gradients(steps: int) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return weights, [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(steps)]


def run(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], gradients: list[list[torch.Tensor]]) -> None:
    for step_gradients in gradients:
        for weight, gradient in zip(weights, step_gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_agrees_with_torch_muon(momentum: float) -> None:
    """Same nesterov, scale and decay; only bf16 rounding differs: the norm is taken in fp32, products are batched."""
    initial, gradients = matrices_with_gradients(steps=4)
    lr = 0.05
    ours, theirs = [w.clone() for w in initial], [w.clone() for w in initial]
    run(Muon(ours, lr=lr, momentum=momentum, weight_decay=0.1, newton_schulz_steps=5), ours, gradients)
    reference = torch.optim.Muon(theirs, lr=lr, momentum=momentum, weight_decay=0.1, nesterov=True, ns_steps=5,
                                 ns_coefficients=QUINTIC_COEFFICIENTS, adjust_lr_fn="original")  # fmt: skip
    run(reference, theirs, gradients)
    for start, got, expected in zip(initial, ours, theirs, strict=True):
        # Five iterations amplify bf16's 2^-9.
        assert (got - expected).norm() < 0.03 * (expected - start).norm()


def test_orthogonalised_spectrum_against_float64_svd() -> None:
    """Same singular vectors as the float64 polar factor, singular values in the band of the quintic iteration."""
    generator = torch.Generator().manual_seed(2)
    stack_SRC = torch.randn(3, 16, 64, generator=generator)
    got_SRC = orthogonalise_stack(stack_SRC, num_iterations=5).double()
    left_SRR, _, right_SRC = torch.linalg.svd(stack_SRC.double(), full_matrices=False)
    singular_SRR = left_SRR.mT @ got_SRC @ right_SRC.mT
    diagonal_SR = singular_SRR.diagonal(dim1=-2, dim2=-1)
    assert diagonal_SR.min() > 0.65
    assert diagonal_SR.max() < 1.25
    assert (singular_SRR - torch.diag_embed(diagonal_SR)).abs().max() < 0.03, "singular vectors turned"


def test_stack_equals_one_at_a_time() -> None:
    """Batching changes nothing beyond bf16 rounding."""
    stack_SRC = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(3))
    together = orthogonalise_stack(stack_SRC, 5)
    alone = torch.cat([orthogonalise_stack(matrix[None], 5) for matrix in stack_SRC])
    torch.testing.assert_close(together.float(), alone.float(), atol=0.03, rtol=0)


def test_a_tall_matrix_moves_like_its_transpose_up_to_the_scale() -> None:
    tall, wide = torch.zeros(40, 10), torch.zeros(10, 40)
    gradient = torch.randn(40, 10, generator=torch.Generator().manual_seed(4))
    run(Muon([tall], lr=1.0, momentum=0.9, weight_decay=0.0, newton_schulz_steps=5), [tall], [[gradient]])
    run(Muon([wide], lr=1.0, momentum=0.9, weight_decay=0.0, newton_schulz_steps=5), [wide], [[gradient.T.clone()]])
    torch.testing.assert_close(tall, 2.0 * wide.T)  # sqrt(40 / 10)


def test_update_ignores_the_scale_of_the_gradient() -> None:
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    moved = []
    for factor in (1.0, 2.0**-20):
        weight = torch.zeros(8, 8)
        run(Muon([weight], lr=1.0, momentum=0.9, weight_decay=0.0, newton_schulz_steps=5), [weight],
            [[gradient * factor]])  # fmt: skip
        moved.append(weight)
    torch.testing.assert_close(moved[0], moved[1])


def test_zero_and_absent_gradients() -> None:
    """A zero gradient only decays the weight; a weight without a gradient stays as it is."""
    decayed, untouched = torch.ones(4, 6), torch.ones(4, 6)
    optimizer = Muon([decayed, untouched], lr=0.1, momentum=0.9, weight_decay=0.5, newton_schulz_steps=5)
    decayed.grad = torch.zeros(4, 6)
    optimizer.step()
    torch.testing.assert_close(decayed, torch.full((4, 6), 0.95))
    assert torch.equal(untouched, torch.ones(4, 6))


def test_state_survives_a_state_dict() -> None:
    """A restored optimizer continues bit for bit."""
    initial, gradients = matrices_with_gradients(steps=3)
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "newton_schulz_steps": 5}
    whole = [w.clone() for w in initial]
    run(Muon(whole, **settings), whole, gradients)
    split = [w.clone() for w in initial]
    first = Muon(split, **settings)
    run(first, split, gradients[:1])
    second = Muon(split, **settings)
    second.load_state_dict(first.state_dict())
    run(second, split, gradients[1:])
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


def test_refuses_a_vector() -> None:
    with pytest.raises(ValueError, match="a matrix"):
        Muon([torch.zeros(3)], lr=0.1, momentum=0.9, weight_decay=0.0, newton_schulz_steps=5)
