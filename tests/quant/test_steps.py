"""The rate rule's steps: what each is for, on numbers small enough to check by hand."""

import math

import pytest
import torch

from pipeline.quant.curvature import conditional_variance, visit_pool
from pipeline.quant.gptq import factorise
from pipeline.quant.steps import rate_factor, tempered_curvature


def test_a_step_shrinks_with_the_root_of_the_curvature_and_grows_with_the_knob():
    factor = rate_factor(torch.tensor([1.0, 4.0, 64.0]), 0.5)
    assert factor.tolist() == [0.5, 0.25, 0.0625]
    assert torch.equal(rate_factor(torch.tensor([1.0, 4.0, 64.0]), 1.0), 2 * factor)


def test_factors_lie_on_the_grid_and_survive_float16():
    curvature = torch.logspace(-6, 3, 200)
    factor = rate_factor(curvature, 0.01)
    assert torch.equal(factor.half().float(), factor)
    octaves = 8 * torch.log2(factor.double())
    assert (octaves - octaves.round()).abs().max() < 0.01  # float16 keeps eleven bits
    assert (torch.log2(factor / (0.01 * curvature**-0.5)).abs() < 0.0633).all()
    assert len(factor.unique()) < 200


def test_curvatures_that_are_zero_or_huge_give_positive_finite_steps():
    factor = rate_factor(torch.tensor([0.0, 1e30, 1e-40]), 1.0)
    assert (factor > 0).all()
    assert torch.isfinite(factor).all()


def test_tempering_keeps_the_optimal_level():
    """At an exponent below 1 the common factor minimises loss + lambda bits: found here by search."""
    curvature = torch.tensor([0.1, 1.0, 3.0, 20.0], dtype=torch.float64)
    for exponent in (0.0, 0.5, 1.0):
        tempered = tempered_curvature(curvature, exponent)
        ratio = tempered / tempered[0]
        torch.testing.assert_close(ratio, (curvature / curvature[0]) ** exponent)
        levels = torch.logspace(-3, 3, 6001, dtype=torch.float64)
        squares = levels[:, None] / ratio
        costs = (curvature * squares).mean(1) - torch.log(squares).mean(1)
        assert float(levels[costs.argmin()]) == pytest.approx(1 / float(tempered[0]), rel=2e-3)


def test_the_conditional_variance_is_what_other_columns_cannot_explain():
    """Two inputs of correlation rho: the one that comes last keeps its variance, the first keeps 1 - rho^2 of it."""
    rho = 0.8
    hessian = torch.tensor([[2.0, rho * math.sqrt(2)], [rho * math.sqrt(2), 1.0]])
    variance = conditional_variance(factorise(hessian, 1e-9))
    assert variance.tolist() == pytest.approx([2 * (1 - rho**2), 1.0], rel=1e-6)
    dead = conditional_variance(factorise(torch.diag(torch.tensor([0.0, 3.0])), 1e-9))
    assert dead.tolist() == pytest.approx([0.0, 3.0], rel=1e-6)


def test_visits_count_by_the_sensitivity_of_all_rows_that_read_them():
    rows = [torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[2.0], [3.0]])]
    assert visit_pool("sensitivity", rows, 2, "site") == [2.0, 5.0]
    assert visit_pool("sensitivity", [torch.zeros(2, 3)], 2, "site") is None
    assert visit_pool("tokens", [], 2, "site") is None
    assert visit_pool((1.0, 0.5, 4.0), [], 2, "site") == [1.0, 0.5]
    assert visit_pool((2.0,), [], 1, "site") is None
