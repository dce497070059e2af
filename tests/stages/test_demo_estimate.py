"""What `fairway demo` says before and between stages: the machine, and minutes that follow what happened."""

import re
from pathlib import Path

import pytest

from pipeline.base.config import SECTIONS, load_params
from stages.demo import PROBE_SECONDS, REFERENCE_FLOPS, Estimate, probe
from stages.shell.durations import SECONDS, minutes, stages_of
from stages.shell.folding import COLUMNS

REST = sum(SECONDS.values()) - SECONDS["train"] + 4 * SECONDS["evaluate"]


@pytest.fixture
def params(repo: Path):
    return load_params(repo / "params.yaml", SECTIONS)


def test_stages_are_those_of_the_pipeline_in_its_order(params):
    assert stages_of(params) == [
        "prepare",
        "train@444",
        "calibrate@444",
        "quantize@444",
        "evaluate-float@444",
        "evaluate@444-blocks",
        "evaluate@444-sliding",
        "evaluate@444-ttt",
        "evaluate@444-mixture",
        "metrics@444",
        "package",
        "audit",
    ]


def test_a_slower_machine_takes_longer_but_trains_no_longer_than_its_clock(params):
    fast, slow = (Estimate(stages_of(params), REFERENCE_FLOPS / factor, 200.0) for factor in (0.5, 4))
    assert fast.seconds_left() == REST + SECONDS["train"]
    assert slow.seconds_left() == 4 * REST + 200


def test_stages_that_ran_correct_the_estimate_and_skipped_ones_count_as_done(params):
    estimate = Estimate(stages_of(params), REFERENCE_FLOPS, None)
    assert estimate.read("Stage 'prepare' didn't change, skipping", 0.0) is None
    assert estimate.read("Running stage 'train@444':", 1.0) is None
    assert estimate.read("> python -m stages.cli train --seed 444", 2.0) is None
    before = estimate.seconds_left()
    left = sum(SECONDS.values()) + 4 * SECONDS["evaluate"] - SECONDS["prepare"] - SECONDS["train"]
    assert estimate.read("Running stage 'calibrate@444':", 5000.0) == f"2 of 12 stages, about {minutes(left)} left"
    assert before == left + SECONDS["train"]
    assert estimate.read("Running stage 'quantize@444':", 5000.0 + 10 * SECONDS["calibrate"]).startswith("3 of 12")
    assert estimate.seconds_left() > 2 * (left - SECONDS["calibrate"]), "one stage was ten times slower"


def test_the_probe_is_short_and_says_what_training_will_do(params):
    machine = probe(params)
    assert 0 < PROBE_SECONDS <= 0.1
    assert machine.fp32_flops > 0
    assert machine.bf16_flops > 0
    assert re.fullmatch(
        r"machine: \d+ cores, [\d,]+ GFLOP/s in fp32, [\d,]+ in bf16; "
        r"training in (bf16|fp32)",
        machine.line(),
    )


def test_the_command_runs_nothing_that_is_up_to_date(project):
    lines = project.run("fairway", "demo").stdout.splitlines()
    assert lines[0].startswith("machine: ")
    assert lines[1].startswith("about ")
    assert max(map(len, lines[:2])) <= COLUMNS
    assert not [line for line in lines if line.startswith("Running stage")]


def test_a_stage_that_fails_ends_it(project):
    project.edit(train={"batch_tokens": 500})
    done = project.run("fairway", "demo", check=False)
    assert done.returncode != 0
    assert "Running stage 'train@1':" in done.stdout.splitlines()
    assert "train.batch_tokens: got 500" in done.stderr
