"""Checks T1 and T4: what the ledgers of the base streams say by themselves.

Axes: M tokens, N = M - 1 targets; target j is token j + 1.
Source: bytes per target: docs/legality.md; counted here from the pieces themselves, not with the library's table.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from pipeline.audit.evaluator import Finding, Ledgers, failed, passed
from pipeline.audit.streams import Stream, StreamMaker
from pipeline.data.tokenizer import SPACE_MARK


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
    """T1: every target of every base stream has exactly one row, and its nats are those of a probability."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        num_targets = len(stream.tokens) - 1
        for item in basis.items:
            rows = ledgers[item]
            seen, counts = np.unique(rows.target, return_counts=True)
            repeated, foreign = seen[counts > 1], seen[(seen < 0) | (seen >= num_targets)]
            missing = np.setdiff1d(np.arange(num_targets), seen)
            for fault, targets in (("more than once", repeated), ("never", missing), ("beyond the end", foreign)):
                if len(targets):
                    return failed(f"{item}, {stream.name}: {len(targets)} targets scored {fault}, first {targets[0]}")
            if not rows.sound.all():
                bad = rows.target[~rows.sound]
                return failed(
                    f"{item}, {stream.name}: {len(bad)} targets with nats that are negative or no finite "
                    f"number, first {bad[0]}"
                )
    total = sum(len(stream.tokens) - 1 for stream in basis.streams)
    return passed(f"{len(basis.streams)} streams, {total} targets, {len(basis.items)} items: every target exactly once")


def judge_bytes(basis: Basis) -> Finding:
    """T4: every target stands for the bytes of its piece, and a document's add up to the UTF-8 length of its text."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        expected_N = piece_bytes(basis.maker.processor, stream.tokens)
        if fault := _text_fault(basis.maker.processor, stream, expected_N):
            return failed(fault)
        for item in basis.items:
            rows = ledgers[item]
            bytes_N, has_row = rows.spread(rows.bytes, len(stream.tokens) - 1), rows.has_row(len(stream.tokens) - 1)
            wrong = np.flatnonzero(has_row & ~(bytes_N == expected_N))
            if len(wrong):
                first = wrong[0]
                return failed(
                    f"{item}, {stream.name}: {bytes_N[first]:g} bytes counted for target {first} (token "
                    f"{stream.tokens[first + 1]} after {stream.tokens[first]}), which stands for "
                    f"{expected_N[first]}"
                )
    documents = sum(len(stream.texts) for stream in basis.streams)
    return passed(
        f"{documents} documents, {len(basis.items)} items: bytes equal the UTF-8 length of the text, BOS and "
        "what follows a boundary included"
    )


def _text_fault(processor: sentencepiece.SentencePieceProcessor, stream: Stream, expected_N: np.ndarray) -> str | None:
    """Return what is wrong between a stream's documents and their texts."""
    bounds = [*stream.starts.tolist(), len(stream.tokens)]
    for number, text in enumerate(stream.texts):
        first, last = bounds[number], bounds[number + 1]
        if processor.decode(stream.tokens[first + 1 : last].tolist()) != text:
            return f"{stream.name}, document {number}: the tokenizer does not give its text back"
        counted, held = int(expected_N[first : last - 1].sum()), len(text.encode())
        if counted != held:
            return f"{stream.name}, document {number}: its pieces stand for {counted} bytes, its text has {held}"
    return None


def piece_bytes(processor: sentencepiece.SentencePieceProcessor, tokens_M: np.ndarray) -> np.ndarray:
    """Return int (N,): bytes that each target stands for, given the token before it."""
    counts, after_boundary = [], True
    for token in tokens_M.tolist():
        is_boundary = processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token)
        piece = processor.id_to_piece(token)
        if is_boundary:
            counts.append(0)
        elif processor.is_byte(token):
            counts.append(1)
        else:
            text = piece.replace(SPACE_MARK, " ")
            counts.append(len(text.encode()) - (after_boundary and text.startswith(" ")))
        after_boundary = is_boundary
    return np.array(counts[1:])
