"""A hierarchy of counts with the network as its base: what was seen is believed the more, the longer its context.

For contexts from short to long, with c(y) the times that y followed the context so far, c their sum and n1, n2, n3 how
many different tokens followed it once, twice, more often:

    q(y) <- (c(y) - D(c(y)) + (D1 n1 + D2 n2 + D3 n3 + A) q(y)) / (c + A)

D(0) = 0 and D(1), D(2), D(3 or more) = D1, D2, D3. What discounts take the base receives, so the sum over the
vocabulary is one whenever that of the base is; a context that was never seen leaves q as it is. Only the target's own q
is needed. A is a product of two numbers, by what is known before the target: one by c and by whether a single token
followed so far, one by how much the target before surprised the network.

Axes: M tokens, N = M - 1 targets, P targets whose context was seen, S steps, C constants of a step.
Source: modified Kneser-Ney discounts (Chen and Goodman 1999) over a Dirichlet-smoothed base (MacKay and Peto 1995).
Differs: the base is a network; counts are of the text being scored, before the target, never of a training text.
Checked by: tests/mixture/test_mixing.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.mixture.counts import Counts, context_counts

TOTAL_BOUNDS = (2, 4, 8, 16)
"""Totals at which another strength begins; each is two, for contexts that a single token followed and for others."""
SURPRISE_BOUNDS = (0.5, 1.5, 3.0, 5.0)
"""Nats of the target before at which another factor of the strength begins."""
SHAPE = (3, 2 * (len(TOTAL_BOUNDS) + 1), len(SURPRISE_BOUNDS) + 1)
"""Discounts, strengths and factors: the constants of a step."""
LONGEST_CONTEXT = 16
MOST_STRENGTH = 1e9

Mixture = Sequence[Sequence[float]]
"""Steps (S, 2 + C) in their order: the token that empties a step's counts (-1: none), the length of its contexts, its
constants."""
Mixtures = dict[str, tuple[tuple[float, ...], ...]]
"""What an artifact holds of them, by name."""


class Evidence(NamedTuple):
    """The counts of one step, for the targets whose context was seen."""

    counts: Counts
    strength_P: Tensor
    """int64: which strength,"""
    factor_P: Tensor
    """and which factor of it."""


def mixed_nats(tokens_M: Tensor, nats_N: Tensor, mixture: Mixture) -> Tensor:
    """Return float64 nats (N,) of every target, given the network's: counted is what stands before it."""
    steps = [(int(step[0]), int(step[1])) for step in mixture]
    constants_SC = torch.tensor(mixture, dtype=torch.float64, device=nats_N.device)[:, 2:]
    return mix(nats_N, evidence_of(tokens_M, nats_N, steps), constants_SC)


def checked_mixtures(mixtures: Mixtures) -> Mixtures:
    """Return mixtures as they are; ValueError unless all of them keep sums at one."""
    for name, steps in mixtures.items():
        for empties, order, *constants in (step if len(step) == 2 + sum(SHAPE) else (0, 0) for step in steps):
            most = (1, 2, 3, *([MOST_STRENGTH] * sum(SHAPE[1:])))
            whole = empties == int(empties) >= -1 and order == int(order) and 1 <= order <= LONGEST_CONTEXT
            sound = whole and all(0 <= value <= limit for value, limit in zip(constants, most, strict=True))
            require(
                sound, f"mixtures.{name}", "a step of others", "whole numbers, discounts and strengths of a mixture"
            )
    return mixtures


def mix(nats_N: Tensor, evidence: Iterable[Evidence], constants_SC: Tensor) -> Tensor:
    """Return float64 nats (N,) after all steps, differentiable."""
    nats_N = nats_N.double()
    for (counts, which_P, factor_P), constants_C in zip(evidence, constants_SC, strict=True):
        discounts, strengths, factors = constants_C.split(SHAPE)
        strength_P = strengths[which_P] * factors[factor_P]
        freed_P = discounts[0] * counts.once + discounts[1] * counts.twice + discounts[2] * counts.often + strength_P
        kept_P = counts.seen - torch.cat((discounts.new_zeros(1), discounts))[counts.seen.clamp(max=3)]
        base_P = (-nats_N[counts.target]).exp()
        mixed_P = (kept_P + freed_P * base_P) / (counts.total + strength_P)
        nats_N = nats_N.index_copy(0, counts.target, -mixed_P.log())
    return nats_N


def evidence_of(tokens_M: Tensor, nats_N: Tensor, steps: Sequence[tuple[int, int]]) -> Iterator[Evidence]:
    """Yield the evidence of each step (the token that empties its counts, length of its contexts).

    Steps that share a token stand together, their contexts from short to long. nats_N: the network's.
    """
    bounds = nats_N.new_tensor(SURPRISE_BOUNDS)
    surprise_N = torch.bucketize(nats_N, bounds, right=True).roll(1)  # no context was seen before the first target
    for empties in dict.fromkeys(empties for empties, _ in steps):
        orders = [order for each, order in steps if each == empties]
        for order, counts in enumerate(context_counts(tokens_M, max(orders), empties), start=1):
            if order in orders:
                yield _evidence(counts, surprise_N)


def _evidence(counts: Counts, surprise_N: Tensor) -> Evidence:
    is_known_P = counts.total > 0
    known = Counts(*(column[is_known_P] for column in counts))
    bounds = torch.tensor(TOTAL_BOUNDS, device=known.total.device)
    is_single_P = known.once + known.twice + known.often == 1
    return Evidence(known, 2 * torch.bucketize(known.total, bounds, right=True) + is_single_P, surprise_N[known.target])
