"""The schedule at its corners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.optim.lr_schedule import budget_progress, lr_scale, momentum_at

STEPS = {"max_steps": 100, "max_seconds": None, "warmup_steps": 10, "warmdown_frac": 0.4, "min_lr_frac": 0.0}
CLOCK = STEPS | {"max_steps": None, "max_seconds": 50.0}


STEP_CORNERS = [(0, 0.1), (8, 0.9), (9, 1.0), (10, 1.0), (60, 1.0), (61, 0.975), (80, 0.5), (99, 0.025)]


@pytest.mark.parametrize(("step", "expected"), STEP_CORNERS)
def test_corners_of_a_step_budget(step: int, expected: float) -> None:
    assert lr_scale(step, 1e9, **STEPS) == pytest.approx(expected)


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1.0), (30, 1.0), (40, 0.5), (49.9, 0.005), (51, 0.0)])
def test_corners_of_a_clock_budget(seconds: float, expected: float) -> None:
    assert lr_scale(10**6, seconds, **CLOCK) == pytest.approx(expected)


def test_with_both_budgets_the_one_further_spent_decides() -> None:
    both = STEPS | {"max_seconds": 50.0}
    assert lr_scale(20, 40.0, **both) == pytest.approx(0.5), "the clock"
    assert lr_scale(80, 10.0, **both) == pytest.approx(0.5), "the steps"
    assert budget_progress(20, 40.0, max_steps=100, max_seconds=50.0) == pytest.approx(0.8)


def test_without_warm_up_or_warm_down_the_scale_is_one() -> None:
    flat = STEPS | {"warmup_steps": 0, "warmdown_frac": 0.0}
    assert {lr_scale(step, 0.0, **flat) for step in range(100)} == {1.0}


def test_warm_down_over_the_whole_budget_meets_the_warm_up() -> None:
    whole = STEPS | {"warmdown_frac": 1.0}
    scales = [lr_scale(step, 0.0, **whole) for step in range(100)]
    assert scales.index(max(scales)) == 9
    assert scales[50] == pytest.approx(0.5)
    assert scales[99] == pytest.approx(0.01)


def test_the_floor_is_a_share_of_the_peak() -> None:
    floored = STEPS | {"min_lr_frac": 0.1}
    assert lr_scale(80, 0.0, **floored) == pytest.approx(0.55)
    assert lr_scale(99, 0.0, **floored) == pytest.approx(0.1 + 0.9 * 0.025)
    assert lr_scale(0, 0.0, **floored) == pytest.approx(0.1), "warm-up ignores the floor"


@given(max_steps=st.integers(1, 5000), warmup_steps=st.integers(0, 300), warmdown_frac=st.floats(0, 1),
       min_lr_frac=st.floats(0, 1))  # fmt: skip
def test_no_step_is_wasted(max_steps: int, warmup_steps: int, warmdown_frac: float, min_lr_frac: float) -> None:
    """Every step of a run trains, the last one included, and the last is the smallest of the warm-down."""

    def scale(step: int) -> float:
        return lr_scale(step, 0.0, max_steps=max_steps, max_seconds=None, warmup_steps=warmup_steps,
                        warmdown_frac=warmdown_frac, min_lr_frac=min_lr_frac)  # fmt: skip

    scales = [scale(step) for step in range(max_steps)]
    assert all(0 < value <= 1 for value in scales)
    falling = scales[min(warmup_steps, max_steps - 1) :]
    assert falling == sorted(falling, reverse=True)


def test_momentum() -> None:
    settings = {"start": 0.85, "end": 0.95, "warmup_steps": 100}
    assert momentum_at(0, **settings) == 0.85
    assert momentum_at(50, **settings) == pytest.approx(0.9)
    assert momentum_at(100, **settings) == momentum_at(10**6, **settings) == pytest.approx(0.95)
    assert momentum_at(0, start=0.85, end=0.95, warmup_steps=0) == pytest.approx(0.95), "no warm-up"
