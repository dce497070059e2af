"""The streams that the audit asks about, made from a tokenizer alone.

One idea: text first, tokens second. Every document is a text that survives encoding and decoding, so that its bytes are
known without any table; phrases recur, so that caches and hints that live on repetition have something to find.

Axes: M tokens of a stream.
Source: the mini streams of the audit (docs/legality.md): empty, one-token and over-long documents included.
Checked by: tests/audit/test_streams.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sentencepiece

from pipeline.base.checks import require
from pipeline.data.case_ops import case_form
from pipeline.data.text import decode_texts, encode_texts
from pipeline.data.tokenizer import SPACE_MARK

_FOREIGN = ("\u00e9t\u00e9", "\u4e2d\u6587", "\U0001f600")
"""Words that fall apart into byte pieces with most tokenizers."""
_NUM_PHRASES = 12
_PHRASE_PIECES = 6
_MOST_EDGES = 8
_PATIENCE = 100
"""How often a foreign tokenizer may change a text, or add nothing to it."""


class Stream(NamedTuple):
    """Tokens and, where they spell known documents, their texts."""

    name: str
    tokens: np.ndarray
    """int64 (M,)."""
    texts: tuple[str, ...]
    """Text of every document, in order."""

    @property
    def starts(self) -> np.ndarray:
        """Positions of the documents' BOS tokens."""
        return np.flatnonzero(self.tokens == self.tokens[0])


class StreamMaker:
    """Makes documents and streams; equal tokenizers and seeds give equal streams."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, seed: int = 0) -> None:
        """Raises ValueError for a tokenizer without BOS."""
        self.processor = processor
        self.vocab_size = processor.vocab_size()
        self.bos_id = processor.bos_id()
        require(self.bos_id >= 0, "tokenizer", "no BOS piece", "a tokenizer with one")
        self.random = np.random.default_rng(seed)
        special = (processor.is_control, processor.is_unknown, processor.is_unused, processor.is_byte)
        ids = range(self.vocab_size)
        self.words = np.array([token for token in ids if not any(test(token) for test in special)])
        has_bytes = any(processor.is_byte(token) for token in ids)
        self.phrases = [self._phrase() for _ in range(_NUM_PHRASES)] + list(_FOREIGN if has_bytes else ())

    def text(self, num_tokens: int) -> str:
        """Return a text of at least `num_tokens` tokens, of recurring phrases, that survives encoding and decoding."""
        text = ""
        for _ in range(_PATIENCE + num_tokens):
            if len(self._encode(text)) >= num_tokens:
                return text
            text = self._settle(f"{text} {self.random.choice(self.phrases)}")
        raise ValueError("tokenizer: its pieces spell no text of some length; use another tokenizer")

    def stream(self, name: str, document_tokens: Sequence[int]) -> Stream:
        """Return a stream of documents of about so many tokens after their BOS; 0 is an empty document."""
        texts = tuple(self.text(length) if length != 1 else self._one_token_text() for length in document_tokens)
        rows = [[self.bos_id, *self._encode(text)] for text in texts]
        return Stream(name, np.array([token for row in rows for token in row]), texts)

    def repeated(self, name: str, num_tokens: int) -> Stream:
        """Return one document that says a text of about so many tokens twice: caches and hints find all of it."""
        text = self.text(num_tokens)
        text = self._settle(f"{text} {text}")
        return Stream(name, np.array([self.bos_id, *self._encode(text)]), (text,))

    def boundaries(self, name: str) -> Stream:
        """Return one document without a text: words after each kind of piece that is no text, and after words."""
        is_edge = (self.processor.is_control, self.processor.is_unknown, self.processor.is_unused)
        edges = [token for token in range(self.vocab_size) if any(test(token) for test in is_edge)]
        spaced = [token for token in self.words.tolist() if self.processor.id_to_piece(token).startswith(SPACE_MARK)]
        rows = [
            [edge, *self.random.choice(spaced or self.words, 2), self.random.choice(self.words)]
            for edge in edges[:_MOST_EDGES]
            if edge != self.bos_id
        ]
        return Stream(name, np.array([self.bos_id, *(int(token) for row in rows for token in row)]), ())

    def changed(self, stream: Stream, positions: np.ndarray) -> np.ndarray:
        """Return the tokens with other words at `positions`; BOS tokens stay where they are and none is added."""
        tokens_M = stream.tokens.copy()
        positions = positions[tokens_M[positions] != self.bos_id]
        picks = self.random.integers(len(self.words) - 1, size=len(positions))
        old = np.searchsorted(self.words, tokens_M[positions])
        is_word = self.words[np.minimum(old, len(self.words) - 1)] == tokens_M[positions]
        tokens_M[positions] = self.words[picks + (is_word & (picks >= old))]
        return tokens_M

    def _encode(self, text: str) -> list[int]:
        return encode_texts(self.processor, [text])[0]

    def _decode(self, tokens: list[int]) -> str:
        return decode_texts(self.processor, [tokens])[0]

    def _phrase(self) -> str:
        pieces = self.random.choice(self.words, self.random.integers(2, _PHRASE_PIECES)).tolist()
        return self._decode(pieces)

    def _settle(self, text: str) -> str:
        """Return what is left of a text once the tokenizer's normaliser changes it no more."""
        for _ in range(_PATIENCE):
            if (decoded := self._decode(self._encode(text))) == text:
                return text
            text = decoded
        raise ValueError("tokenizer: its normaliser never leaves a text alone; use another tokenizer")

    def _one_token_text(self) -> str:
        for token in self.random.permutation(self.words).tolist():
            text = self._decode([token])
            if len(self._encode(text)) == 1 and self._settle(text) == text:
                return text
        raise ValueError("tokenizer: no piece stands for a text of its own; use another tokenizer")


def piece_bytes(processor: sentencepiece.SentencePieceProcessor, tokens_M: np.ndarray) -> np.ndarray:
    """Return int (N,): bytes that each target stands for, given the token before it."""
    counts, after_boundary, form = [], True, case_form(processor)
    markers = form.markers if form else ""
    for token in tokens_M.tolist():
        is_boundary = processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token)
        piece = processor.id_to_piece(token)
        if is_boundary:
            counts.append(0)
        elif processor.is_byte(token):
            counts.append(1)
        else:
            text = piece.strip(markers).replace(SPACE_MARK, " ")
            counts.append(len(text.encode()) - (after_boundary and text.startswith(" ")))
        after_boundary = is_boundary
    return np.array(counts[1:])
