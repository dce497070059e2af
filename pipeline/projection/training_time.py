"""Where the clock of training goes: steps and seconds of every stage of loops and lengths.

The one idea: a stage lasts from a share of the budget to another, and a step spends the larger of its shares of steps
and seconds; so stages follow from the milliseconds of their steps.

Checked by: tests/projection/test_training_time.py
"""

import math
from typing import NamedTuple

from pipeline.model.config import ModelConfig
from pipeline.optim.lr_schedule import active_loops_at
from pipeline.projection.counts import training_counts
from pipeline.projection.machines import Machine
from pipeline.training.config import TrainConfig
from pipeline.training.contexts import stage_at
from pipeline.training.loop import sequences_per_process


class TrainingStage(NamedTuple):
    """A part of a run whose steps are alike."""

    from_frac: float
    """Share of the budget at which it begins."""
    loops: int | None
    """Loops that run; None is all."""
    context_tokens: int
    """Length of its sequences."""
    step_seconds: float
    """Of one step."""
    steps: int
    """Steps that it has."""

    @property
    def seconds(self) -> float:
        """Return how long it takes."""
        return self.steps * self.step_seconds


def training_stages(model: ModelConfig, train: TrainConfig, machine: Machine) -> list[TrainingStage]:
    """Return the stages of a run; ValueError where a batch does not divide over the machine's processes."""
    loops, contexts = [(stage.from_frac, stage.loops) for stage in train.loop_stages or ()], train.context_stages or ()
    begins = sorted({0.0, *(begin for begin, _ in loops), *(stage.from_frac for stage in contexts)})
    stages, left = [], 0.0
    for begin, end in zip(begins, [*begins[1:], 1.0], strict=True):
        active = active_loops_at(1, begin, stages=loops, all_loops_every_steps=None)
        context = stage_at(contexts, begin).context_tokens if contexts else model.context_tokens
        seconds = step_seconds(model, train, machine, active, context)
        share = max(1 / (train.max_steps or math.inf), seconds / (train.train_seconds or math.inf))
        steps = math.ceil((end - begin - left) / share - 1e-9)
        left += steps * share - (end - begin)
        stages.append(TrainingStage(begin, active, context, seconds, steps))
    return stages


def step_seconds(
    model: ModelConfig, train: TrainConfig, machine: Machine, loops: int | None, context_tokens: int
) -> float:
    """Return the seconds of a step with so many loops; of a cadence, on the average."""
    every = train.all_loops_every_steps
    if every is not None:
        alone = train_once(model, train, machine, 1, context_tokens)
        return alone + (train_once(model, train, machine, loops, context_tokens) - alone) / every
    return train_once(model, train, machine, loops, context_tokens)


def train_once(
    model: ModelConfig, train: TrainConfig, machine: Machine, loops: int | None, context_tokens: int
) -> float:
    """Return the seconds of one step, in passes of at most `train.micro_batch_sequences`."""
    share = sequences_per_process(train, context_tokens, machine.processes)
    passes = math.ceil(share / (train.micro_batch_sequences or share))
    counts = training_counts(model, math.ceil(share / passes), context_tokens, loops)
    return passes * counts.training_seconds(machine, train.compile)
