"""Texts to score: from files to documents, and from documents to tokens whose bytes are proven.

The one idea: a document keeps the name of its place (file, line or part), and both of its lengths: the bytes that lie
in the file and those of the text that its tokens spell, which the metric counts. They differ where the tokenizer
normalises: published ones make a space of every run of white space, line breaks included.

Axes: M tokens.
Source: none.
Checked by: tests/inference/test_documents.py.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.corpus.encoding import encode_documents
from pipeline.corpus.text_files import PlacedText
from pipeline.inference.source import FinishedModel


class Document(NamedTuple):
    """A text and where it stands."""

    name: str
    """The file; with `:LINE`, `:ROW` or `#PART`, from 1, where it holds several."""
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


def named_documents(file: str, texts: Iterable[PlacedText]) -> Iterator[Document]:
    """Yield the texts of a file, named by their places; blank ones are left out."""
    return (Document(f"{file}{placed.place}", placed.text) for placed in texts if placed.text.strip())


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
