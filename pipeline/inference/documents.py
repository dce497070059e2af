"""Texts to score: from files to documents, and from documents to tokens whose bytes are proven.

The one idea: a document keeps the name of its place (file, line or part), and both of its lengths: the bytes that lie
in the file and those of the text that its tokens spell, which the metric counts. They differ where the tokenizer
normalises: published ones make a space of every run of white space, line breaks included.

Axes: M tokens.
Source: none.
Checked by: tests/inference/test_documents.py.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.base.checks import explain_failure
from pipeline.corpus.encoding import encode_documents
from pipeline.inference.source import FinishedModel


class Document(NamedTuple):
    """A text and where it stands."""

    name: str
    """The file; with `:LINE` or `#PART`, from 1, where it holds several."""
    text: str


class EncodedDocument(NamedTuple):
    """A document as the model reads it."""

    name: str
    text_bytes: int
    """UTF-8 bytes as given."""
    bytes: int
    """UTF-8 bytes of the normalised text, which its tokens spell."""
    tokens_M: np.ndarray
    """uint16: BOS and its pieces; empty when nothing is left after normalisation."""


def documents_of_file(name: str, content: bytes, separator: str | None) -> Iterator[Document]:
    """Yield the documents of a file: lines of a .jsonl, parts between separators, or the whole; blank ones left out.

    Raises ValueError, one line, for what is no UTF-8 and for lines without a text.
    """
    if name.lower().endswith(".jsonl"):
        yield from (each for each in _json_documents(name, content) if each.text.strip())
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from None
    parts = [text] if separator is None else text.split(separator)
    for number, part in enumerate(parts, start=1):
        if part.strip():
            yield Document(name if separator is None else f"{name}#{number}", part)


def encoded(opened: FinishedModel, document: Document) -> EncodedDocument:
    """Return a document as tokens, proven to decode back and to count exactly its bytes.

    Raises ValueError naming a document whose text the tokenizer cannot represent.
    """
    try:
        text_bytes = len(document.text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{document.name}: not UTF-8; give text that is") from None
    try:
        batch = encode_documents(opened.processor, opened.table, [document.text])
    except ValueError as error:
        raise ValueError(f"{document.name}: not exact under {opened.tokenizer}: {error}") from None
    return EncodedDocument(document.name, text_bytes, batch.bytes, batch.tokens_M)


def _json_documents(name: str, content: bytes) -> Iterator[Document]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                text = json.loads(line)["text"]
                text.encode()
            except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
                why = f" ({explain_failure(error)})" if isinstance(error, ValueError | RecursionError) else ""
                expected = "expected a JSON object with a string `text`"
                raise ValueError(f"{name}:{number}: {expected}{why}; correct or remove the line") from None
            yield Document(f"{name}:{number}", text)
