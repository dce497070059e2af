"""The reader of artifacts: whatever the bytes are, it reads them or refuses in one short line."""

import dataclasses
import json
import random
import shutil
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.artifacts import save_tensors
from pipeline.codec.container import QuantizedTensor, encode_artifact
from pipeline.codec.foreign import load_artifact_model
from pipeline.codec.sections import ArtifactError, join_sections, split_sections
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.network import build
from pipeline.quant.roles import tensor_roles
from tests.hostile.mutations import damaged_bytes, damaged_value, reads_or_refuses
from tests.networks import architecture

CONFIGS = [architecture(name) for name in ("tiny", "helix, linear", "folded, no gates, factorised", "frontier")]


def artifact_of(config):
    """Return the file of a fresh network, its matrices as codes."""
    model = build(config)
    tensors = {}
    for name, role in tensor_roles(model).items():
        weight = model.state_dict()[name]
        half = weight.half().numpy()
        codes = weight.mul(100).round().clamp(-127, 127).char().numpy()
        tensors[name] = half if role == "passthrough" else QuantizedTensor(codes, abs(half[:, 0]) + half.dtype.type(1))
    return encode_artifact(tensors, {"model": dataclasses.asdict(config)})


ARTIFACTS = [artifact_of(config) for config in CONFIGS]


def attempt(folder, choose):
    """Damage an artifact, inside its sections so that digests hold, and read it."""
    content = choose.choice(ARTIFACTS)
    sections = split_sections(content)
    if choose.random() < 0.7:
        sections["header"] = json.dumps(damaged_value(json.loads(sections["header"]), choose)).encode()
    else:
        name = choose.choice(list(sections))
        sections[name] = damaged_bytes(sections[name], choose)
    content = damaged_bytes(content, choose) if choose.random() < 0.1 else join_sections(sections)
    (folder / "model.fwy").write_bytes(content)
    reads_or_refuses(lambda: load_artifact_model(folder / "model.fwy"), ArtifactError)


def test_configs_that_raised_something_else_are_one_line(shared, tmp_path):
    sections = split_sections(ARTIFACTS[0])
    for path in (shared / "hostile/parsers").glob("artifact_model*.json"):
        header = {**json.loads(sections["header"]), "meta": json.loads(path.read_text())}
        content = join_sections({**sections, "header": json.dumps(header).encode()})
        (tmp_path / "model.fwy").write_bytes(content)
        save_tensors(tmp_path / "checkpoint.safetensors", {"a": torch.ones(1)}, header["meta"])
        for read, name in ((load_artifact_model, "model.fwy"), (load_checkpoint, "checkpoint.safetensors")):
            started = time.monotonic()
            with pytest.raises((ArtifactError, ValueError), match=rf"^[^\n]*{name}: [^\n]*$") as caught:
                read(tmp_path / name)
            assert len(str(caught.value)) < 1000
            assert time.monotonic() - started < 5


@settings(max_examples=60)
@given(choose=st.randoms(use_true_random=False))
def test_an_artifact_reads_or_refuses(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_artifacts(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
