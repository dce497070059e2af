"""A hierarchy of counts with the network as its base: what was seen is believed the more, the longer its context.

For contexts from short to long, with c(y) the times that y followed the context so far, c their sum and n1, n2, n3 how
many different tokens followed it once, twice, more often:

    q(y) <- (c(y) - D(c(y)) + (D1 n1 + D2 n2 + D3 n3 + A) q(y)) / (c + A)

D(0) = 0 and D(1), D(2), D(3 or more) = D1, D2, D3. What discounts take the base receives, so the sum over the
vocabulary is one whenever that of the base is; a context that was never seen leaves q as it is. Only the target's own q
is needed. A depends on what is known before the target: on c, and on whether a single token followed so far.

Axes: M tokens, N = M - 1 targets, P targets whose context was seen, S steps, K classes, C = 3 + K constants.
Source: modified Kneser-Ney discounts (Chen and Goodman 1999) over a Dirichlet-smoothed base (MacKay and Peto 1995).
Differs: the base is a network; counts are of the text being scored, before the target, never of a training text.
Checked by: tests/mixture/test_mixing.py.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.mixture.counts import Counts, context_counts

CLASS_BOUNDS = (2, 4, 8, 16)
"""Totals at which another strength begins; each class is two, for contexts that one token followed and for others."""
NUM_STRENGTHS = 2 * (len(CLASS_BOUNDS) + 1)

LONGEST_CONTEXT = 16

Mixture = Sequence[Sequence[float]]
"""Steps (S, 5 + K) in their order; of each the token that empties its counts (-1: none), the length of its contexts,
D1, D2, D3, and A by class."""

Mixtures = dict[str, tuple[tuple[float, ...], ...]]
"""What an artifact holds of them, by name."""


class Evidence(NamedTuple):
    """The counts of one step, for the targets whose context was seen."""

    counts: Counts
    class_P: Tensor
    """int64: which A."""


def mixed_nats(tokens_M: Tensor, nats_N: Tensor, mixture: Mixture) -> Tensor:
    """Return float64 nats (N,) of every target, given the network's: counted is what stands before it."""
    steps = [(int(step[0]), int(step[1])) for step in mixture]
    constants_SC = torch.tensor(mixture, dtype=torch.float64, device=nats_N.device)[:, 2:]
    return mix(nats_N, evidence_of(tokens_M, steps), constants_SC)


def checked_mixtures(mixtures: Mixtures) -> Mixtures:
    """Return mixtures as they are; ValueError unless all of them keep sums at one."""
    for name, steps in mixtures.items():
        for empties, order, *constants in (step if len(step) == 5 + NUM_STRENGTHS else (0, 0) for step in steps):
            bounds = zip(constants, (1, 2, 3, *([math.inf] * NUM_STRENGTHS)), strict=False)
            whole = empties == int(empties) >= -1 and order == int(order) and 1 <= order <= LONGEST_CONTEXT
            sound = whole and all(0 <= value <= most for value, most in bounds)
            require(
                sound, f"mixtures.{name}", "a step of others", "whole numbers, discounts and strengths of a mixture"
            )
    return mixtures


def mix(nats_N: Tensor, evidence: Iterable[Evidence], constants_SC: Tensor) -> Tensor:
    """Return float64 nats (N,) after all steps, differentiable; constants (S, C): D1, D2, D3, and A by class."""
    nats_N = nats_N.double()
    for (counts, class_P), constants_C in zip(evidence, constants_SC, strict=True):
        target_P, total_P, once_P, twice_P, often_P, seen_P = counts
        once, twice, often = discount_3 = constants_C[:3]
        strength_P = constants_C[3:][class_P]
        freed_P = once * once_P + twice * twice_P + often * often_P + strength_P
        taken_4 = torch.cat((discount_3.new_zeros(1), discount_3))
        kept_P = seen_P - taken_4[seen_P.clamp(max=3)]
        mixed_P = (kept_P + freed_P * (-nats_N[target_P]).exp()) / (total_P + strength_P)
        nats_N = nats_N.index_copy(0, target_P, -mixed_P.log())
    return nats_N


def evidence_of(tokens_M: Tensor, steps: Sequence[tuple[int, int]]) -> Iterator[Evidence]:
    """Yield the evidence of each step (the token that empties its counts, length of its contexts).

    Steps that share a token stand together, their contexts from short to long.
    """
    for empties in dict.fromkeys(empties for empties, _ in steps):
        orders = [order for each, order in steps if each == empties]
        for order, counts in enumerate(context_counts(tokens_M, max(orders), empties), start=1):
            if order in orders:
                yield _evidence(counts)


def _evidence(counts: Counts) -> Evidence:
    is_known_P = counts.total > 0
    known = Counts(*(column[is_known_P] for column in counts))
    bounds = torch.tensor(CLASS_BOUNDS, device=known.total.device)
    is_single_P = known.once + known.twice + known.often == 1
    return Evidence(known, 2 * torch.bucketize(known.total, bounds, right=True) + is_single_P)
