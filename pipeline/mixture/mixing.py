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

from pipeline.base.checks import one_line, require
from pipeline.mixture.counts import Counts, context_counts

TOTAL_BOUNDS = (2, 4, 8, 16)
"""Totals at which another strength begins; each is two, for contexts that a single token followed and for others."""
SURPRISE_KNOTS = (0.0, 1.0, 2.0, 4.0, 6.0)
"""Nats of the target before at which the strength has factors of its own, straight lines between: no score may hang on
the last bit of another."""
NUM_CONSTANTS = (3, 2 * (len(TOTAL_BOUNDS) + 1), len(SURPRISE_KNOTS))
"""Discounts, strengths and factors of a step."""
LONGEST_CONTEXT = 16
_MOST_STRENGTH = 1e9

Mixture = Sequence[Sequence[float]]
"""Steps (S, 2 + C) in their order: the token that empties a step's counts (-1: none), the length of its contexts, its
constants."""
Mixtures = dict[str, tuple[tuple[float, ...], ...]]
"""What an artifact holds of them, by name."""


class Evidence(NamedTuple):
    """The counts of one step, for the targets whose context was seen."""

    counts: Counts
    which_P: Tensor
    """int64: which strength."""
    knot_P: Tensor
    """int64: the knot below the nats of the target before,"""
    share_P: Tensor
    """and how far it is from there to the next, float64, 0 to 1."""


def mixed_nats(tokens_M: Tensor, nats_N: Tensor, mixture: Mixture) -> Tensor:
    """Return float64 nats (N,) of every target, given the network's: counted is what stands before it."""
    steps = [(int(step[0]), int(step[1])) for step in mixture]
    constants_SC = torch.tensor(mixture, dtype=torch.float64, device=nats_N.device)[:, 2:]
    return mix(nats_N, evidence_of(tokens_M, nats_N, steps), constants_SC)


def checked_mixtures(mixtures: Mixtures) -> Mixtures:
    """Return mixtures as they are; ValueError unless all of them keep sums at one and every probability above zero."""
    for name, steps in mixtures.items():
        where, keys = f"mixtures.{one_line(name, 80)}", [step[:2] for step in steps]
        tokens = list(dict.fromkeys(key[:1] for key in keys))
        in_order = sorted(set(keys), key=lambda key: (tokens.index(key[:1]), *key))
        require(0 < len(steps) == len(in_order) <= 2 * LONGEST_CONTEXT, where, keys, "a few steps, none of them twice")
        require(keys == in_order, where, keys, "steps of one token together, contexts from short to long")
        for number, step in enumerate(steps):
            require(_is_sound(step), f"{where}[{number}]", step, "a token, a length, discounts, strengths, factors")
    return mixtures


def _is_sound(step: Sequence[float]) -> bool:
    if len(step) != 2 + sum(NUM_CONSTANTS):
        return False
    empties, order, *constants = step
    most = (1, 2, 3, *([_MOST_STRENGTH] * sum(NUM_CONSTANTS[1:])))
    whole = empties == int(empties) >= -1 and order == int(order) and 1 <= order <= LONGEST_CONTEXT
    return (
        whole and all(0 <= value <= limit for value, limit in zip(constants, most, strict=True)) and min(step[5:]) > 0
    )


def mix(nats_N: Tensor, evidence: Iterable[Evidence], constants_SC: Tensor) -> Tensor:
    """Return float64 nats (N,) after all steps, differentiable."""
    nats_N = nats_N.double()
    for (counts, which_P, knot_P, share_P), constants_C in zip(evidence, constants_SC, strict=True):
        discounts, strengths, factors = constants_C.split(NUM_CONSTANTS)
        strength_P = strengths[which_P] * torch.lerp(factors[knot_P], factors[knot_P + 1], share_P)
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
    before_N = nats_N.double().roll(1)  # no context was seen before the first target
    for empties in dict.fromkeys(empties for empties, _ in steps):
        orders = [order for each, order in steps if each == empties]
        for order, counts in enumerate(context_counts(tokens_M, max(orders), empties), start=1):
            if order in orders:
                yield _evidence(counts, before_N)


def _evidence(counts: Counts, before_N: Tensor) -> Evidence:
    is_known_P = counts.total > 0
    known = Counts(*(column[is_known_P] for column in counts))
    bounds = torch.tensor(TOTAL_BOUNDS, device=before_N.device)
    is_single_P = known.once + known.twice + known.often == 1
    before_P, knots = before_N[known.target], before_N.new_tensor(SURPRISE_KNOTS)
    knot_P = torch.bucketize(before_P, knots[1:-1], right=True)
    share_P = ((before_P - knots[knot_P]) / knots.diff()[knot_P]).clamp(0, 1)
    return Evidence(known, 2 * torch.bucketize(known.total, bounds, right=True) + is_single_P, knot_P, share_P)
