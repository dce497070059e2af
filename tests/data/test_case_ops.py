"""Capitals as markers: every text comes back, and the table of bytes is the list of bytes that the text gives."""

import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.corpus.encoding import encode_documents
from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.data.case_ops import (
    CASE_FORMS,
    case_form,
    decode_case,
    encode_case,
    require_case_form,
    settled_characters,
)
from pipeline.data.text import decode_texts, encode_texts, normalised_text
from pipeline.data.tokenizer import SPACE_MARK

FORMS = [pytest.param(form, id=name) for name, form in CASE_FORMS.items()]
AWKWARD = (
    "aBcTHiI  \n\t-'09"  # ASCII
    "\u0130\u0131\u00df\u1e9e\u01c4\u01c5\u01c6\u017f\u212a\ufb01"  # dotted and dotless i, sharp s, digraphs, Kelvin
    "\u0300\u0301\u0307\u0308\u030a\u030c\u0331"  # combining: some join t, w, y, j, h and no T, W, Y, J, H
    "WYJ\uff21\uff41\u00c9\u0391\u03b1\U0001f600\u2581"
    "\ue000\ue001\ue002\ue003\ue004\ue005\ue006\ue007"
)
TEXTS = st.text(st.sampled_from(AWKWARD), max_size=30) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = ["The", "the", "THE", "McDonald", "iPhone", "I", "NASA's", "U.S.", "A-B", "aBC", "ABc", "x"]


def oracle(text: str, form) -> str:
    """Return `encode_case` character by character: runs found one after the other, markers put where the form says."""
    parts, at = [], 0
    while at < len(text):
        end = at
        while end < len(text) and text[end].isascii() and text[end].isalpha():
            end += 1
        run = text[at:end]
        if not run:
            parts += [form.escape] * (text[at] in form.markers) + [text[at]]
            at += 1
            continue
        capitals = [each.isupper() for each in run]
        marker = ""
        if all(capitals) and len(run) > 1:
            marker, capitals = form.all_caps, []
        elif capitals[0]:
            marker = form.title
        hop = form.before_space and marker != "" and len(parts) > 1 and parts[-1] == " "
        parts.insert(len(parts) - hop, marker)
        for number, letter in enumerate(run):
            parts += [form.cap_next] * bool(number and capitals and capitals[number]) + [letter.lower()]
        at = end
    return "".join(parts)


def machine(text: str, form) -> str:
    """Return `decode_case` as a state machine over the characters of a text that `encode_case` made."""
    out, state = "", ""
    for before, each in zip(" " + text, text, strict=False):
        if state == form.escape:
            out, state = out + each, ""
        elif each in form.markers:
            state = each
        elif each == " " and state != "" and before == state:
            out += each
        else:
            letter = each.isascii() and each.isalpha()
            out += each.upper() if state and letter else each
            state = state if state == form.all_caps and letter else ""
    return out


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=200)
@given(TEXTS)
@example(" The THE a  The\nThe (The)")
@example("\ue004\ue001The \ue005 THE")
def test_a_text_comes_back_and_is_marked_as_the_oracle_says(form, text):
    marked = encode_case(text, form)
    assert marked == oracle(text, form)
    assert decode_case(marked, form) == machine(marked, form) == text
    assert not re.search("[A-Z]", marked)
    for cut in range(len(marked) + 1):
        settled = settled_characters(marked[:cut], form)
        assert text.startswith(decode_case(marked[:settled], form))
        assert decode_case(marked[:settled], form) + decode_case(marked[settled:], form) == text


def test_forms_differ_in_where_the_marker_stands():
    published, before = CASE_FORMS["published"], CASE_FORMS["before-space"]
    assert encode_case("In New YORK, iPhone", published) == "\ue001in \ue001new \ue002york, i\ue003phone"
    assert encode_case("In New YORK, iPhone", before) == "\ue005in\ue005 new\ue006 york, i\ue003phone"
    assert encode_case(" A  B\nC (D", before) == " \ue005a \ue005 b\n\ue005c (\ue005d"
    assert decode_case("\ue005 a\ue006\ue001 \ue003", before) == " A\ue001 "  # what a model may write


def test_a_long_word_takes_no_time():
    form = CASE_FORMS["before-space"]
    for text in ("a" * 10**6, " " * 10**6, "aB" * 10**5, "\ue004" * 10**5):
        assert decode_case(encode_case(text, form), form) == text


@pytest.fixture(scope="module")
def tokenizers(toy_documents) -> dict[str, sentencepiece.SentencePieceProcessor]:
    documents = [" ".join([*WORDS, text.title()]) for text in toy_documents]
    models = {name: train_tokenizer(documents, 512, form) for name, form in CASE_FORMS.items()}
    return {name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in models.items()}


@pytest.mark.parametrize("name", CASE_FORMS)
def test_a_trained_tokenizer_reserves_the_markers_and_tells_its_form(name, tokenizers, toy_processor):
    processor, form = tokenizers[name], CASE_FORMS[name]
    assert processor.id_to_piece([*range(4, 4 + len(form.reserved))]) == form.reserved
    assert processor.id_to_piece(4 + len(form.reserved)) == "<0x00>"
    assert case_form(processor) == form
    pieces = [processor.id_to_piece(token) for token in encode_texts(processor, ["of the The THE"])[0]]
    the, mark = f"{SPACE_MARK}the", form.markers
    assert (
        pieces[1 if pieces[0] == f"{SPACE_MARK}of" else pieces.index(the) :]
        == {
            "published": [the, SPACE_MARK, mark[0], "the", SPACE_MARK, mark[1], "the"],
            "fused": [the, SPACE_MARK + mark[0], "the", SPACE_MARK + mark[1], "the"],
            "before-space": [the, mark[0], the, mark[1], the],
        }[name]
    )
    require_case_form(processor, name)
    with pytest.raises(ValueError, match=f"data.case_ops: got None, expected {name}, the form that the tokenizer"):
        require_case_form(processor, None)
    with pytest.raises(ValueError, match=f"data.case_ops: got '{name}', expected null, the form that the tokenizer"):
        require_case_form(toy_processor, name)


def side_car(processor: sentencepiece.SentencePieceProcessor, tokens: list[int], form) -> list[int]:
    """Return the bytes of the original text that each token stands for, by the published rule.

    A space that begins a document is none of its text: decoding drops it.
    """
    texts = [processor.id_to_piece(token).replace(SPACE_MARK, " ").strip(form.markers) for token in tokens]
    texts[:1] = [text.removeprefix(" ") for text in texts[:1]]
    return [1 if processor.is_byte(token) else len(text.encode()) for token, text in zip(tokens, texts, strict=True)]


@settings(max_examples=100)
@given(st.lists(TEXTS | st.lists(st.sampled_from(WORDS)).map(" ".join), max_size=3))
@example(["\u2581\ue001", "\u2581A"])
@example([" T\u0308he J\u030cA\u0331", "\uff34HE A\uff22 \ue004\ue001B", "e\uff25\u0301"])
@pytest.mark.parametrize("name", CASE_FORMS)
def test_any_document_comes_back_and_counts_the_bytes_of_its_normalised_text(name, tokenizers, documents):
    processor = tokenizers[name]
    table = byte_table(processor)
    texts = [normalised_text(processor, text) for text in documents]
    batch = encode_documents(processor, table, documents)  # which proves every document, too
    assert batch.bytes == sum(len(text.encode()) for text in texts)
    tokens = encode_texts(processor, documents)
    assert decode_texts(processor, tokens) == texts
    for row, text in zip(tokens, texts, strict=True):
        counted = count_bytes(np.array([processor.bos_id(), *row]), table)
        assert counted.tolist() == side_car(processor, row, CASE_FORMS[name])
        for cut in (at for at, token in enumerate(row) if not processor.is_byte(token)):
            assert int(counted[:cut].sum()) == len(decode_texts(processor, [row[:cut]])[0].encode())
        assert int(counted.sum()) == len(text.encode())
