"""The frontier's recipes at a tiny size, every part of them on, from text to an audited record.

The text is what every checkout holds: the paragraphs of docs/, capitals and all.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.artifacts import ROOT
from pipeline.base.config import read_yaml
from tests.shrunk_recipes import shrink
from tests.stages.conftest import REPO, make_project

VAL_DOCUMENTS = 20
VOCAB_SIZE = 384
"""Bytes, ASCII and few pieces more: the audit asks for every one of them."""
DATA: dict[str, Any] = {
    "source": "text",
    "fineweb": None,
    "files": ["corpus/*.jsonl"],
    "val_files": ["held-out.jsonl"],
    "val_frac": None,
    "vocab_size": VOCAB_SIZE,
    "shard_tokens": 20000,
}


@pytest.mark.parametrize("name", ["parallel-lanes", "poscond-bigram", "frontier", "fairway-16mb"])
def test_the_record_is_packaged_and_audited(name: str, tmp_path: Path, programs: str) -> None:
    project = make_project(tmp_path, programs)
    pages = [page.read_text("utf-8") for page in sorted((REPO / "docs").glob("*.md"))]
    paragraphs = [part for page in pages for part in page.split("\n\n") if len(part) >= 200]
    lines = [json.dumps({"text": text[:400]}) + "\n" for text in paragraphs]
    (project.root / "corpus/documents.jsonl").write_text("".join(lines[VAL_DOCUMENTS:]))
    (project.root / "held-out.jsonl").write_text("".join(lines[:VAL_DOCUMENTS]))
    recipe = read_yaml(REPO / f"recipes/{name}.yaml")
    shrink(recipe, VOCAB_SIZE)
    recipe |= {"seeds": [1], "data": recipe["data"] | DATA}
    recipe["launch"] |= {"num_processes": 1, "device": "cpu"}
    with open(project.root / "params.yaml", "w") as file:
        project.yaml.dump(recipe, file)
    project.repro()
    root = project.root / ROOT
    verdict = json.loads((root / "submission/audit.json").read_text())
    assert verdict["verdict"] == "pass", [each for each in verdict["checks"] if each["verdict"] != "pass"]
    *_, headline = recipe["evaluate"]["items"]
    scores, blocks = (
        json.loads((root / f"seeds/1/evaluate/scores-{item}.json").read_text()) for item in (headline, "blocks")
    )
    assert scores["bytes"] == blocks["bytes"], "every target of the tail is scored"
