"""From files to documents and tokens: names, places, lengths, and what is refused."""

import io
from pathlib import Path

import pytest
import sentencepiece

from pipeline.corpus.text_files import TextFormat, texts_of_file
from pipeline.data.byte_count import byte_table
from pipeline.inference.documents import Document, encoded, named_documents
from pipeline.inference.source import FinishedModel
from tests.inference.opened import opened


@pytest.fixture(scope="module")
def model(toy_model, tmp_path_factory) -> FinishedModel:
    return opened(tmp_path_factory.mktemp("model"), toy_model)


def documents(name: str, separator: str | None) -> list[Document]:
    """Return the documents of a file in the working directory."""
    return list(named_documents(name, texts_of_file(Path(name), TextFormat("text", separator, "--text-field"))))


@pytest.mark.parametrize(
    ("name", "content", "separator", "expected"),
    [
        ("a.txt", b"one\ntwo\n", None, [("a.txt", "one\ntwo\n")]),
        ("a", b"\xef\xbb\xbfone", None, [("a", "one")]),
        ("a.txt", b"one\n\ntwo\n\n\n\nthree", "\n\n", [("a.txt#1", "one"), ("a.txt#2", "two"), ("a.txt#4", "three")]),
        ("-", b"one<|end|>two<|end|>\n", "<|end|>", [("-#1", "one"), ("-#2", "two")]),
        (
            "a.JSONL",
            b'{"text": "x\\ny"}\r\n\n{"text": ""}\n{"text": "z"}',
            None,
            [("a.JSONL:1", "x\ny"), ("a.JSONL:4", "z")],
        ),
        ("a.txt", b" \n\t ", None, []),
        ("a.jsonl", b"", None, []),
    ],
)
def test_documents_are_named_by_their_places(name, content, separator, expected, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    assert documents(name, separator) == [Document(*each) for each in expected]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"ab\xff", "a.txt: not UTF-8 at byte 2; convert the file to UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 1}', "a.jsonl, line 2: no field 'text' with a string; correct or remove"),
        ("a.jsonl", b'{"texts": "a"}', r"a.jsonl, line 1: no field 'text' .*nearest: texts\); set --text-field, or"),
        ("a.jsonl", b'{"text": "a"', r"a.jsonl, line 1: not JSON \(Expecting ',' delimiter"),
        ("a.jsonl", b"[]", "a.jsonl, line 1: no field 'text' with a string; correct or remove the line"),
        ("a.jsonl", b'{"text": "\\ud83d"}', "a.jsonl, line 1: 'text' holds half a surrogate pair"),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
    ],
)
def test_what_is_no_text_is_one_line(name, content, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{says}") as caught:
        documents(name, None)
    assert "\n" not in str(caught.value)


def test_bytes_are_those_of_the_normalised_text(model, toy_documents) -> None:
    for text in toy_documents[:20]:
        document = encoded(model, Document("d", f"  {text} \n"))
        assert document.bytes == len(model.processor.decode(document.tokens_M.tolist()).encode())
        assert document.text_bytes == len(text.encode()) + 4
        assert document.tokens_M[0] == model.processor.bos_id()
    nothing = encoded(model, Document("d", "\u200b"))  # which the tokenizer's normalisation removes
    assert (nothing.bytes, nothing.text_bytes, len(nothing.tokens_M)) == (0, 3, 0)


def test_text_that_the_tokenizer_cannot_keep_is_refused_by_name(model, toy_documents) -> None:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(toy_documents), model_writer=content, vocab_size=80, model_type="bpe", minloglevel=2
    )
    without_bytes = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    poorer = model._replace(processor=without_bytes, table=byte_table(without_bytes))
    says = r"a\.txt: not exact under \S+toy\.model: .* no pieces for all its characters"
    with pytest.raises(ValueError, match=says) as caught:
        encoded(poorer, Document("a.txt", "\u0416"))
    assert "\n" not in str(caught.value)


def test_half_a_character_is_refused_by_name(model) -> None:
    with pytest.raises(ValueError, match="--prompt: not UTF-8"):
        encoded(model, Document("--prompt", "\udcff"))
