"""Sequences that get longer over a run: short ones cost less and teach the near first.

The one idea: the sampler's sequences are so long that those of every stage fit into them without rest, and each step
cuts its batch into the length of its stage. What a step reads is then a function of the step alone, whenever lengths
changed; an epoch reads every token once; tokens per step, snapshots and ranks know nothing of it. Neighbours in the
text become neighbours in a batch. The learning rate rises anew after every switch.

Axes: B sequences, T positions.
Source: Parameter Golf pull request 2014.
Differs: the steps since a switch are counted at the mean speed so far, so that a resumed run needs no memory of it.
Checked by: tests/training/test_contexts.py
"""

import math

from torch import Tensor

from pipeline.base.checks import require
from pipeline.training.config import ContextStage

SWITCH_STEPS = 32
"""Steps over which the learning rate rises again when sequences get longer."""

ContextStages = tuple[ContextStage, ...]


def stage_at(stages: ContextStages, progress: float) -> ContextStage:
    """Return the stage that holds at a share of the budget."""
    return next(stage for stage in reversed(stages) if progress >= stage.from_frac)


def switch_scale(stage: ContextStage, step: int, progress: float) -> float:
    """Return the factor on the learning rate of a step in its stage; in the first one the warm-up sees to the rise."""
    steps = step * (1 - stage.from_frac / progress) if stage.from_frac else SWITCH_STEPS
    return min(1.0, (steps + 1) / SWITCH_STEPS)


def sampled_tokens(stages: ContextStages, model_tokens: int) -> int:
    """Return the length of the sampler's sequences; ValueError when stages never reach the model's context."""
    check_contexts(stages, model_tokens)
    return math.lcm(*(stage.context_tokens for stage in stages))


def check_contexts(stages: ContextStages, model_tokens: int) -> None:
    """Raise ValueError when a stage's sequences are longer than the model's context, or the last one's shorter."""
    for i, stage in enumerate(stages):
        where, tokens = f"train.context_stages[{i}].context_tokens", stage.context_tokens
        require(tokens <= model_tokens, where, tokens, f"at most {model_tokens}, model.context_tokens")
    where, tokens = "train.context_stages[-1].context_tokens", stages[-1].context_tokens
    expected = f"{model_tokens}, model.context_tokens: what is never trained is scored all the same"
    require(tokens == model_tokens, where, tokens, expected)


def shorter_sequences(batch_BT: Tensor, tokens: int | None) -> Tensor:
    """Return sequences (B, T + 1), whose last token is but a target, cut into as many of `tokens` + 1, in order.

    `tokens` divides T; the last target of a piece is the first input of the next.
    """
    assert tokens is not None, "the stages of a run hold at every step"
    cut_BT = batch_BT.unfold(1, tokens + 1, tokens).flatten(0, 1)
    return cut_BT.pin_memory() if batch_BT.is_pinned() else cut_BT
