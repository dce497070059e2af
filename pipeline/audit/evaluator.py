"""What an evaluator is to the audit: streams in, rows out. And what a check says.

One idea: the interface is so narrow that the shipped program, the library and every cheat fit behind it. Rows are taken
as they come: no invariant of our own ledger is assumed, because an invariant that is assumed cannot be found broken.

Axes: M tokens of a stream, N = M - 1 targets; target j is token j + 1. R rows.
Source: the four conditions and the checks T1 to T15 (docs/legality.md).
Checked by: tests/audit/test_mutants.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pipeline.audit.untrusted import one_line
from pipeline.base.checks import counted, require

ROUNDING_NATS = 1e-6
"""How far below zero nats may lie: a probability of one, rounded in float32."""


class Rows(NamedTuple):
    """The ledger of one stream under one protocol, in scoring order, unchecked."""

    target: np.ndarray
    """int (R,): scored targets."""
    nats: np.ndarray
    """float64 (R,): their nats."""
    bytes: np.ndarray
    """int (R,): bytes they stand for."""
    group: np.ndarray
    """int (R,): group each was scored in; between groups the model may have learnt."""

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> "Rows":
        """Return the rows that columns by name hold."""
        return cls(*(columns[name].astype(np.float64 if name == "nats" else np.int64) for name in cls._fields))

    @property
    def sound(self) -> np.ndarray:
        """Bool (R,): rows whose nats are those of a probability: finite and not negative."""
        return np.isfinite(self.nats) & (self.nats >= -ROUNDING_NATS)

    def has_row(self, num_targets: int) -> np.ndarray:
        """Return bool (N,): whether a target was scored at all."""
        return np.isin(np.arange(num_targets), self.target)

    def spread(self, column: np.ndarray, num_targets: int) -> np.ndarray:
        """Return float64 (N,): a column by target; NaN where a target has no row (`has_row` tells the two kinds of NaN
        apart), its first row where it has many."""
        by_target_N = np.full(num_targets, np.nan)
        inside = (self.target >= 0) & (self.target < num_targets)
        by_target_N[self.target[inside][::-1]] = column[inside][::-1]
        return by_target_N

    @property
    def score(self) -> tuple[float, float]:
        """Mean nats per row and bits per byte; ValueError when there is nothing to divide by."""
        num_bytes = int(self.bytes.sum())
        got = f"{len(self.nats)} rows, {num_bytes} bytes"
        require(len(self.nats) > 0 and num_bytes > 0, "ledger", got, "rows that stand for bytes")
        total = math.fsum(self.nats)
        return total / len(self.nats), total / (math.log(2) * num_bytes)

    def coverage_fault(self, num_targets: int) -> str | None:
        """Return which targets do not have exactly one row with the nats of a probability."""
        inside = (self.target >= 0) & (self.target < num_targets)
        counts_N = np.bincount(self.target[inside], minlength=num_targets)
        faults = {
            "scored more than once": np.flatnonzero(counts_N > 1),
            "scored never": np.flatnonzero(counts_N == 0),
            "scored beyond the end": self.target[~inside],
            "with nats that are negative or no finite number": self.target[~self.sound],
        }
        return next(
            (f"{counted(len(at), 'target')} {fault}, first {at[0]}" for fault, at in faults.items() if len(at)), None
        )

    def bytes_fault(self, expected_N: np.ndarray) -> str | None:
        """Return which rows stand for other bytes than their targets do."""
        inside = np.flatnonzero((self.target >= 0) & (self.target < len(expected_N)))
        wrong = inside[self.bytes[inside] != expected_N[self.target[inside]]]
        if not len(wrong):
            return None
        row, target = wrong[0], self.target[wrong[0]]
        return (
            f"{len(wrong)} rows with other bytes, first {self.bytes[row]} for target {target} of {expected_N[target]}"
        )


Ledgers = Mapping[str, Rows]
"""Item (protocol by name) -> its rows for one stream."""


class Evaluator(Protocol):
    """Scores streams under every item, each stream as if it were the only one."""

    @property
    def protocols(self) -> Mapping[str, Mapping[str, Any]]:
        """Item -> the protocol it declares, as plain data; known after the first call."""
        ...

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int | None = None) -> list[Ledgers]:
        """Return the ledgers of every stream, in order; None: one process, in which train shards are at hand, too."""
        ...


Verdict = Literal["pass", "fail", "alarm", "not applicable"]
"""An alarm is no proof of a violation: it wants a person's explanation, and fails nothing."""


class Finding(NamedTuple):
    """What one check found."""

    verdict: Verdict
    evidence: str
    """One line: what was looked at and, in a failure, where it breaks and by how much."""


def passed(evidence: str) -> Finding:
    """Return a pass."""
    return Finding("pass", evidence)


def failed(evidence: str) -> Finding:
    """Return a failure."""
    return Finding("fail", evidence)


def not_applicable(reason: str) -> Finding:
    """Return why a check has nothing to look at."""
    return Finding("not applicable", reason)


def judged(judge: Callable[[], Finding]) -> Finding:
    """Return what a judge finds; a failure when what it looks at cannot be judged at all: nobody passes by damage."""
    try:
        return judge()
    except Exception as error:  # whatever foreign files and rows make numpy and the standard library raise
        return failed(f"cannot be judged: {type(error).__name__}: {one_line(error)}")
