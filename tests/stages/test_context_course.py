"""Sequences that get longer and keep documents apart, from text to an audited record: the mask goes wherever the model
does."""

import json

import pytest

from pipeline.base.artifacts import ROOT
from pipeline.model.checkpoint import load_checkpoint
from tests.stages.conftest import Project, make_project

BOS = 1
STAGES = [{"from_frac": frac, "context_tokens": tokens} for frac, tokens in ((0.0, 8), (0.4, 16), (0.7, 32))]


@pytest.mark.slow
def test_the_record_is_packaged_and_audited(tmp_path, programs: str) -> None:
    project: Project = make_project(tmp_path, programs)
    project.edit(model={"attention": {"document_bos_id": BOS}}, train={"context_stages": STAGES})
    project.repro()
    root = project.root / ROOT
    assert json.loads((root / "data/manifest.json").read_text())["bos_id"] == BOS
    checkpoint = load_checkpoint(root / "seeds/1/train/checkpoint.safetensors")
    assert checkpoint.config.attention.document_bos_id == BOS
    verdict = json.loads((root / "submission/audit.json").read_text())
    assert verdict["verdict"] == "pass"
