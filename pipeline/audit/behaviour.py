"""Checks T1 to T7 and T12: what streams and ledgers alone can prove about an evaluator.

Axes: N targets; target j is token j + 1.
Source: the table of checks in docs/legality.md; bytes are counted from the pieces, not with the library's table.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import sentencepiece

from pipeline.audit.evaluator import Evaluator, Finding, failed, judged, passed
from pipeline.audit.isolation import ask_isolation
from pipeline.audit.questions import LONG, Basis, Question, ask_future, ask_normalisation, ask_order, ask_positions
from pipeline.audit.repetition import ask_repetition
from pipeline.audit.streams import Stream, StreamMaker, piece_bytes
from pipeline.base.checks import counted
from pipeline.data.text import decode_texts

DOCUMENT_TOKENS = (200, 0, 1, 90, 5, 300, 33, 0, 1, 61, 120, 17)


def audit_behaviour(
    evaluate: Evaluator, maker: StreamMaker, tolerance: float, num_processes: int
) -> dict[str, Finding]:
    """Return the findings of T1 to T7 and T12.

    The evaluator is called twice, and a third time where a protocol declares a phase of learning, which the streams of
    the first call may be too short for. `tolerance`: nats by which two equal runs may differ, 0 on a CPU;
    `num_processes`: of all calls but the last, for T7.
    """
    many, short = maker.stream("many documents", DOCUMENT_TOKENS), maker.repeated("short", 12)
    on_processes = evaluate([many.tokens, short.tokens], num_processes=num_processes)
    streams = [many, short, *_sized_streams(maker, evaluate.protocols), maker.boundaries("boundary pieces")]
    if any(protocol.get("global_phase") for protocol in evaluate.protocols.values()):
        on_processes += evaluate([streams[LONG].tokens], num_processes=num_processes)
    basis = Basis(maker, streams, [], evaluate.protocols, tolerance)
    questions = {
        "T1": Question([], lambda answers: judge_exactly_once(basis)),
        "T2": ask_future(basis),
        "T3": ask_normalisation(basis),
        "T4": Question([], lambda answers: judge_bytes(basis)),
        "T5": ask_isolation(basis),
        "T6": ask_order(basis),
        "T7": ask_repetition(basis, on_processes, counted(num_processes, "process", "es")),
        "T12": ask_positions(basis),
    }
    asked = [stream.tokens for stream in basis.streams]
    answers = evaluate([*asked, *(tokens for question in questions.values() for tokens in question.streams)])
    basis.ledgers.extend(answers[: len(asked)])
    findings, at = {}, len(asked)
    for check, question in questions.items():
        own = answers[at : at + len(question.streams)]
        findings[check] = judged(partial(question.judge, own))
        at += len(question.streams)
    return findings


def _sized_streams(maker: StreamMaker, protocols: Mapping[str, Mapping[str, Any]]) -> list[Stream]:
    """Return the smallest stream, a document of more than two contexts, and a stream of 1.6 chunks.

    Where a phase of learning waits for documents the last has 1.6 times as many, whose first hold more than a chunk.
    """
    context = max(int(protocol["context_tokens"]) for protocol in protocols.values())
    longest = max(
        value for fields in protocols.values() for key, value in fields.items() if key.endswith("_tokens") and value
    )
    sizes = [int(2.2 * context)]
    while sum(sizes) < 1.6 * longest:
        sizes += [length * max(1, longest // 4096) for length in DOCUMENT_TOKENS]
    over_long = sizes[:1]
    for phase in filter(None, (fields.get("global_phase") for fields in protocols.values())):
        least = 2 + int(1.2 * phase["chunk_tokens"] / phase["documents"])
        sizes += [least] * max(0, int(1.6 * phase["documents"]) - len(sizes))
        sizes = [max(size, least) for size in sizes]
    return [maker.stream("pair", [1]), maker.stream("over-long document", over_long), maker.stream("long", sizes)]


def judge_exactly_once(basis: Basis) -> Finding:
    """T1: every target of every base stream has exactly one row, and its nats are those of a probability."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        for item in basis.items:
            if fault := ledgers[item].coverage_fault(len(stream.tokens) - 1):
                return failed(f"{item}, {stream.name}: {fault}")
    total = sum(len(stream.tokens) - 1 for stream in basis.streams)
    return passed(f"{len(basis.streams)} streams, {total} targets, {len(basis.items)} items: every target exactly once")


def judge_bytes(basis: Basis) -> Finding:
    """T4: every target stands for the bytes of its piece, and a document's add up to the UTF-8 length of its text."""
    for stream, ledgers in zip(basis.streams, basis.ledgers, strict=True):
        expected_N = piece_bytes(basis.maker.processor, stream.tokens)
        if fault := _text_fault(basis.maker.processor, stream, expected_N):
            return failed(fault)
        for item in basis.items:
            if fault := ledgers[item].bytes_fault(expected_N):
                return failed(f"{item}, {stream.name}: {fault}")
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
        if decode_texts(processor, [stream.tokens[first + 1 : last].tolist()]) != [text]:
            return f"{stream.name}, document {number}: the tokenizer does not give its text back"
        counted, held = int(expected_N[first : last - 1].sum()), len(text.encode())
        if counted != held:
            return f"{stream.name}, document {number}: its pieces stand for {counted} bytes, its text has {held}"
    return None
