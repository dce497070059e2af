"""The frontier's recipes at a tiny size, every part of them on, from text to an audited record.

The text is what every checkout holds: the paragraphs of docs/, capitals and all.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.artifacts import ROOT
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
MODEL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "context_tokens": 64,
    "model_dim": 32,
    "embedding_dim": 32,
    "attention": {"num_heads": 2, "num_kv_heads": 1},
    "rope": {"dims": 8},
}
TRAIN: dict[str, Any] = {
    "max_steps": 20,
    "max_seconds": None,
    "reserve_seconds": 0.0,
    "batch_tokens": 512,
    "micro_batch_sequences": None,
    "warmup_steps": 2,
    "muon_momentum_warmup_steps": 4,
    "log_every_steps": 2,
    "compile": False,
}
CALIBRATE = {"num_sequences": 16, "batch_sequences": 8, "sensitivity_sequences": 4}
BUDGET = {"limit_bytes": 130_000, "code_reserve_bytes": 40_000, "tolerance_frac": 0.02}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "sliding": {"stride_tokens": 32},
    "ttt": {"stride_tokens": 32, "chunk_tokens": 256, "epochs": 1},
    "lora-ttt": {"chunk_tokens": 32, "batch_documents": 4, "rank": 4},
    "phased-ttt": {"chunk_tokens": 32, "batch_documents": 4, "lane_documents": 2, "rank": 4},
}
PHASE = {"documents": 6, "context_tokens": 32, "chunk_tokens": 128, "batch_sequences": 4}


def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the changes that make a recipe tiny: what is off stays off, what is on stays on."""
    model, train, calibrate = dict(MODEL), dict(TRAIN), dict[str, Any](CALIBRATE)
    if recipe["model"]["bigram"]:
        model["bigram"] = {"buckets": 32, "dim": 16}
    if stages := recipe["train"]["context_stages"]:
        lengths = [MODEL["context_tokens"] >> shorter for shorter in reversed(range(len(stages)))]
        train["context_stages"] = [
            {**stage, "context_tokens": tokens} for stage, tokens in zip(stages, lengths, strict=True)
        ]
    if recipe["calibrate"]["mixture"]:
        calibrate["mixture"] = {"tokens": 2000}
    protocols = recipe["evaluate"]["protocols"]
    for protocol in protocols.values():
        protocol.update(PROTOCOLS[protocol["kind"]])
        if protocol.get("global_phase"):
            protocol["global_phase"].update(PHASE)
    return {
        "seeds": [1],
        "data": DATA,
        "model": model,
        "train": train,
        "launch": {"num_processes": 1, "device": "cpu"},
        "calibrate": calibrate,
        "budget": BUDGET,
        "evaluate": {"batch_tokens": 512, "protocols": protocols},
    }


@pytest.mark.parametrize("name", ["parallel-lanes", "poscond-bigram", "frontier", "fairway-16mb"])
def test_the_record_is_packaged_and_audited(name: str, tmp_path: Path, programs: str) -> None:
    project = make_project(tmp_path, programs)
    paragraphs = [
        part for page in sorted((REPO / "docs").glob("*.md")) for part in page.read_text("utf-8").split("\n\n")
    ]
    lines = [json.dumps({"text": text[:400]}) + "\n" for text in paragraphs if len(text) >= 200]
    (project.root / "corpus/documents.jsonl").write_text("".join(lines[VAL_DOCUMENTS:]))
    (project.root / "held-out.jsonl").write_text("".join(lines[:VAL_DOCUMENTS]))
    shutil.copyfile(REPO / f"recipes/{name}.yaml", project.root / "params.yaml")
    recipe = project.yaml.load((project.root / "params.yaml").read_text())
    project.edit(**small(recipe))
    project.repro()
    root = project.root / ROOT
    verdict = json.loads((root / "submission/audit.json").read_text())
    assert verdict["verdict"] == "pass", [each for each in verdict["checks"] if each["verdict"] != "pass"]
    *_, headline = recipe["evaluate"]["items"]
    scores, blocks = (
        json.loads((root / f"seeds/1/evaluate/scores-{item}.json").read_text()) for item in (headline, "blocks")
    )
    assert scores["bytes"] == blocks["bytes"], "every target of the tail is scored"
