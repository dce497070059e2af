"""Two ledgers side by side: which score moved, and by how much.

Axes: N targets; R rows.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, Rows, failed, passed


class Move(NamedTuple):
    """The score that moved most among those compared."""

    nats: float
    """By how much; 0 when nothing was compared."""
    target: int
    compared: int
    """Targets compared."""


def largest_move(first: Rows, second: Rows, num_targets: int, targets: np.ndarray) -> Move:
    """Compare two ledgers on `targets`; those without a row in either are left out (they are check T1's).

    Nats that are no number have moved by infinitely much.
    """
    compared = targets[(first.has_row(num_targets) & second.has_row(num_targets))[targets]]
    if not len(compared):
        return Move(0.0, -1, 0)
    with np.errstate(invalid="ignore"):  # infinite nats less infinite nats
        moved = np.abs(first.spread(first.nats, num_targets) - second.spread(second.nats, num_targets))[compared]
    moved[np.isnan(moved)] = np.inf
    worst = int(np.argmax(moved))
    return Move(float(moved[worst]), int(compared[worst]), len(compared))


class Comparison(NamedTuple):
    """Two ledgers of one question and the targets whose scores must agree under each item."""

    where: str
    first: Ledgers
    second: Ledgers
    num_targets: int
    targets: dict[str, np.ndarray]


def scores_agree(comparisons: Iterable[Comparison], tolerance: float, what: str) -> Finding:
    """Pass when no score moves by more than `tolerance` nats in any comparison; the evidence names the largest move."""
    moves = [
        (largest_move(each.first[item], each.second[item], each.num_targets, targets), each.where, item)
        for each in comparisons
        for item, targets in each.targets.items()
    ]
    move, where, item = max(moves, key=lambda entry: entry[0].nats)
    if not move.nats <= tolerance:
        return failed(f"{item}, {where}: target {move.target} moved by {move.nats:.3g} nats (allowed {tolerance:g})")
    compared = sum(entry[0].compared for entry in moves)
    return passed(f"{what}: {compared} scores compared, largest move {move.nats:.2g} nats (allowed {tolerance:g})")


def changed_targets(first_M: np.ndarray, second_M: np.ndarray) -> np.ndarray:
    """Return the targets in which two streams of one length differ, ascending."""
    return np.flatnonzero(first_M[1:] != second_M[1:])


def scored_before(rows: Rows, targets: np.ndarray) -> np.ndarray:
    """Return the targets that were scored before any of `targets`, in scoring order."""
    hits = np.flatnonzero(np.isin(rows.target, targets))
    return rows.target[: hits[0]] if len(hits) else rows.target
