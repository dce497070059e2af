"""What a person and a program read: figures that add up, names that cannot harm, tokens in their places."""

import json

import pytest

from pipeline.base.progress import silent
from pipeline.inference.costs import default_protocol, score_documents
from pipeline.inference.documents import Document, encoded
from pipeline.inference.report import MOST_ROWS, TOKENS_BEFORE, cost_report, cost_table
from pipeline.inference.source import FinishedModel
from tests.inference.opened import opened


@pytest.fixture(scope="module")
def model(toy_model, tmp_path_factory) -> FinishedModel:
    return opened(tmp_path_factory.mktemp("model"), toy_model)


def report(model: FinishedModel, texts: dict[str, str], joined: bool = False, dearest: int = 0) -> dict:
    documents, protocol = [encoded(model, Document(*each)) for each in texts.items()], default_protocol(model)
    costs = score_documents(model, documents, protocol, joined, silent)
    return json.loads(json.dumps(cost_report(model, costs, protocol, joined, dearest), allow_nan=False))


def test_documents_add_up_to_the_total(model, toy_documents) -> None:
    found = report(model, {str(number): text for number, text in enumerate([*toy_documents[:5], "\u200b"])})
    for key in ("text_bytes", "bytes", "tokens"):
        assert sum(each[key] for each in found["documents"]) == found["total"][key]
    assert sum(each["nats"] for each in found["documents"]) == pytest.approx(found["total"]["nats"])
    assert (found["documents"][-1]["bpb"], found["documents"][-1]["tokens"]) == (None, 0)
    assert (found["weights"], found["protocol"]["kind"], found["joined"]) == ("float", "sliding", False)


def test_the_table_has_a_row_per_document_and_one_of_all(model, toy_documents) -> None:
    found = report(model, {"a.txt": f"{toy_documents[0]}\n", "\x1b[31mred": toy_documents[1], "c": "\u200b"})
    head, *rows, note = cost_table(found).splitlines()
    assert head.split() == ["document", "bytes", "tokens", "bits", "per", "byte"]
    assert [row.split()[0] for row in rows] == ["a.txt", "\\x1b[31mred", "c", "all"]
    assert rows[0].split()[-1] == f"{found['documents'][0]['bpb']:.4f}"
    assert rows[2].split()[1:] == ["0", "0", "-"]
    assert rows[3].split()[-1] == f"{found['total']['bpb']:.4f}"
    assert note.startswith("bytes are those of the text as its tokenizer reads it")


def test_one_document_is_one_row_and_many_are_cut_short(model) -> None:
    assert len(cost_table(report(model, {"a": "ka"})).splitlines()) == 2
    lines = cost_table(report(model, {str(number): "ka" for number in range(MOST_ROWS + 3)})).splitlines()
    assert len(lines) == 1 + MOST_ROWS + 2
    assert lines[-2].startswith("and 3 more (--json has all)")


def test_dear_tokens_stand_in_their_places(model, toy_documents) -> None:
    text = toy_documents[3]
    found = report(model, {"d": text}, dearest=1000)
    read = model.processor.decode(model.processor.encode(text))
    assert len(found["dearest"]) == found["total"]["tokens"]
    for each in found["dearest"]:
        place = (each["before"] + each["text"] + each["after"]).removeprefix(" ")
        assert "\\x" in place or place in read
        if each["place"] <= TOKENS_BEFORE:  # all of the document up to here
            assert "\\x" in place or read.startswith(place)
    assert sum(each["bits"] for each in found["dearest"]) / found["total"]["bytes"] == pytest.approx(
        found["total"]["bpb"]
    )
    lines = cost_table(report(model, {"d": text}, dearest=3)).splitlines()
    assert lines[-4].split()[:3] == ["bits", "document", "token"]
    assert all("[" in line and "]" in line for line in lines[-3:])


def test_the_end_of_a_joined_document_is_named(model) -> None:
    found = report(model, {"a": "ka", "b": "lo"}, joined=True, dearest=50)
    ends = [each for each in found["dearest"] if each["ends_document"]]
    assert [(each["document"], each["text"]) for each in ends] == [("a", "")]
    assert "[end of document]" in cost_table(found)


def test_of_a_long_name_the_end_is_shown(model) -> None:
    row = cost_table(report(model, {f"{'folder/' * 20}a.jsonl:17": "ka"})).splitlines()[1]
    assert row.startswith("...")
    assert row.split()[0].endswith("folder/a.jsonl:17")
    assert len(row.split()[0]) == 60
