"""Sequences that get longer over a run: short ones cost less and teach the near first.

The one idea: the sampler's sequences are so long that those of every stage fit into them without rest, and each step
cuts its batch into the length of its stage. What a step reads is then a function of the step alone, whenever lengths
changed; an epoch reads every token once; tokens per step, snapshots and ranks know nothing of it. Neighbours in the
text become neighbours in a batch. The learning rate rises anew after every switch.

Source: Parameter Golf pull request 2014.
Differs: the steps since a switch are counted at the mean speed so far, so that a resumed run needs no memory of it.
Checked by: tests/training/test_contexts.py
"""

import math
from dataclasses import dataclass

from pipeline.base.checks import require

SWITCH_STEPS = 32
"""Steps over which the learning rate rises again when sequences get longer."""


@dataclass(frozen=True, kw_only=True)
class ContextStage:
    """From a share of the budget on, training sequences have this length."""

    from_frac: float
    """Share of the budget at which the stage begins."""
    context_tokens: int
    """Length of its sequences."""

    def __post_init__(self) -> None:
        require(self.context_tokens >= 1, "context_tokens", self.context_tokens, "at least 1")


def stage_at(stages: tuple[ContextStage, ...], progress: float) -> ContextStage:
    """Return the stage that holds at a share of the budget."""
    return next(stage for stage in reversed(stages) if progress >= stage.from_frac)


def switch_scale(stage: ContextStage, step: int, progress: float) -> float:
    """Return the factor on the learning rate of a step in its stage; in the first one the warm-up sees to the rise."""
    steps = step * (1 - stage.from_frac / progress) if stage.from_frac else SWITCH_STEPS
    return min(1.0, (steps + 1) / SWITCH_STEPS)


def sampled_tokens(stages: tuple[ContextStage, ...]) -> int:
    """Return the length of the sampler's sequences."""
    return math.lcm(*(stage.context_tokens for stage in stages))


def check_contexts(stages: tuple[ContextStage, ...], model_tokens: int, batch_tokens: int) -> None:
    """Raise ValueError when no batch is made of a stage's sequences, or the last one's are not the model's context."""
    span = sampled_tokens(stages)
    expected = f"a multiple of {span}, in which train.context_stages all go"
    require(batch_tokens % span == 0, "train.batch_tokens", batch_tokens, expected)
    for i, stage in enumerate(stages):
        where, tokens = f"train.context_stages[{i}].context_tokens", stage.context_tokens
        require(tokens <= model_tokens, where, tokens, f"at most {model_tokens}, model.context_tokens")
    where, tokens = "train.context_stages[-1].context_tokens", stages[-1].context_tokens
    expected = f"{model_tokens}, model.context_tokens: what is never trained is scored all the same"
    require(tokens == model_tokens, where, tokens, expected)
