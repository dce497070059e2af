"""A record whose tokenizer takes capitals out: from the text to the audit; what its model then says and scores."""

import json
from pathlib import Path

import pytest

from pipeline.base.artifacts import ROOT
from pipeline.corpus.corpora import text_digest
from pipeline.corpus.prepare import split_of
from tests.stages.conftest import TINY, Project, make_project


def capitals(corpus: str) -> list[str]:
    """Return the lines of a .jsonl with capitals in every document."""
    texts = [json.loads(line)["text"] for line in corpus.splitlines()]
    cased = [f"{text[:90].title()} {text[90:180].upper()} {text[180:]} \ue004\ue005" for text in texts]
    return [json.dumps({"text": text}) + "\n" for text in cased]


def capitalised_project(root: Path, programs: str, case_ops: str) -> Project:
    """Return a tiny project whose words begin with capitals, or are nothing else, or hold a literal marker."""
    project = make_project(root, programs)
    corpus = project.root / "corpus/documents.jsonl"
    corpus.write_text("".join(capitals(corpus.read_text())))
    project.edit(data={"case_ops": case_ops}, evaluate={"items": ["blocks", "sliding", "ttt"]})
    return project


@pytest.mark.slow
@pytest.mark.parametrize("case_ops", ["before-space", "fused"])
def test_the_record_is_packaged_audited_and_used(case_ops, tmp_path: Path, programs: str) -> None:
    project = capitalised_project(tmp_path / "project", programs, case_ops)
    project.repro()
    root = project.root / ROOT
    verdicts = json.loads((root / "submission/audit.json").read_text())["checks"]
    assert {each["id"]: each["verdict"] for each in verdicts}["T4"] == "pass"
    assert "fail" not in {each["verdict"] for each in verdicts}
    lines = (project.root / "corpus/documents.jsonl").read_text().splitlines()
    val = [text for text in map(_text, lines) if split_of(text_digest(text), TINY["data"]["val_frac"]) == "val"]
    assert json.loads((root / "data/manifest.json").read_text())["splits"]["val"]["bytes"] == sum(
        len(" ".join(text.split()).encode()) for text in val
    )
    (project.root / "val.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in val))
    scored = json.loads(project.run("fairway", "score", "val.jsonl", "--joined", "--protocol", "ttt", "--json").stdout)
    expected = json.loads((root / "seeds/1/evaluate/scores-ttt.json").read_text())
    assert (scored["total"]["bpb"], scored["total"]["bytes"]) == (expected["val_bpb"], expected["bytes"])
    written = project.run("fairway", "sample", "--prompt", "The END of McX", "--tokens", "60").stdout
    assert written.startswith("The END of McX")
    assert not set(written) & {*"\ue001\ue002\ue003\ue005\ue006"}
    project.run("fairway", "report", "--html", "page.html")
    page = (project.root / "page.html").read_text()
    assert any(text[:40] in page for text in val)  # those of the worst documents


def _text(line: str) -> str:
    return json.loads(line)["text"]
