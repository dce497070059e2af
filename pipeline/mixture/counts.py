"""How often what followed a context so far: the counts at the time of every target of a finished stream.

One idea: nothing is looked up while the stream goes by. Targets are sorted by what stands before them and, within that,
by what they are; a stable sort keeps the order of the stream, so the place of a target in its group is the number of
those before it. Keys are numbers of groups, never hashes: no two contexts can be taken for one. A context and what
followed it are the context that is one longer of the next target, so every order costs a single sort.

Axes: M tokens, N = M - 1 targets (target j is token j + 1), P targets that have a context of an order.
Source: counts of n-gram models (Chen and Goodman 1999), taken causally: a target counts only for those after it.
Differs: as above.
Checked by: tests/mixture/test_counts.py, against a loop over the stream.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """What followed the contexts of some targets before these came, all int64 (P,)."""

    target: Tensor
    """The targets, in no order."""
    total: Tensor
    """How often the last tokens before the target have stood before another."""
    once: Tensor
    """How many different tokens followed them exactly once,"""
    twice: Tensor
    """twice,"""
    often: Tensor
    """and more often."""
    seen: Tensor
    """How often what follows now did."""


def context_counts(tokens_M: Tensor, longest: int, empties: int) -> Iterator[Counts]:
    """Yield the counts for contexts of the last 1, 2, ... `longest` tokens.

    The token `empties` (-1: none) starts a document, and what was counted before it is forgotten: no context reaches
    back beyond it.
    """
    context_N, following_N = tokens_M[:-1], tokens_M[1:]
    starts_N = context_N == empties
    num_ids, num_targets = int(tokens_M.max()) + 1, len(context_N)
    group_P, target_P = torch.sort(starts_N.cumsum(0) * num_ids + context_N, stable=True)
    for _ in range(longest):
        first_P = _first_of_group(group_P)
        place_P = torch.arange(len(group_P), device=group_P.device)
        pair_P, order_P = torch.sort(_numbered(group_P) * num_ids + following_N[target_P], stable=True)
        seen_P = torch.empty_like(place_P)
        seen_P[order_P] = place_P - _first_of_group(pair_P)
        # A token that comes for the n-th time is one more of those that came n times or more.
        least_1P, least_2P, least_3P = (_before(seen_P == count, first_P) for count in range(3))
        yield Counts(target_P, place_P - first_P, least_1P - least_2P, least_2P - least_3P, least_3P, seen_P)
        next_P = target_P[order_P] + 1
        goes_on_P = next_P < num_targets
        goes_on_P[goes_on_P.clone()] &= ~starts_N[next_P[goes_on_P]]
        group_P, target_P = pair_P[goes_on_P], next_P[goes_on_P]


def _first_of_group(sorted_P: Tensor) -> Tensor:
    """Return where the run of equal numbers begins in which each stands."""
    is_first_P = torch.ones_like(sorted_P, dtype=torch.bool)
    is_first_P[1:] = sorted_P[1:] != sorted_P[:-1]
    place_P = torch.arange(len(sorted_P), device=sorted_P.device)
    return torch.where(is_first_P, place_P, 0).cummax(0).values if len(sorted_P) else place_P


def _numbered(sorted_P: Tensor) -> Tensor:
    """Return sorted numbers as 0, 1, 2, ..., equal ones alike."""
    return (sorted_P.diff(prepend=sorted_P[:1]) != 0).cumsum(0)


def _before(event_P: Tensor, first_P: Tensor) -> Tensor:
    """Return how many events came before each place, from the first of its group on."""
    until_P = event_P.cumsum(0) - event_P.long()
    return until_P - until_P[first_P]
