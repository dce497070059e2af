"""What a training run does around its steps, step by step: loops on and off, perturbed weights, the running average.

The one idea: `settings_at` says, as a pure function of the step and the clock, all that the schedule decides about one
step; `Regime` carries it out on the model. The loop itself knows none of it.

Checked by: tests/training/test_regime.py, tests/reports/test_schedule_table.py.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

from torch import nn

from pipeline.base.checks import require
from pipeline.model.network import LoopedUNet
from pipeline.model.schedule import build_schedule
from pipeline.model.schedule_config import ScheduleConfig
from pipeline.optim.averaging import WeightAverage
from pipeline.optim.config import MomentumCycle, SparseEmaConfig
from pipeline.optim.lr_schedule import (
    active_loops_at,
    budget_progress,
    cyclic_momentum_at,
    decay_scale,
    lr_scale,
    momentum_at,
    warmdown_left,
)
from pipeline.training.config import EmaConfig, TrainConfig
from pipeline.training.contexts import ContextStage, stage_at, switch_scale
from pipeline.training.quant_aware import Perturbation


class StepSettings(NamedTuple):
    """All that the schedule decides about one step."""

    step: int
    """Its number, from 0."""
    lr_scale: float
    """Learning rates over their peaks."""
    momentum: float
    """Muon's."""
    decay_scale: float
    """Weight decays over their start."""
    active_loops: int | None
    """None is all."""
    is_averaged: bool
    """Whether the weights after this step join the average."""
    is_quantized: bool
    """Whether the loss is taken at perturbed weights."""
    context_tokens: int | None = None
    """Length of the sequences; None is the model's."""


def settings_at(config: TrainConfig, step: int, seconds: float) -> StepSettings:
    """Return the settings of a step, counted from 0, that starts `seconds` into training."""
    progress = budget_progress(step, seconds, max_steps=config.max_steps, max_seconds=config.train_seconds)
    left = warmdown_left(
        step,
        seconds,
        max_steps=config.max_steps,
        max_seconds=config.train_seconds,
        warmdown_frac=config.warmdown_frac,
        warmdown_steps=config.warmdown_steps,
    )
    average, quantization = config.average, config.quantization
    if isinstance(average, EmaConfig):
        is_averaged = progress >= average.from_frac
    elif isinstance(average, SparseEmaConfig):
        is_averaged = progress >= average.from_frac and (step + 1) % average.every_steps == 0
    else:
        is_averaged = average is not None and left < 1 and (step + 1) % average.every_steps == 0
    settings = StepSettings(
        step,
        lr_scale(step, left, warmup_steps=config.warmup_steps, min_lr_frac=config.min_lr_frac),
        cyclic_momentum_at(
            step,
            low=config.muon_momentum_start,
            high=config.muon_momentum,
            cycle_steps=config.muon_momentum_warmup_steps.cycle_steps,
        )
        if isinstance(config.muon_momentum_warmup_steps, MomentumCycle)
        else momentum_at(
            step,
            start=config.muon_momentum_start,
            end=config.muon_momentum,
            warmup_steps=config.muon_momentum_warmup_steps,
        ),
        decay_scale(left, end_frac=config.weight_decay_end_frac),
        active_loops_at(
            step,
            progress,
            stages=[(stage.from_frac, stage.loops) for stage in config.loop_stages or ()],
            all_loops_every_steps=config.all_loops_every_steps,
        ),
        is_averaged,
        quantization is not None and progress >= quantization.from_frac,
    )
    return settings if config.context_stages is None else _in_stage(config.context_stages, progress, settings)


def _in_stage(stages: tuple[ContextStage, ...], progress: float, settings: StepSettings) -> StepSettings:
    """Return the settings of a step with what the length of its sequences asks for."""
    stage = stage_at(stages, progress)
    scale = settings.lr_scale * switch_scale(stage, settings.step, progress)
    return settings._replace(lr_scale=scale, context_tokens=stage.context_tokens)


def check_loops(config: TrainConfig, schedule: ScheduleConfig) -> None:
    """Raise ValueError when `config` switches loops that the network does not have, or never reaches all of them."""
    num_loops = getattr(schedule, "num_loops", 1) if build_schedule(schedule).looped else 1
    if config.all_loops_every_steps is not None:
        require(
            num_loops > 1,
            "train.all_loops_every_steps",
            config.all_loops_every_steps,
            "null: the network has no loops to switch",
        )
    for i, stage in enumerate(config.loop_stages or ()):
        require(
            stage.loops <= num_loops, f"train.loop_stages[{i}].loops", stage.loops, f"at most the network's {num_loops}"
        )
    if config.loop_stages:
        require(
            config.loop_stages[-1].loops == num_loops,
            "train.loop_stages[-1].loops",
            config.loop_stages[-1].loops,
            f"{num_loops}: what is never trained is scored all the same",
        )


class Regime:
    """Carries out `settings_at` on a model; what it did so far is in `state_dict`."""

    def __init__(self, model: nn.Module, config: TrainConfig, seed: int) -> None:
        """Raises ValueError when the network has not what `config` switches or perturbs."""
        self.model, self.config, self.loops, self.quantized_steps = model, config, cast("int | None", None), 0
        self.clock_led_steps = 0
        """Steps that ran under other settings than the step budget alone would have set: other machines differ."""
        if config.loop_stages or config.all_loops_every_steps:
            check_loops(config, cast(LoopedUNet, model).config.schedule)
        self.perturbation = None if config.quantization is None else Perturbation(model, config.quantization, seed)
        self.average: WeightAverage | None = None
        if isinstance(config.average, SparseEmaConfig):
            self.average = WeightAverage(model, config.average.decay**config.average.every_steps)
        elif config.average is not None:
            self.average = WeightAverage(model, getattr(config.average, "decay", None))

    def graphs(self) -> list[tuple[int | None, int | None]]:
        """Return every (active loops, sequence length) that the run will use: each is a graph of its own to compile."""
        loops = [(stage.from_frac, stage.loops) for stage in self.config.loop_stages or ()]
        contexts, every = self.config.context_stages, self.config.all_loops_every_steps
        begins = sorted({0.0, *(frac for frac, _ in loops), *(stage.from_frac for stage in contexts or ())})
        found = [
            (
                active_loops_at(step, begin, stages=loops, all_loops_every_steps=every),
                None if contexts is None else stage_at(contexts, begin).context_tokens,
            )
            for step in (1, 0)  # beside and at a cadence's step
            for begin in begins
        ]
        return list(dict.fromkeys(found))

    def set_loops(self, loops: int | None) -> None:
        """Run this many loops from now on."""
        if loops != self.loops:
            cast(LoopedUNet, self.model).set_active_loops(loops)
            self.loops = loops

    def step(self, settings: StepSettings) -> AbstractContextManager[None]:
        """Begin a step: its loops run from now on, and inside the context weights are perturbed where that is due."""
        by_steps = self.config.max_steps is None or settings == settings_at(self.config, settings.step, 0.0)
        self.set_loops(settings.active_loops)
        self.quantized_steps += settings.is_quantized
        self.clock_led_steps += not by_steps
        if self.perturbation is None or not settings.is_quantized:
            return nullcontext()
        return self.perturbation.at(settings.step)

    def after_step(self, settings: StepSettings) -> None:
        """Let the weights that a step left join the average where they are due."""
        if self.average is not None and settings.is_averaged:
            self.average.update()

    def finish(self) -> dict[str, Any]:
        """Leave the model with all loops and the averaged weights; return what was done, as JSON-able values."""
        self.set_loops(None)
        done: dict[str, Any] = {}
        if self.average is not None and self.config.average is not None:
            self.average.store()
            done = {"average": self.config.average.kind, "averaged_weights": self.average.count}
        if self.config.quantization is not None:
            done |= {"quantization": self.config.quantization.kind, "quantized_steps": self.quantized_steps}
        return done | ({"clock_led_steps": self.clock_led_steps} if self.clock_led_steps else {})

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain numbers and tensors."""
        average = {} if self.average is None else self.average.state_dict()
        counts = {"quantized_steps": self.quantized_steps, "clock_led_steps": self.clock_led_steps}
        return {**counts, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.quantized_steps, self.clock_led_steps = state["quantized_steps"], state["clock_led_steps"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
