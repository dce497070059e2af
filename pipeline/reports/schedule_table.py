"""The schedule of a run as a table, before anything is trained.

The one idea: walk through the very function that training asks at every step, at an assumed speed, and show the steps
at which something changes.

Differs: no part of a record.
Checked by: tests/reports/test_schedule_table.py.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from pipeline.base.checks import require
from pipeline.base.config import Params
from pipeline.launching.processes import resolve_processes
from pipeline.model.schedule_config import ScheduleConfig
from pipeline.optim.config import GroupDecay, SparseEmaConfig
from pipeline.training.config import SwaConfig, TrainConfig
from pipeline.training.memory import step_bytes
from pipeline.training.regime import StepSettings, check_loops, settings_at

NUM_SPACED_ROWS = 12
"""Rows at even distances, besides those at which something begins."""

_HEADER = ("step", "seconds", "lr scale", "momentum", "weight decay", "loops", "context", "averaged", "quantization")


def schedule_table(config: TrainConfig, schedule: ScheduleConfig, step_seconds: float | None) -> str:
    """Return the table as text: evenly spaced steps, and every step that begins something.

    `step_seconds`: assumed time of a step; None leaves the clock out: the steps alone end the run. Raises ValueError
    when nothing would end it then, or when the network has not the loops of the schedule.
    """
    check_loops(config, schedule)
    config = with_dense_average(config)
    require(
        step_seconds is not None or config.max_steps is not None,
        "--step-ms",
        None,
        "the milliseconds of a step, as in `--step-ms 100`, or `--machine 8xh100`: only the clock ends this run",
    )
    require(step_seconds is None or step_seconds > 0, "--step-ms", step_seconds, "above 0")
    rows = [_HEADER, *(_row(config, step, step_seconds) for step in _shown_steps(config, step_seconds))]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    if step_seconds is None and config.train_seconds is not None:
        lines.append("train.max_seconds may end it earlier: `--step-ms 100` says where")
    return "\n".join(lines)


def with_dense_average(config: TrainConfig) -> TrainConfig:
    """Return a configuration whose average takes in every step: one of every n-th begins once, not at each of them."""
    if not isinstance(config.average, SparseEmaConfig | SwaConfig):
        return config
    return replace(config, average=replace(config.average, every_steps=1))


def memory_line(params: Params) -> str:
    """Return what a step of a run with sections `model`, `train` and `launch` needs of a GPU, whatever it runs on."""
    world_size = resolve_processes(params.launch.num_processes, params.launch.device)
    needed = step_bytes(params.model, params.train, world_size)
    size = f"{needed / 1e9:.1f} GB" if needed >= 1e9 else f"{needed / 1e6:,.0f} MB"
    return f"on a GPU a step needs {size} of its memory, in every process"


def planned_steps(config: TrainConfig, step_seconds: float | None) -> int:
    """Return how many steps the budget allows at a constant speed."""
    limits = [] if config.max_steps is None else [config.max_steps]
    if config.train_seconds is not None and step_seconds is not None:
        limits.append(math.ceil(config.train_seconds / step_seconds))
    return min(limits)


def _shown_steps(config: TrainConfig, step_seconds: float | None) -> Iterator[int]:
    num_steps = planned_steps(config, step_seconds)
    spacing = max(1, math.ceil(num_steps / NUM_SPACED_ROWS))
    seen = set()
    for step in range(num_steps):
        phase = _phase(config, step, settings_at(config, step, step * (step_seconds or 0.0)))
        if phase not in seen or step % spacing == 0 or step == num_steps - 1:
            yield step
        seen.add(phase)


def _phase(config: TrainConfig, step: int, settings: StepSettings) -> tuple:
    """Return what is the same for all steps between two of which something begins."""
    is_warm, is_falling = step + 1 >= config.warmup_steps, settings.lr_scale < 1
    return (
        is_warm,
        is_warm and is_falling,
        settings.momentum == config.muon_momentum,
        settings.active_loops,
        settings.context_tokens,
        settings.is_averaged,
        settings.is_quantized,
    )


def _row(config: TrainConfig, step: int, step_seconds: float | None) -> tuple[str, ...]:
    settings = settings_at(config, step, step * (step_seconds or 0.0))
    quantization = config.quantization.kind if config.quantization and settings.is_quantized else "-"
    average = config.average.kind if config.average and settings.is_averaged else "-"
    loops = "all" if settings.active_loops is None else str(settings.active_loops)
    seconds = "-" if step_seconds is None else f"{step * step_seconds:.1f}"
    start = config.weight_decay
    decay = (start.matrix if isinstance(start, GroupDecay) else start) * settings.decay_scale
    return (
        str(step),
        seconds,
        f"{settings.lr_scale:.4f}",
        f"{settings.momentum:.4f}",
        f"{decay:.4f}",
        loops,
        "-" if settings.context_tokens is None else str(settings.context_tokens),
        average,
        quantization,
    )
