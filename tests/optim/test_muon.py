"""Muon against torch.optim.Muon (one matrix at a time, bf16), row normalisation, state and refusals."""

from typing import Any

import pytest
import torch

from pipeline.optim.muon import Muon

SHAPES = [(24, 24), (24, 24), (48, 24), (24, 48), (8, 40), (40, 8), (3, 32)]


def matrices_with_gradients(steps: int) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return weights, [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(steps)]


def muon(weights: list[torch.Tensor], **changes: Any) -> Muon:
    settings = {
        "lr": 1.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "newton_schulz": "classic",
        "newton_schulz_steps": 5,
        "normalize_rows": False,
        "dtype": torch.bfloat16,
    }
    return Muon(weights, **settings | changes)


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
    run(muon(ours, lr=lr, momentum=momentum, weight_decay=0.1), ours, gradients)
    reference = torch.optim.Muon(
        theirs, lr=lr, momentum=momentum, weight_decay=0.1, nesterov=True, ns_steps=5, adjust_lr_fn="original"
    )
    run(reference, theirs, gradients)
    for start, got, expected in zip(initial, ours, theirs, strict=True):
        # Five iterations amplify bf16's 2^-9.
        assert (got - expected).norm() < 0.03 * (expected - start).norm()


def test_a_tall_matrix_moves_like_its_transpose_up_to_the_scale() -> None:
    tall, wide = torch.zeros(40, 10), torch.zeros(10, 40)
    gradient = torch.randn(40, 10, generator=torch.Generator().manual_seed(4))
    run(muon([tall]), [tall], [[gradient]])
    run(muon([wide]), [wide], [[gradient.T.clone()]])
    torch.testing.assert_close(tall, 2.0 * wide.T)  # sqrt(40 / 10)


def test_update_ignores_the_scale_of_the_gradient() -> None:
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    moved = []
    for factor in (1.0, 2.0**-20):
        weight = torch.zeros(8, 8)
        run(muon([weight]), [weight], [[gradient * factor]])
        moved.append(weight)
    torch.testing.assert_close(moved[0], moved[1])


def test_zero_and_absent_gradients() -> None:
    """A zero gradient only decays the weight; a weight without a gradient stays as it is."""
    decayed, untouched = torch.ones(4, 6), torch.ones(4, 6)
    optimizer = muon([decayed, untouched], lr=0.1, weight_decay=0.5)
    decayed.grad = torch.zeros(4, 6)
    optimizer.step()
    torch.testing.assert_close(decayed, torch.full((4, 6), 0.95))
    assert torch.equal(untouched, torch.ones(4, 6))
    assert untouched not in optimizer.state, "no momentum either"


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_normalised_rows_make_the_scale_of_an_output_feature_irrelevant(shape: tuple[int, int]) -> None:
    """Rows of the weight as stored, wide or tall; columns still matter. Without momentum the gradient is all there is.

    Powers of two leave the normalised rows the same in every bit.
    """
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    moved = {}
    for name, factor in (
        ("plain", torch.ones(1)),
        ("rows", 2.0 ** torch.arange(shape[0])[:, None]),
        ("columns", 2.0 ** torch.arange(shape[1])),
    ):
        moved[name] = torch.zeros(shape)
        run(muon([moved[name]], momentum=0.0, normalize_rows=True), [moved[name]], [[gradient * factor]])
    assert torch.equal(moved["rows"], moved["plain"])
    assert (moved["columns"] - moved["plain"]).norm() > 0.1 * moved["plain"].norm()


def test_polar_express_moves_by_the_polar_factor_of_normalised_rows() -> None:
    """Against a float64 SVD: singular values end within 0.12 of one."""
    gradient = torch.randn(12, 30, generator=torch.Generator().manual_seed(7))
    weight = torch.zeros(12, 30)
    run(muon([weight], momentum=0.0, newton_schulz="polar-express", normalize_rows=True), [weight], [[gradient]])
    rows = gradient.double() / gradient.double().norm(dim=1, keepdim=True)
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    polar = (left @ right).float()
    assert (-weight - polar).norm() < 0.13 * polar.norm()


def test_state_survives_a_state_dict() -> None:
    """A restored optimizer continues bit for bit."""
    initial, gradients = matrices_with_gradients(steps=3)
    whole = [w.clone() for w in initial]
    run(muon(whole), whole, gradients)
    split = [w.clone() for w in initial]
    first = muon(split)
    run(first, split, gradients[:1])
    second = muon(split)
    second.load_state_dict(first.state_dict())
    run(second, split, gradients[1:])
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


def test_refuses_a_vector() -> None:
    with pytest.raises(ValueError, match="a matrix"):
        muon([torch.zeros(3)])
