"""Newton-Schulz against the float64 polar factor, and the two sets of coefficients against each other."""

import pytest
import torch

from pipeline.optim.newton_schulz import newton_schulz_quintics, orthogonalise_stack

KINDS = ["classic", "polar-express"]


def lifted(kind: str, num_iterations: int, lowest: float) -> torch.Tensor:
    """Return where the iteration takes singular values from `lowest` to one, in float64."""
    values = torch.logspace(torch.tensor(lowest).log10().item(), 0, 4001, dtype=torch.float64)
    for a, b, c in newton_schulz_quintics(kind, num_iterations):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 0.03), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_spectrum_against_float64_svd(kind: str, dtype: torch.dtype, rounding: float) -> None:
    """Same singular vectors as the polar factor, singular values in the band of the polynomials."""
    generator = torch.Generator().manual_seed(2)
    stack_SRC = torch.randn(3, 16, 64, generator=generator)
    got_SRC = orthogonalise_stack(stack_SRC, newton_schulz_quintics(kind, 5), dtype)
    assert got_SRC.dtype == dtype
    got_SRC = got_SRC.double()
    left_SRR, _, right_SRC = torch.linalg.svd(stack_SRC.double(), full_matrices=False)
    singular_SRR = left_SRR.mT @ got_SRC @ right_SRC.mT
    diagonal_SR = singular_SRR.diagonal(dim1=-2, dim2=-1)
    band = lifted(kind, 5, 0.05)
    assert diagonal_SR.min() > band.min() - rounding, "bf16 rounds to 2^-9, amplified by the iterations"
    assert diagonal_SR.max() < band.max() + rounding
    assert (singular_SRR - torch.diag_embed(diagonal_SR)).abs().max() < rounding, "singular vectors turned"


@pytest.mark.parametrize("lowest", [1e-3, 1e-2])
def test_polar_express_ends_closer_to_one_than_classic(lowest: float) -> None:
    """The figures of the module's table, and in bf16 on a matrix whose spectrum falls as a gradient's does."""
    distance = {kind: (lifted(kind, 5, lowest) - 1).abs().max() for kind in KINDS}
    assert distance["polar-express"] < 0.16 < 0.3 < distance["classic"]
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=generator))[0] for _ in range(2))
    matrix = left @ torch.diag(torch.logspace(0, torch.tensor(lowest).log10().item() + 0.5, 64)) @ right
    got = {kind: orthogonalise_stack(matrix[None], newton_schulz_quintics(kind, 5), torch.bfloat16) for kind in KINDS}
    error = {kind: (got_1RC[0].float() - left @ right).norm() for kind, got_1RC in got.items()}
    assert error["polar-express"] < 0.8 * error["classic"]


def test_more_iterations_of_polar_express_converge() -> None:
    """Five, then the limit polynomial: the error falls with its third power each time."""
    distances = [(lifted("polar-express", count, 1e-3) - 1).abs().max().item() for count in (5, 6, 7)]
    assert distances[0] < 0.16
    assert distances[1] < 3 * distances[0] ** 3
    assert distances[2] < 1e-5


def test_classic_repeats_the_published_quintic() -> None:
    """Which is also torch.optim.Muon's default."""
    assert newton_schulz_quintics("classic", 3) == [(3.4445, -4.7750, 2.0315)] * 3


def test_stack_equals_one_at_a_time() -> None:
    """Batching changes nothing beyond bf16 rounding."""
    stack_SRC = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(3))
    quintics = newton_schulz_quintics("classic", 5)
    together = orthogonalise_stack(stack_SRC, quintics, torch.bfloat16)
    alone = torch.cat([orthogonalise_stack(matrix[None], quintics, torch.bfloat16) for matrix in stack_SRC])
    torch.testing.assert_close(together.float(), alone.float(), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_matrix_stays_zero(kind: str) -> None:
    assert not orthogonalise_stack(torch.zeros(2, 3, 4), newton_schulz_quintics(kind, 5), torch.bfloat16).any()


def test_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="newton_schulz: got 'quintic', expected classic or polar-express"):
        newton_schulz_quintics("quintic", 5)
