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

from pipeline.data.tokenizer import SPACE_MARK

_UNKNOWN = " \u2047 "
"""What SentencePiece writes for a piece that stands for an unknown character."""


def piece_bytes(processor: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    """Return the UTF-8 bytes that each token stands for; control and unused pieces stand for none."""
    return [_bytes_of(processor, token) for token in range(processor.vocab_size())]


def _bytes_of(processor: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    piece = processor.id_to_piece(token)
    if processor.is_control(token) or processor.is_unused(token):
        return b""
    if processor.is_byte(token):
        return bytes([int(piece[3:5], 16)])  # <0xE2>
    return (_UNKNOWN if processor.is_unknown(token) else piece.replace(SPACE_MARK, " ")).encode()


class TextOfTokens:
    """Text that grows with its tokens: every character as soon as its last byte is there."""

    def __init__(self, bytes_V: Sequence[bytes]) -> None:
        """`bytes_V`: as `piece_bytes` gives them. Control characters, which a terminal would obey, come as escapes."""
        self.bytes_V = bytes_V
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.begun = False

    def add(self, token: int) -> str:
        """Return what one more token adds, often nothing; the space before a document's first word is no text."""
        content = self.bytes_V[token]
        if not self.begun:
            content = content.removeprefix(b" ")
        self.begun |= bool(self.bytes_V[token])
        return _harmless(self.decoder.decode(content))

    def end(self) -> str:
        """Return what is left: a sign for a character that was never completed."""
        return self.decoder.decode(b"", final=True)


def shown_tokens(tokens: Iterable[int], bytes_V: Sequence[bytes]) -> str:
    """Return tokens as text of one line: parts of characters, and what cannot be printed, as escapes."""
    text = b"".join(bytes_V[token] for token in tokens).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _harmless(text: str) -> str:
    """Return a text with control characters, which a terminal would obey, as escapes; lines and tabs stay."""
    return "".join(
        ascii(each)[1:-1] if unicodedata.category(each) == "Cc" and each not in "\n\t" else each for each in text
    )
