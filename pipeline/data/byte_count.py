"""How many bytes of text a token stands for: the denominator of bits per byte.

The metric divides the summed nats of all targets by ln 2 and by the bytes of the text they spell, so that tokenizers
of different sizes compare. A token's bytes are a table lookup: the UTF-8 length of its piece without the leading space
mark, plus one for that space unless the previous token is a boundary (a document's first word has no space before it).
Byte pieces count one; control, unknown and unused pieces count nothing and are boundaries. Markers of capitals
(`case_ops.py`) count nothing and are no boundaries; a letter has as many bytes as its capital and a marker that is text
is spelled in byte pieces (`text.py`), so that the table is exact without a list of bytes per token. Targets are all
tokens of the stream but the first, BOS targets included: they cost nats and bring no bytes. Summed over a document the
counts equal the UTF-8 length of its normalised text, which `prepare` asserts for every document.

Axes: V vocabulary, M tokens of a stream.
Source: the scoring rules of the Parameter Golf challenge.
Differs: a space mark inside a piece counts as one byte, the space it stands for, not as the three bytes of the mark.
Checked by: tests/data/test_byte_count.py (slow oracle, per-document identity on real documents),
tests/data/test_case_ops.py (a list of bytes per token, made from the text).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

from pipeline.base.checks import require
from pipeline.base.files import atomic_path, read_arrays
from pipeline.data.case_ops import case_form
from pipeline.data.tokenizer import SPACE_MARK

_LARGEST_TABLE_BYTES = 1 << 20
"""A table of 65536 pieces takes a quarter of it."""


class ByteTable(NamedTuple):
    """What each token id contributes to the byte count."""

    base_V: np.ndarray
    """int16: UTF-8 bytes of the piece without its leading space."""
    leading_space_V: np.ndarray
    """bool: the piece starts with a space."""
    boundary_V: np.ndarray
    """bool: a following leading space is not text (control, unknown and unused pieces)."""


def byte_table(processor: sentencepiece.SentencePieceProcessor) -> ByteTable:
    """Build the table of a tokenizer, one entry per piece; markers of capitals, if it reserves any, are no text."""
    table = piece_table(processor)
    if form := case_form(processor):
        table.base_V[[*form.silent_tokens]] = 0
    return table


def piece_table(processor: sentencepiece.SentencePieceProcessor) -> ByteTable:
    """Build the table of a tokenizer whose pieces all are text."""
    num_pieces = processor.vocab_size()
    base_V = np.zeros(num_pieces, np.int16)
    leading_space_V = np.zeros(num_pieces, np.bool_)
    boundary_V = np.zeros(num_pieces, np.bool_)
    for token in range(num_pieces):
        if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
            boundary_V[token] = True
        elif processor.is_byte(token):
            base_V[token] = 1
        else:
            piece = processor.id_to_piece(token)
            leading_space_V[token] = piece.startswith(SPACE_MARK)
            base_V[token] = len(piece.removeprefix(SPACE_MARK).replace(SPACE_MARK, " ").encode())
    return ByteTable(base_V, leading_space_V, boundary_V)


def count_bytes(tokens_M: np.ndarray, table: ByteTable) -> np.ndarray:
    """Return int64 (M-1,): entry j is the bytes of target token j+1 given token j.

    `tokens_M`: 1-D integers; ValueError when an id lies outside the table.
    """
    tokens_M = np.asarray(tokens_M)
    vocab_size = len(table.base_V)
    if tokens_M.size and not 0 <= int(tokens_M.min()) <= int(tokens_M.max()) < vocab_size:
        raise ValueError(
            f"token ids {tokens_M.min()} to {tokens_M.max()} do not fit a byte table of {vocab_size} pieces; "
            "use the tokenizer the shards were written with"
        )
    targets, previous = tokens_M[1:], tokens_M[:-1]
    spaces = table.leading_space_V[targets] & ~table.boundary_V[previous]
    return table.base_V[targets].astype(np.int64) + spaces


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Convert summed nats over `total_bytes` of text into bits per byte."""
    require(total_bytes > 0, "total_bytes", total_bytes, "at least one byte of text to score")
    return float(total_nats) / (math.log(2.0) * int(total_bytes))


def save_byte_table(path: Path, table: ByteTable) -> None:
    """Write the table as an .npz whose bytes depend on the table only."""
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, base_V=table.base_V, leading_space_V=table.leading_space_V, boundary_V=table.boundary_V)


def load_byte_table(path: Path) -> ByteTable:
    """Read a table written by `save_byte_table`; ValueError when it is absent or damaged."""
    try:
        table = ByteTable(**read_arrays(path, ByteTable._fields, _LARGEST_TABLE_BYTES))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable byte table ({error}); run `dvc repro -f prepare`") from error
    shapes = {column.shape for column in table}
    kinds = "".join(column.dtype.kind for column in table)
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or kinds != "ibb" or (table.base_V < 0).any():
        raise ValueError(f"{path}: columns of a byte table do not fit together; run `dvc repro -f prepare`")
    return table
