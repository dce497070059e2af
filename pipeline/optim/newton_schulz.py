"""Newton-Schulz iterations: a matrix's singular values pushed towards one by matrix products alone.

The one idea: an odd polynomial of a matrix, x -> a x + b (x x^T) x + c (x x^T)^2 x, acts on its singular values and
leaves its singular vectors, so a few of them that lift (0, 1] close to one replace an SVD. `classic` repeats one
polynomial, the steepest at zero that stays near one. `polar-express` takes at every iteration the polynomial that is
best for the range of singular values the ones before it leave; it ends closer to one and lifts smaller values.

    after 5 iterations, singular values over the Frobenius norm    from 1e-3           from 1e-2
    classic                                                        0.47 to 1.20        0.68 to 1.13
    polar-express                                                  0.85 to 1.12        0.87 to 1.12

Axes: S matrices of a stack, R the shorter and C the longer side of a matrix.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), the quintic; N. Amsel et
    al., "The Polar Express" (2025, arXiv 2505.16932), algorithm 1: lower bound 1e-3, cushion 0.02407, polynomials
    evaluated at x / 1.01 against rounding.
Differs: the Frobenius norm is taken in fp32, before any cast to bf16. Products of symmetric matrices are computed whole
    and iterations on the Gram matrix are not used: the first gains nothing on wide matrices, the second loses accuracy
    in bf16 on matrices of small stable rank, as gradients are.
Checked by: tests/optim/test_newton_schulz.py.
"""

import torch
from torch import Tensor

from pipeline.base.checks import require

Quintic = tuple[float, float, float]
"""a, b, c of x -> a x + b x^3 + c x^5."""

_CLASSIC: Quintic = (3.4445, -4.7750, 2.0315)
_POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_CONVERGED: Quintic = (1.875, -1.25, 0.375)
"""The limit of the polynomials above: one is a fixed point of third order."""
_SAFETY = 1.01
_SMALLEST_NORM = 1e-7


def newton_schulz_quintics(kind: str, num_iterations: int) -> list[Quintic]:
    """Return the polynomial of every iteration; `kind` is classic or polar-express.

    Raises ValueError for another kind.
    """
    require(kind in ("classic", "polar-express"), "newton_schulz", kind, "classic or polar-express")
    if kind == "classic":
        return [_CLASSIC] * num_iterations
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS[:num_iterations]]
    return safe + [_CONVERGED] * (num_iterations - len(safe))


def orthogonalise_stack(matrices_SRC: Tensor, quintics: list[Quintic], dtype: torch.dtype) -> Tensor:
    """Return a stack with the singular vectors of `matrices_SRC` and singular values near one, computed in `dtype`.

    Every matrix must be at least as wide as it is high (rows <= columns), where the Gram matrix is the small one.
    A zero matrix stays zero. Singular values far below 1e-3 of the matrix's norm do not reach one in five iterations.
    """
    assert matrices_SRC.shape[-2] <= matrices_SRC.shape[-1], "the caller transposes tall matrices"
    norm_S11 = torch.linalg.vector_norm(matrices_SRC, dim=(-2, -1), keepdim=True).clamp_(min=_SMALLEST_NORM)
    x_SRC = (matrices_SRC / norm_S11).to(dtype)
    for a, b, c in quintics:
        gram_SRR = x_SRC @ x_SRC.mT
        cubic_SRR = torch.baddbmm(gram_SRR, gram_SRR, gram_SRR, beta=b, alpha=c)
        x_SRC = torch.baddbmm(x_SRC, cubic_SRR, x_SRC, beta=a)
    return x_SRC
