"""What `fairway score` says: for people a table and the dearest tokens in their places, for programs the same as JSON.

Checked by: tests/inference/test_inference_report.py.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.base.checks import counted, one_line
from pipeline.data.byte_count import bits_per_byte
from pipeline.inference.costs import DearToken, DocumentCost, dearest_tokens, total_cost
from pipeline.inference.pieces import shown_bytes, shown_tokens
from pipeline.inference.source import CHECKPOINT, FinishedModel
from pipeline.scoring.config import Protocol

TOKENS_BEFORE, TOKENS_AFTER = 12, 4
"""How much of its document a dear token is shown with."""
MOST_ROWS = 40
"""Documents in a table; JSON has all."""
_LONGEST_NAME = 60
_LONGEST_ESCAPE = 10
"""Characters of an escape in the place of one that is not shown."""


def cost_report(
    opened: FinishedModel, costs: Sequence[DocumentCost], protocol: Protocol, joined: bool, dearest: int
) -> dict[str, Any]:
    """Return scores of documents as JSON-able values, with the `dearest` tokens of all."""
    bytes_V = shown_bytes(opened.processor)
    nats, num_bytes = total_cost(costs), sum(cost.document.bytes for cost in costs)
    return {
        "model": str(opened.weights),
        "weights": "float" if opened.weights.suffix == CHECKPOINT else "artifact",
        "tokenizer": str(opened.tokenizer),
        "protocol": asdict(protocol),
        "joined": joined,
        "documents": [_document_entry(cost) for cost in costs],
        "total": {
            "documents": len(costs),
            "text_bytes": sum(cost.document.text_bytes for cost in costs),
            "bytes": num_bytes,
            "tokens": sum(_num_tokens(cost) for cost in costs),
            "nats": nats,
            "bpb": bits_per_byte(nats, num_bytes) if num_bytes else None,
        },
        "dearest": [_dear_entry(costs, token, bytes_V) for token in dearest_tokens(costs, dearest)],
    }


def cost_table(report: dict[str, Any]) -> str:
    """Return a report as lines for people: a row per document, all of them together, the dearest tokens."""
    total, documents = report["total"], report["documents"]
    rows = [_row(_shown_name(each["name"]), each) for each in documents[:MOST_ROWS]]
    if len(documents) > MOST_ROWS:
        rows.append([f"and {len(documents) - MOST_ROWS:,} more (--json has all)", "", "", ""])
    if len(documents) > 1:
        rows.append(_row(f"all {counted(len(documents), 'document')}", total))
    lines = _aligned([["document", "bytes", "tokens", "bits per byte"], *rows], "<>>>")
    if total["text_bytes"] != total["bytes"]:
        lines.append(
            f"bytes are those of the text as its tokenizer reads it: {total['bytes']:,} of {total['text_bytes']:,}"
        )
    if report["dearest"]:
        cells = [
            [f"{each['bits']:.2f}", _shown_name(each["document"]), str(each["place"]), _in_place(each)]
            for each in report["dearest"]
        ]
        lines += ["", *_aligned([["bits", "document", "token", "dearest tokens, in their places"], *cells], "><><")]
    return "\n".join(lines)


def _shown_name(name: str) -> str:
    """Return the end of a document's name, which tells it from others, as printable text."""
    shown = one_line(name, len(name) * _LONGEST_ESCAPE)
    return shown if len(shown) <= _LONGEST_NAME else f"...{shown[3 - _LONGEST_NAME :]}"


def _document_entry(cost: DocumentCost) -> dict[str, Any]:
    document = cost.document
    sizes = {"text_bytes": document.text_bytes, "bytes": document.bytes, "tokens": _num_tokens(cost)}
    return {"name": document.name, **sizes, "nats": math.fsum(cost.nats_N), "bpb": cost.bits_per_byte()}


def _num_tokens(cost: DocumentCost) -> int:
    """Return a document's tokens without its BOS."""
    return max(0, len(cost.document.tokens_M) - 1)


def _dear_entry(costs: Sequence[DocumentCost], token: DearToken, bytes_V: Sequence[bytes]) -> dict[str, Any]:
    cost, place = costs[token.number], token.place
    ids = cost.tokens_M.tolist()
    return {
        "document": cost.document.name,
        "place": place,
        "token": ids[place],
        "text": shown_tokens(ids[place : place + 1], bytes_V),
        "before": shown_tokens(ids[max(0, place - TOKENS_BEFORE) : place], bytes_V),
        "after": shown_tokens(ids[place + 1 : place + 1 + TOKENS_AFTER], bytes_V),
        "ends_document": place == len(cost.document.tokens_M),
        "bits": token.nats / math.log(2.0),
    }


def _in_place(entry: dict[str, Any]) -> str:
    return f"{entry['before']}[{'end of document' if entry['ends_document'] else entry['text']}]{entry['after']}"


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    bpb = "-" if entry["bpb"] is None else f"{entry['bpb']:.4f}"
    return [name, f"{entry['bytes']:,}", f"{entry['tokens']:,}", bpb]


def _aligned(rows: list[list[str]], sides: str) -> list[str]:
    """Return rows as lines whose columns are as wide as their widest cell; `sides`: < or > per column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
