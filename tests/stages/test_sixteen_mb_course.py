"""Recipe fairway-16mb at a tiny size, every part of it on, from real text to an audited record."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.artifacts import ROOT
from tests.stages.conftest import REPO, make_project

CONTEXTS = [(0.0, 16), (0.4, 32), (0.7, 64)]
SMALL: dict[str, Any] = {
    "seeds": [1],
    "data": {"files": ["corpus/*.jsonl"], "val_files": ["held-out.jsonl"], "vocab_size": 512, "shard_tokens": 20000},
    "model": {
        "vocab_size": 512,
        "context_tokens": 64,
        "model_dim": 32,
        "embedding_dim": 32,
        "attention": {"num_heads": 2, "num_kv_heads": 1},
        "rope": {"dims": 8},
    },
    "train": {
        "max_steps": 20,
        "max_seconds": None,
        "reserve_seconds": 0.0,
        "batch_tokens": 512,
        "warmup_steps": 2,
        "muon_momentum_warmup_steps": 4,
        "log_every_steps": 2,
        "compile": False,
        "context_stages": [{"from_frac": frac, "context_tokens": tokens} for frac, tokens in CONTEXTS],
    },
    "launch": {"num_processes": 1, "device": "cpu"},
    "calibrate": {"num_sequences": 16, "batch_sequences": 8, "sensitivity_sequences": 4, "mixture": {"tokens": 2000}},
    "budget": {"limit_bytes": 130_000, "code_reserve_bytes": 40_000, "tolerance_frac": 0.02},
    "evaluate": {"batch_tokens": 512},
}
PHASED: dict[str, Any] = {"chunk_tokens": 16, "batch_documents": 2, "lane_documents": 2, "rank": 4}
PHASE: dict[str, Any] = {"documents": 6, "context_tokens": 32, "chunk_tokens": 128, "batch_sequences": 4}


@pytest.mark.slow
def test_the_record_is_packaged_and_audited(tmp_path: Path, programs: str, shared: Path) -> None:
    """Of real documents, capitals and all: the first characters of each, for scoring takes its time."""
    project = make_project(tmp_path, programs)
    texts = [json.loads(line)["text"] for line in (shared / "data/fineweb_docs.jsonl").read_text("utf-8").splitlines()]
    lines = [json.dumps({"text": text[:400]}) + "\n" for text in texts]
    (project.root / "corpus/documents.jsonl").write_text("".join(lines[20:]))
    (project.root / "held-out.jsonl").write_text("".join(lines[:20]))
    shutil.copyfile(REPO / "recipes/fairway-16mb.yaml", project.root / "params.yaml")
    protocols = project.yaml.load((project.root / "params.yaml").read_text())["evaluate"]["protocols"]
    protocols["phased"].update(PHASED)
    protocols["phased"]["global_phase"].update(PHASE)
    small = {**SMALL, "evaluate": {**SMALL["evaluate"], "protocols": protocols}}
    project.edit(**small)
    project.repro()
    root = project.root / ROOT
    verdict = json.loads((root / "submission/audit.json").read_text())
    assert verdict["verdict"] == "pass", [each for each in verdict["checks"] if each["verdict"] != "pass"]
    phased = json.loads((root / "seeds/1/evaluate/scores-phased.json").read_text())
    blocks = json.loads((root / "seeds/1/evaluate/scores-blocks.json").read_text())
    assert phased["bytes"] == blocks["bytes"], "every target of the tail is scored"
