"""Documents to tokens, every document proven: it decodes back, and its tokens count exactly its bytes.

The one idea: both checks run on the normalised text (what the tokenizer's own normaliser makes of a document), in
batches: threads encode and decode, one vectorised lookup counts bytes. A document is BOS and its pieces.

Axes: M tokens of a batch, D documents of a batch.
Source: the scoring rules of the challenge (sum of bytes == UTF-8 length of the normalised document).
Checked by: tests/corpus/test_encoding.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from pipeline.data.byte_count import ByteTable, count_bytes
from pipeline.data.text import decode_texts, encode_texts, normalised_text

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 1 << 21


class EncodedBatch(NamedTuple):
    """Consecutive documents as one stream of tokens."""

    tokens_M: np.ndarray
    """uint16: BOS and pieces of each document in turn."""
    documents: int
    """Documents that are not empty after normalisation."""
    bytes: int
    """UTF-8 bytes of their normalised text."""


def batch_documents(documents: Iterable[Any], text_of: Callable[[Any], str] = str) -> Iterator[list[Any]]:
    """Group documents, whose texts `text_of` returns, into batches bounded in number and in characters."""
    batch: list[Any] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(text_of(document))
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_documents(
    processor: sentencepiece.SentencePieceProcessor, table: ByteTable, documents: Sequence[str]
) -> EncodedBatch:
    """Encode documents, dropping those that normalise to nothing.

    ValueError naming the document when it does not survive the round trip or its bytes do not add up.
    """
    texts = [normalised_text(processor, text) for text in documents]
    kept = [(text, given) for text, given in zip(texts, documents, strict=True) if text]
    if not kept:
        return EncodedBatch(np.zeros(0, np.uint16), 0, 0)
    token_lists = [[processor.bos_id(), *tokens] for tokens in encode_texts(processor, [given for _, given in kept])]
    for (text, given), decoded in zip(kept, decode_texts(processor, token_lists), strict=True):
        # Decoders strip one leading space, all or none; the count below holds those that the text has.
        if decoded.lstrip(" ") != text.lstrip(" "):
            raise ValueError(_lossy_document(given, _loss(processor, given, decoded)))
    tokens_M = np.concatenate([np.asarray(tokens, np.uint16) for tokens in token_lists])
    starts_D = np.cumsum([0] + [len(tokens) for tokens in token_lists[:-1]])
    # BOS in front of every document counts nothing, so the first token needs no predecessor.
    bytes_M = np.concatenate([np.zeros(1, np.int64), count_bytes(tokens_M, table)])
    bytes_D = np.add.reduceat(bytes_M, starts_D)
    for (text, given), counted in zip(kept, bytes_D.tolist(), strict=True):
        if counted != len(text.encode()):
            fault = f"counts {counted} bytes instead of {len(text.encode())} with this tokenizer; use another"
            raise ValueError(_lossy_document(given, fault))
    return EncodedBatch(tokens_M, len(kept), int(bytes_D.sum()))


def _loss(processor: sentencepiece.SentencePieceProcessor, text: str, decoded: str) -> str:
    """Return what a document that decodes to another text loses, and the remedy."""
    fault = "does not survive encoding and decoding with this tokenizer"
    if processor.unk_id() in encode_texts(processor, [text])[0]:
        return f"{fault}, which has no pieces for all its characters; use one with byte fallback"
    return f"{fault}: it becomes {decoded[:40]!r}; use one that keeps its text"


def _lossy_document(text: str, fault: str) -> str:
    """Return the one-line message for a document the tokenizer cannot represent."""
    return f"data.tokenizer_model: document {text[:40]!r}... {fault}, or train one (data.tokenizer_model: null)"
