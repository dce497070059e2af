"""The reader of snapshots: a damaged one is said and ignored, whatever its bytes are; training starts anew."""

import json
import random
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.ranks import Ranks
from pipeline.training.snapshot import Snapshots
from tests.hostile.mutations import damaged_bytes, damaged_value

IDENTITY = {"seed": 1, "model": {"width": 4}, "torch": "2"}


def restored(folder, told):
    """Return the step at which a run of a small network would go on, and its curve."""
    torch.manual_seed(0)
    parts = {"model": torch.nn.Linear(3, 2)}
    with Snapshots(folder, IDENTITY, 60.0, Ranks(0, 0, 1), torch.device("cpu"), [], told.append) as snapshots:
        return snapshots.restore(parts)


def write_snapshot(folder):
    """Leave a snapshot of step 5."""
    parts = {"model": torch.nn.Linear(3, 2)}
    with Snapshots(folder, IDENTITY, 60.0, Ranks(0, 0, 1), torch.device("cpu"), ["line"], lambda line: None) as writer:
        writer.restore(parts)
        writer.save(5, 1.5, [{"step": 5, "loss": 2.0}])


def attempt(folder, choose):
    """Damage the manifest or the state of a snapshot and restore from it: from there, or from the beginning."""
    write_snapshot(folder)
    path = choose.choice(sorted(folder.iterdir()))
    if path.name == "snapshot.json" and choose.random() < 0.7:
        path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), choose)))
    else:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    told: list[str] = []
    step, seconds, _ = restored(folder, told)
    assert (step == 0) == (seconds == 0.0)
    assert step > 0 or len(told) == 1
    assert all("\n" not in line and len(line) < 1000 for line in told)


def test_a_sound_snapshot_is_restored(tmp_path):
    write_snapshot(tmp_path)
    assert restored(tmp_path, []) == (5, 1.5, [{"step": 5, "loss": 2.0}])


@settings(max_examples=60)
@given(choose=st.randoms(use_true_random=False))
def test_a_snapshot_is_restored_or_ignored(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_snapshots(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
        shutil.rmtree(tmp_path)
