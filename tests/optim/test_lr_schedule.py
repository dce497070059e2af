"""Schedules at their corners: step 0, last step, exact boundaries; by steps, by clock, by both."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.optim.lr_schedule import (
    active_loops_at,
    budget_progress,
    decay_scale,
    lr_scale,
    momentum_at,
    warmdown_left,
)

STEPS: dict[str, Any] = {"max_steps": 100, "max_seconds": None, "warmdown_frac": 0.4, "warmdown_steps": None}
CLOCK = STEPS | {"max_steps": None, "max_seconds": 50.0}
COUNTED = {"warmdown_frac": None, "warmdown_steps": 40}


def scale_at(
    step: int, seconds: float, budget: dict[str, Any], warmup_steps: int = 10, min_lr_frac: float = 0.0
) -> float:
    """Return the learning rate scale of a step."""
    return lr_scale(step, warmdown_left(step, seconds, **budget), warmup_steps=warmup_steps, min_lr_frac=min_lr_frac)


STEP_CORNERS = [(0, 0.1), (8, 0.9), (9, 1.0), (10, 1.0), (60, 1.0), (61, 0.975), (80, 0.5), (99, 0.025)]


@pytest.mark.parametrize("rule", [{}, COUNTED], ids=["share", "steps"])
@pytest.mark.parametrize(("step", "expected"), STEP_CORNERS)
def test_corners_of_a_step_budget(step: int, expected: float, rule: dict[str, Any]) -> None:
    assert scale_at(step, 1e9, STEPS | rule) == pytest.approx(expected)


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1.0), (30, 1.0), (40, 0.5), (49.9, 0.005), (51, 0.0)])
def test_corners_of_a_clock_budget(seconds: float, expected: float) -> None:
    assert scale_at(10**6, seconds, CLOCK) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(60, 1.0), (61, 39 / 40), (80, 0.5), (99, 1 / 40), (100, 0.0)])
def test_a_warm_down_of_steps_on_a_clock_at_constant_speed_is_that_many_steps(step: int, expected: float) -> None:
    """Half a second per step: 100 steps fit, the last 40 of them fall."""
    assert scale_at(step, step * 0.5, CLOCK | COUNTED) == pytest.approx(expected)


def test_a_warm_down_of_steps_on_a_clock_is_the_published_rule() -> None:
    """Remaining seconds over warm-down steps x seconds per step so far, where that is below one."""
    for step, seconds in [(1, 0.9), (7, 20.0), (30, 29.0), (90, 30.1), (500, 49.99)]:
        published = (50.0 - seconds) / (40 * seconds / step)
        assert warmdown_left(step, seconds, **CLOCK | COUNTED) == pytest.approx(min(1.0, published))


def test_before_a_step_is_measured_the_clock_says_nothing() -> None:
    assert warmdown_left(0, 0.0, **CLOCK | COUNTED) == 1.0
    assert warmdown_left(0, 3.0, **CLOCK | COUNTED) == 1.0, "set-up is no step"
    assert warmdown_left(0, 0.0, **STEPS | COUNTED | {"max_seconds": 50.0, "max_steps": 20}) == 0.5, "the steps do"


def test_with_both_budgets_the_one_further_spent_decides() -> None:
    both = STEPS | {"max_seconds": 50.0}
    assert scale_at(20, 40.0, both) == pytest.approx(0.5), "the clock"
    assert scale_at(80, 10.0, both) == pytest.approx(0.5), "the steps"
    assert scale_at(80, 40.0, both | COUNTED) == pytest.approx(0.5), "80 of 100 steps, and 20 more in the seconds left"
    assert scale_at(80, 45.0, both | COUNTED) == pytest.approx(5 / (40 * 45 / 80)), "the clock ends it sooner"
    assert scale_at(80, 10.0, both | COUNTED) == pytest.approx(0.5), "the steps end it sooner"
    assert budget_progress(20, 40.0, max_steps=100, max_seconds=50.0) == pytest.approx(0.8)


def test_without_warm_up_or_warm_down_the_scale_is_one() -> None:
    flat = STEPS | {"warmdown_frac": None}
    assert {scale_at(step, 0.0, flat, warmup_steps=0) for step in range(100)} == {1.0}


def test_warm_down_over_the_whole_budget_meets_the_warm_up() -> None:
    whole = STEPS | {"warmdown_frac": 1.0}
    scales = [scale_at(step, 0.0, whole) for step in range(100)]
    assert scales.index(max(scales)) == 9
    assert scales[50] == pytest.approx(0.5)
    assert scales[99] == pytest.approx(0.01)


def test_the_floor_is_a_share_of_the_peak() -> None:
    assert scale_at(80, 0.0, STEPS, min_lr_frac=0.1) == pytest.approx(0.55)
    assert scale_at(99, 0.0, STEPS, min_lr_frac=0.1) == pytest.approx(0.1 + 0.9 * 0.025)
    assert scale_at(0, 0.0, STEPS, min_lr_frac=0.1) == pytest.approx(0.1), "warm-up ignores the floor"


def test_a_decay_follows_the_warm_down() -> None:
    scales = [decay_scale(warmdown_left(step, 0.0, **STEPS), end_frac=0.2) for step in (0, 60, 80, 100)]
    assert scales == pytest.approx([1.0, 1.0, 0.6, 0.2])
    assert decay_scale(0.3, end_frac=1.0) == 1.0, "constant"


@given(
    max_steps=st.integers(1, 5000),
    warmup_steps=st.integers(0, 300),
    warmdown_frac=st.floats(1e-3, 1),
    min_lr_frac=st.floats(0, 1),
    counted=st.booleans(),
)
def test_no_step_is_wasted(
    max_steps: int, warmup_steps: int, warmdown_frac: float, min_lr_frac: float, counted: bool
) -> None:
    """Every step of a run trains, the last one included, and the last is the smallest of the warm-down."""
    length = {"warmdown_frac": None, "warmdown_steps": math.ceil(warmdown_frac * max_steps)} if counted else {}
    budget = STEPS | {"max_steps": max_steps, "warmdown_frac": warmdown_frac} | length
    scales = [scale_at(step, 0.0, budget, warmup_steps, min_lr_frac) for step in range(max_steps)]
    assert all(0 < value <= 1 for value in scales)
    falling = scales[min(warmup_steps, max_steps - 1) :]
    assert falling == sorted(falling, reverse=True)


def test_momentum() -> None:
    settings = {"start": 0.85, "end": 0.95, "warmup_steps": 100}
    assert momentum_at(0, **settings) == 0.85
    assert momentum_at(50, **settings) == pytest.approx(0.9)
    assert momentum_at(100, **settings) == momentum_at(10**6, **settings) == pytest.approx(0.95)
    assert momentum_at(0, start=0.85, end=0.95, warmup_steps=0) == pytest.approx(0.95), "no warm-up"


def test_loops_switch_on_at_their_share_of_the_budget() -> None:
    stages = [(0.0, 1), (0.35, 2), (0.5, 4)]
    found = [active_loops_at(step, step / 100, stages=stages, all_loops_every_steps=None) for step in range(100)]
    assert found == [1] * 35 + [2] * 15 + [4] * 50
    assert active_loops_at(7, 0.9, stages=[], all_loops_every_steps=None) is None, "all, always"


def test_cadence_runs_the_loops_of_the_stage_in_every_nth_step() -> None:
    found = [active_loops_at(step, 0.0, stages=[], all_loops_every_steps=3) for step in range(7)]
    assert found == [None, 1, 1, None, 1, 1, None]
    stages = [(0.0, 2), (0.5, 3)]
    staged = [active_loops_at(step, step / 8, stages=stages, all_loops_every_steps=2) for step in range(8)]
    assert staged == [2, 1, 2, 1, 3, 1, 3, 1]
