"""Tokens as text, piece by piece: what each stands for in bytes, and what a screen may show of it.

The one idea: a piece is bytes, not characters, because a character may be spread over several byte pieces. Text is
decoded from the bytes of a whole row of tokens, and while it is still being made, whenever a character is complete.

Source: none.
Checked by: tests/inference/test_pieces.py, against SentencePiece's own decoder.
"""

import codecs
import unicodedata
from collections.abc import Iterable, Sequence

import sentencepiece

from pipeline.data.case_ops import CaseForm, case_form, decode_case, settled_characters
from pipeline.data.tokenizer import SPACE_MARK

_UNKNOWN = " \u2047 "
"""What SentencePiece writes for a piece that stands for an unknown character."""


def piece_bytes(processor: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    """Return the UTF-8 bytes that each token stands for; control and unused pieces stand for none."""
    return [_bytes_of(processor, token) for token in range(processor.vocab_size())]


def shown_bytes(processor: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    """Return what a screen shows for each token: its bytes, of a marker of capitals its name."""
    bytes_V = piece_bytes(processor)
    if form := case_form(processor):
        for token in form.silent_tokens:
            text = bytes_V[token].decode()
            name = form._fields[form.markers.index(text[-1])]
            bytes_V[token] = f"{text[:-1]}<{name}>".encode()
    return bytes_V


def _bytes_of(processor: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    piece = processor.id_to_piece(token)
    if processor.is_control(token) or processor.is_unused(token):
        return b""
    if processor.is_byte(token):
        return bytes([int(piece[3:5], 16)])  # <0xE2>
    return (_UNKNOWN if processor.is_unknown(token) else piece.replace(SPACE_MARK, " ")).encode()


class TextOfTokens:
    """Text that grows with its tokens: each character once its last byte, and what decides its case, are there."""

    def __init__(self, bytes_V: Sequence[bytes], form: CaseForm | None = None) -> None:
        """`bytes_V`: as `piece_bytes` gives them; `form`: how the tokenizer takes capitals out.

        Control characters, which a terminal would obey, come as escapes.
        """
        self.bytes_V, self.form, self.held = bytes_V, form, ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.begun = False

    def add(self, token: int) -> str:
        """Return what one more token adds, often nothing; the space before a document's first word is no text."""
        content = self.bytes_V[token]
        if not self.begun:
            content = content.removeprefix(b" ")
        self.begun |= bool(self.bytes_V[token])
        return _harmless(self._cased(self.decoder.decode(content), final=False))

    def end(self) -> str:
        """Return what is left: a word whose case was still open, a sign for a character that was never completed."""
        return _harmless(self._cased(self.decoder.decode(b"", final=True), final=True))

    def _cased(self, text: str, final: bool) -> str:
        if self.form is None:
            return text
        text = self.held + text
        settled = len(text) if final else settled_characters(text, self.form)
        self.held = text[settled:]
        return decode_case(text[:settled], self.form)


def shown_tokens(tokens: Iterable[int], bytes_V: Sequence[bytes]) -> str:
    """Return tokens as text of one line: parts of characters, and what cannot be printed, as escapes."""
    text = b"".join(bytes_V[token] for token in tokens).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _harmless(text: str) -> str:
    """Return a text with control characters, which a terminal would obey, as escapes; lines and tabs stay."""
    return "".join(
        ascii(each)[1:-1] if unicodedata.category(each) == "Cc" and each not in "\n\t" else each for each in text
    )
