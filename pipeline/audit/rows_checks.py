"""Checks T1 and T4: what the ledgers of the base streams say by themselves.

Axes: M tokens, N = M - 1 targets; target j is token j + 1.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, failed, passed
from pipeline.audit.streams import Stream, StreamMaker


class Basis(NamedTuple):
    """What every question starts from; `ledgers` are the base streams', filled in before any judge is called."""

    maker: StreamMaker
    streams: list[Stream]
    ledgers: list[Ledgers]
    protocols: Mapping[str, Mapping[str, Any]]
    tolerance: float
    """Nats by which two equal runs may differ: 0 on a CPU."""

    @property
    def items(self) -> list[str]:
        """The protocols by name."""
        return list(self.protocols)


def judge_exactly_once(basis: Basis) -> Finding:
    """T1: every target of every base stream has exactly one row."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        num_targets = len(stream.tokens) - 1
        for item, rows in ledgers.items():
            seen, counts = np.unique(rows.target, return_counts=True)
            repeated, foreign = seen[counts > 1], seen[(seen < 0) | (seen >= num_targets)]
            missing = np.setdiff1d(np.arange(num_targets), seen)
            for fault, targets in (("more than once", repeated), ("never", missing), ("beyond the end", foreign)):
                if len(targets):
                    return failed(f"{item}, {stream.name}: {len(targets)} targets scored {fault}, first {targets[0]}")
    total = sum(len(stream.tokens) - 1 for stream in basis.streams)
    return passed(f"{len(basis.streams)} streams, {total} targets, {len(basis.items)} items: every target exactly once")


def judge_bytes(basis: Basis) -> Finding:
    """T4: the bytes of every document's targets are the UTF-8 length of its text, which survives a round trip."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        bounds = [*stream.starts.tolist(), len(stream.tokens)]
        for number, text in enumerate(stream.texts):
            ids = stream.tokens[bounds[number] + 1 : bounds[number + 1]].tolist()
            if basis.maker.processor.decode(ids) != text:
                return failed(f"{stream.name}, document {number}: the tokenizer does not give its text back")
            for item, rows in ledgers.items():
                bytes_N = rows.spread(rows.bytes, len(stream.tokens) - 1)
                counted = bytes_N[bounds[number] : bounds[number + 1] - 1].sum()
                expected = len(text.encode())
                if not np.isnan(counted) and counted != expected:
                    return failed(f"{item}, {stream.name}, document {number}: {counted:g} bytes counted, "
                                  f"its text has {expected}")  # fmt: skip
    documents = sum(len(stream.texts) for stream in basis.streams)
    return passed(f"{documents} documents, {len(basis.items)} items: bytes equal the UTF-8 length of the text")
