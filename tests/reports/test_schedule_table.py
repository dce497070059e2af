"""The dry run: a table of the schedule that training will follow."""

import math
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pipeline.optim.config import SparseEmaConfig
from pipeline.reports.schedule_table import planned_steps, schedule_table
from pipeline.training.config import EmaConfig, LoopStage, NoiseConfig, SwaConfig
from pipeline.training.regime import settings_at
from stages.cli import fairway
from tests.networks import TINY
from tests.training.tiny_run import MODEL, train_config

CONFIG = train_config(
    max_steps=None,
    max_seconds=110.0,
    reserve_seconds=10.0,
    warmup_steps=4,
    warmdown_frac=None,
    warmdown_steps=20,
    min_lr_frac=0.1,
    weight_decay=0.08,
    weight_decay_end_frac=0.5,
    muon_momentum_warmup_steps=10,
    loop_stages=(LoopStage(from_frac=0.0, loops=1), LoopStage(from_frac=0.35, loops=2)),
    average=EmaConfig(kind="ema", decay=0.99, from_frac=0.25),
    quantization=NoiseConfig(kind="noise", from_frac=0.95, bits=6, clip_std=12.0),
)

TABLE = """
step  seconds  lr scale  momentum  weight decay  loops  context  averaged  quantization
   0      0.0    0.2500    0.8500        0.0800      1        -         -             -
   3      6.0    1.0000    0.8800        0.0800      1        -         -             -
   5     10.0    1.0000    0.9000        0.0800      1        -         -             -
  10     20.0    1.0000    0.9500        0.0800      1        -         -             -
  13     26.0    1.0000    0.9500        0.0800      1        -       ema             -
  15     30.0    1.0000    0.9500        0.0800      1        -       ema             -
  18     36.0    1.0000    0.9500        0.0800      2        -       ema             -
  20     40.0    1.0000    0.9500        0.0800      2        -       ema             -
  25     50.0    1.0000    0.9500        0.0800      2        -       ema             -
  30     60.0    1.0000    0.9500        0.0800      2        -       ema             -
  31     62.0    0.9550    0.9500        0.0780      2        -       ema             -
  35     70.0    0.7750    0.9500        0.0700      2        -       ema             -
  40     80.0    0.5500    0.9500        0.0600      2        -       ema             -
  45     90.0    0.3250    0.9500        0.0500      2        -       ema             -
  48     96.0    0.1900    0.9500        0.0440      2        -       ema         noise
  49     98.0    0.1450    0.9500        0.0420      2        -       ema         noise
"""


def test_the_table_shows_every_change() -> None:
    """Two seconds a step: 50 steps in the 100 seconds that the reserve leaves, a row every fifth."""
    assert schedule_table(CONFIG, MODEL.schedule, 2.0) == TABLE.strip("\n")


def test_an_average_of_every_nth_step_begins_once() -> None:
    sparse = replace(CONFIG, average=SparseEmaConfig(kind="ema", decay=0.99, from_frac=0.25, every_steps=4))
    assert schedule_table(sparse, MODEL.schedule, 2.0) == TABLE.strip("\n")
    swa = replace(CONFIG, average=SwaConfig(kind="swa", every_steps=4))
    averages = [line.split()[7] for line in schedule_table(swa, MODEL.schedule, 2.0).splitlines()[1:]]
    assert averages == 9 * ["-"] + 6 * ["swa"], "from the warm-down on, as the learning rate falls"


def test_a_step_budget_needs_no_speed() -> None:
    lines = schedule_table(train_config(max_steps=30), MODEL.schedule, None).splitlines()
    assert lines[1].split() == ["0", "-", "0.5000", "0.8500", "0.0400", "all", "-", "-", "-"]
    assert lines[-1].split()[:2] == ["29", "-"]


def test_steps_alone_end_it_where_the_speed_is_unknown() -> None:
    both = train_config(max_steps=30, max_seconds=100.0)
    *lines, note = schedule_table(both, MODEL.schedule, None).splitlines()
    assert lines == schedule_table(train_config(max_steps=30), MODEL.schedule, None).splitlines()
    assert "`--step-ms 100`" in note
    assert schedule_table(both, MODEL.schedule, 100 / 1000).splitlines()[-1].split()[:2] == ["29", "2.9"]


def test_a_clock_budget_asks_for_the_speed() -> None:
    with pytest.raises(ValueError, match="--step-ms: got None, expected the milliseconds of a step"):
        schedule_table(CONFIG, MODEL.schedule, None)
    with pytest.raises(ValueError, match=r"--step-ms: got 0\.0, expected above 0"):
        schedule_table(CONFIG, MODEL.schedule, 0.0)


def test_a_schedule_that_the_network_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.loop_stages\[-1\]\.loops: got 2, expected 3"):
        schedule_table(CONFIG, TINY.schedule, 2.0)


@pytest.mark.parametrize("step_seconds", [0.3, 7.0, 99.0, 1000.0])
def test_as_many_steps_as_training_would_do(step_seconds: float) -> None:
    num_steps = planned_steps(CONFIG, step_seconds)
    assert (num_steps - 1) * step_seconds < 100.0 <= num_steps * step_seconds
    last = schedule_table(CONFIG, MODEL.schedule, step_seconds).splitlines()[-1].split()
    assert int(last[0]) == num_steps - 1
    seconds = (num_steps - 1) * step_seconds
    assert math.isclose(float(last[2]), settings_at(CONFIG, num_steps - 1, seconds).lr_scale, abs_tol=5e-5)


def test_the_command_prints_it_and_trains_nothing(tmp_path, monkeypatch, repo) -> None:
    arguments = ["train", "--seed", "1", "--params", str(repo / "recipes/nightcrawler-7f3c.yaml"), "--dry-run"]
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(fairway, [*arguments, "--step-ms", "149.6"], catch_exceptions=False)
    assert shown.exit_code == 0
    *table, memory = shown.output.splitlines()
    assert table[-1].split()[0] == "3877", "580 s of the 600, the rest is kept for quantization"
    assert re.fullmatch(r"on a GPU a step needs \d\d\.\d GB of its memory, in every process", memory)
    assert list(tmp_path.iterdir()) == []
