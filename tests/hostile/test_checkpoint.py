"""The reader of checkpoints: whatever the bytes are, it reads them or refuses in one short line."""

import dataclasses
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.artifacts import save_tensors
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.network import build
from tests.hostile.mutations import damaged_bytes, damaged_tensor, damaged_value, reads_or_refuses
from tests.networks import architecture

CONFIGS = [architecture(name) for name in ("tiny", "helix, linear", "folded, no gates, factorised", "frontier")]
CHECKPOINTS = [(build(config).state_dict(), {"model": dataclasses.asdict(config)}) for config in CONFIGS]


def attempt(folder, choose):
    """Damage tensors, config or bytes of a checkpoint and read it."""
    (tensors, meta), path = choose.choice(CHECKPOINTS), folder / "checkpoint.safetensors"
    kind = choose.randrange(3)
    if kind == 0:
        name = choose.choice(list(tensors))
        tensors = {**tensors, name: damaged_tensor(tensors[name], choose)}
    save_tensors(path, tensors, {"model": damaged_value(meta["model"], choose)} if kind == 1 else meta)
    if kind == 2:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    reads_or_refuses(lambda: load_checkpoint(path), ValueError)


@settings(max_examples=60)
@given(choose=st.randoms(use_true_random=False))
def test_a_checkpoint_reads_or_refuses(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_checkpoints(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
