"""Tokens as text: SentencePiece's own decoder is the reference."""

import random

from sentencepiece import SentencePieceProcessor

from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.data.case_ops import CASE_FORMS
from pipeline.data.text import encode_texts
from pipeline.inference.pieces import TextOfTokens, piece_bytes, shown_bytes, shown_tokens


def test_text_grows_to_what_the_tokenizer_decodes(toy_processor, toy_documents) -> None:
    bytes_V = piece_bytes(toy_processor)
    for document in toy_documents:
        tokens = toy_processor.encode(document, add_bos=True)
        text = TextOfTokens(bytes_V)
        parts = [text.add(token) for token in tokens]
        assert "".join(parts) + text.end() == toy_processor.decode(tokens)


def test_the_space_before_the_first_word_is_no_text(toy_processor) -> None:
    bytes_V, generator = piece_bytes(toy_processor), random.Random(5)
    whole = [token for token in range(512) if bytes_V[token] and not toy_processor.is_byte(token)]
    words = [token for token in whole if bytes_V[token].startswith(b" ") and not toy_processor.is_unknown(token)]
    for _ in range(50):
        tokens = [toy_processor.bos_id(), generator.choice(words), *generator.choices(whole, k=20)]
        text = TextOfTokens(bytes_V)
        assert "".join(map(text.add, tokens)) == toy_processor.decode(tokens)


def test_characters_come_whole_and_a_broken_one_as_a_sign(toy_processor) -> None:
    tokens = [toy_processor.piece_to_id(f"<0x{byte:02X}>") for byte in "\U0001f600".encode()]
    text = TextOfTokens(piece_bytes(toy_processor))
    assert [text.add(token) for token in tokens] == ["", "", "", "\U0001f600"]
    assert (text.add(tokens[0]), text.end()) == ("", "\ufffd")


def test_any_row_of_tokens_has_a_text(toy_processor) -> None:
    bytes_V, generator = piece_bytes(toy_processor), random.Random(3)
    for _ in range(50):
        tokens = generator.choices(range(512), k=40)
        text = TextOfTokens(bytes_V)
        whole = "".join(map(text.add, tokens)) + text.end()
        assert "\x1b" not in whole
        assert whole.encode().decode() == whole
        assert shown_tokens(tokens, bytes_V).isprintable()


def test_what_a_terminal_would_obey_is_escaped() -> None:
    bytes_V = [b"a", b"\x1b[2J", "\x9b\u202e".encode(), b"\r", b"\n", b"\t"]
    text = TextOfTokens(bytes_V)
    assert "".join(map(text.add, range(6))) == "a\\x1b[2J\\x9b\u202e\\r\n\t"
    assert shown_tokens(range(6), bytes_V) == "a\\x1b[2J\\x9b\\u202e\\r\\n\\t"


def test_capitals_come_back_as_the_text_grows(toy_documents) -> None:
    for form in CASE_FORMS.values():
        processor = SentencePieceProcessor(model_proto=train_tokenizer(toy_documents, 400, form))
        document = f"NASA's McDonald said: THE END. \ue004 {toy_documents[0].title()} ABC"
        tokens = encode_texts(processor, [document])[0]
        text = TextOfTokens(piece_bytes(processor), form)
        parts = [text.add(token) for token in tokens]
        assert document.startswith("".join(parts))
        assert "".join(parts) + text.end() == document
        assert len([part for part in parts if part]) > len(document) / 10  # as it grows, not at the end
        first = encode_texts(processor, ["x The"])[0]
        assert shown_tokens(first, shown_bytes(processor)).replace(" ", "") == "x<title>the"
