"""Text to tokens and back with any tokenizer, also one whose text has its capitals taken out.

The one idea: the text that counts is what the tokenizer's own normaliser makes of a document. Capitals are taken out of
that text, not of the document, and what results is encoded as it is: normalising once more could join what lower case
brings together (t and a combining diaeresis), and bytes would no longer be those of the text. A marker that the text
itself holds is an escape and the marker's byte pieces: marker pieces never stand for bytes.

Differs: published shards have the marker's piece after an escape.

Checked by: tests/data/test_case_ops.py, tests/corpus/test_encoding.py.
"""

from collections.abc import Sequence
from functools import lru_cache

import sentencepiece

from pipeline.data.case_ops import CaseForm, case_form, decode_case, encode_case
from pipeline.data.tokenizer import SPACE_MARK

_NO_NORMALISATION = b"\x1a\x10\x0a\x08identity\x12\x00\x18\x00\x20\x00"
"""Appended to a model: field 3, its normaliser, with name, rules, dummy prefix and removal of spaces replaced."""


def normalised_text(processor: sentencepiece.SentencePieceProcessor, text: str) -> str:
    """Return the text the metric counts: the tokenizer's normalisation, without a space before the first word."""
    return _normalised(processor, text).removeprefix(" ")


def encode_texts(processor: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text, without BOS."""
    form = case_form(processor)
    if form is None:
        return list(processor.encode(list(texts)))
    marked = [encode_case(_normalised(processor, text), form) for text in texts]
    token_lists = _without_normaliser(processor).encode(marked)
    return [
        _spelled(processor, form, tokens) if form.escape in text else tokens
        for text, tokens in zip(marked, token_lists, strict=True)
    ]


def decode_texts(processor: sentencepiece.SentencePieceProcessor, token_lists: Sequence[list[int]]) -> list[str]:
    """Return the text of each list of tokens; of a document's, the normalised one."""
    form, texts = case_form(processor), list(processor.decode(list(token_lists)))
    return texts if form is None else [decode_case(text, form) for text in texts]


def _spelled(processor: sentencepiece.SentencePieceProcessor, form: CaseForm, tokens: list[int]) -> list[int]:
    """Return tokens with byte pieces for every marker after an escape."""
    spelled: list[int] = []
    escape = processor.piece_to_id(form.escape)
    for token in tokens:
        if spelled and spelled[-1] == escape:
            spelled += [processor.piece_to_id(f"<0x{byte:02X}>") for byte in processor.id_to_piece(token).encode()]
        else:
            spelled.append(token)
    return spelled


def _normalised(processor: sentencepiece.SentencePieceProcessor, text: str) -> str:
    return str(processor.normalize(text)).replace(SPACE_MARK, " ")


@lru_cache(maxsize=4)
def _without_normaliser(processor: sentencepiece.SentencePieceProcessor) -> sentencepiece.SentencePieceProcessor:
    """Return a tokenizer's like that takes a text as it is."""
    return sentencepiece.SentencePieceProcessor(model_proto=processor.serialized_model_proto() + _NO_NORMALISATION)
