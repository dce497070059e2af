"""Milliseconds of training steps against published ones, and stages against a run step by step."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.config import load_params
from pipeline.projection.machines import MACHINES, machine_named
from pipeline.projection.training_time import step_seconds, training_stages
from pipeline.training.config import LoopStage
from pipeline.training.contexts import ContextStage
from pipeline.training.regime import settings_at
from tests.networks import TINY, changed
from tests.training.tiny_run import train_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MACHINE = MACHINES["8xh100"]
TOLERANCE = 0.15
"""How far the published steps lie from one factor for all: the scripts are of different years and skills."""
PUBLISHED_MS = {"nightcrawler-7f3c": 149.6, "microcrawler-4f1c": 74.0, "ouroboros-9f1c": 100.85}
FRONTIER_STEPS = 4994
"""Of PR 2135 in the 600 s, of which it says not how many calibration takes: 580 are taken to be training."""


@pytest.mark.parametrize(("name", "published"), PUBLISHED_MS.items())
def test_published_milliseconds_of_a_step_are_met(name: str, published: float) -> None:
    params = load_params(RECIPES / f"{name}.yaml", ["model", "train"])
    seconds = step_seconds(params.model, params.train, MACHINE, None, params.model.context_tokens)
    assert 1000 * seconds == pytest.approx(published, rel=TOLERANCE)


def test_published_steps_of_the_frontier_are_met() -> None:
    params = load_params(RECIPES / "frontier.yaml", ["model", "train"])
    steps = sum(stage.steps for stage in training_stages(params.model, params.train, MACHINE))
    assert steps == pytest.approx(FRONTIER_STEPS, rel=TOLERANCE)


@pytest.mark.parametrize("budget", [{"max_steps": 40, "max_seconds": None}, {"max_steps": None, "max_seconds": 3e-5}])
def test_stages_are_those_of_a_run_step_by_step(budget: dict) -> None:
    train = train_config(
        **budget,
        reserve_seconds=0.0,
        batch_tokens=512,
        loop_stages=(LoopStage(from_frac=0.0, loops=1), LoopStage(from_frac=0.5, loops=3)),
        context_stages=(
            ContextStage(from_frac=0.0, context_tokens=16),
            ContextStage(from_frac=0.25, context_tokens=32),
        ),
    )
    stages = training_stages(TINY, train, MACHINE)
    assert [stage[:3] for stage in stages] == [(0.0, 1, 16), (0.25, 1, 32), (0.5, 3, 32)]
    speed = {stage[1:3]: stage.step_seconds for stage in stages}
    seen, step, seconds = dict.fromkeys(speed, 0), 0, 0.0
    while step < (train.max_steps or 10**6) and seconds < (train.train_seconds or 1e9):
        settings = settings_at(train, step, seconds)
        kind = settings.active_loops, settings.context_tokens
        seen[kind] += 1
        step, seconds = step + 1, seconds + speed[kind]
    assert [stage.steps for stage in stages] == [*seen.values()]


def test_a_batch_that_a_run_refuses_is_not_projected_and_the_one_named_is() -> None:
    """Spans of 48 hold the sequences of 16 and of 24 without rest; a multiple of one length may be none of both."""
    stages = (ContextStage(from_frac=0.0, context_tokens=16), ContextStage(from_frac=0.5, context_tokens=24))
    config, train = changed(TINY, {"context_tokens": 24}), train_config(batch_tokens=192, context_stages=stages)
    with pytest.raises(ValueError, match=r"^train\.batch_tokens: got 192, expected a multiple of 48 .*, such as 384$"):
        training_stages(config, train, MACHINE)
    assert len(training_stages(config, replace(train, batch_tokens=384), MACHINE)) == 2


def test_a_cadence_takes_the_mean_and_micro_batches_start_again() -> None:
    train = train_config(batch_tokens=32 * 64)
    one, three = (step_seconds(TINY, train, MACHINE, loops, 32) for loops in (1, 3))
    every = replace(train, all_loops_every_steps=4)
    assert step_seconds(TINY, every, MACHINE, 3, 32) == pytest.approx((3 * one + three) / 4)
    assert step_seconds(TINY, replace(train, micro_batch_sequences=2), MACHINE, 3, 32) > three


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="--machine: got 'abacus', expected one of 8xh100, h100"):
        machine_named("abacus")
