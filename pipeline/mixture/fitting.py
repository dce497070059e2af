"""The constants of a mixture, by the likelihood of training text.

One idea: the nats of a text are a smooth function of all constants at once, so their gradient finds the best ones in a
few dozen evaluations; counts are made once. They are rounded to a few digits: a mixture is part of the artifact.

Axes: M tokens, N targets, S steps, C constants of a step.
Source: L-BFGS, Liu and Nocedal 1989, as torch has it.
Differs: nothing.
Checked by: tests/mixture/test_fitting.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.mixture.mixing import NUM_CONSTANTS, evidence_of, mix

_FIRST_STRENGTH = 8.0
_FARTHEST = 9.0
"""Powers of e that a strength or a factor may go from its first value: beyond, the network gets all or nothing."""
_MOST_ITERATIONS = 60
_DIGITS = 4


def fit_mixture(tokens_M: Tensor, nats_N: Tensor, steps: Sequence[tuple[int, int]]) -> list[list[float]]:
    """Return the mixture of these steps under which a text, of which the network's nats are given, is likeliest."""
    evidence = list(evidence_of(tokens_M, nats_N, steps))
    raw_SC = torch.zeros(len(steps), sum(NUM_CONSTANTS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw_SC], max_iter=_MOST_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = mix(nats_N, evidence, _constants(raw_SC)).mean()
        mean.backward()
        return mean

    optimizer.step(loss)
    fitted = _constants(raw_SC.detach()).tolist()
    return [
        [*map(float, step), *(float(f"{value:.{_DIGITS}g}") for value in row)]
        for step, row in zip(steps, fitted, strict=True)
    ]


def _constants(raw_SC: Tensor) -> Tensor:
    """Return discounts, of a count at most that count, strengths and factors, positive and finite, of any numbers."""
    discounts, strengths, factors = raw_SC.split(NUM_CONSTANTS, dim=1)
    most_3 = torch.arange(1, 4, dtype=raw_SC.dtype)
    return torch.cat((most_3 * discounts.sigmoid(), _FIRST_STRENGTH * _power(strengths), _power(factors)), dim=1)


def _power(raw: Tensor) -> Tensor:
    return (_FARTHEST * (raw / _FARTHEST).tanh()).exp()
