"""The reader of statistics: whatever the bytes or entries are, it reads them or refuses in one short line."""

import random
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.artifacts import read_tensors, save_tensors
from pipeline.quant.statistics import check_statistics
from tests.hostile.mutations import damaged_bytes, damaged_tensor, damaged_value, reads_or_refuses

MOMENT = torch.eye(6)
STATISTICS = {
    "moment/a/0": MOMENT,
    "moment/a/1": MOMENT * 2,
    "cross/a/0": MOMENT + 1,
    "tokens/a": torch.tensor(64),
    "uses/a/b": torch.tensor(2),
    "token_frequency": torch.arange(9),
    "sensitivity/head": torch.linspace(0, 1, 9),
}
META = {"checkpoint_sha256": "0" * 64, "calibrate": {"num_sequences": 8}}


def attempt(folder, choose):
    """Damage an entry, a name, the metadata or the bytes of statistics, and read it as quantize does."""
    path, statistics, meta, kind = folder / "hessians.safetensors", dict(STATISTICS), META, choose.randrange(4)
    name = choose.choice(list(statistics))
    if kind == 0:
        statistics[name] = damaged_tensor(statistics[name], choose)
    elif kind == 1:
        statistics[choose.choice((f"{name}/more", "other", "", name.partition("/")[0], "a" * 500))] = statistics.pop(
            name
        )
    elif kind == 2:
        meta = damaged_value(META, choose)
    save_tensors(path, statistics, meta)
    if kind == 3:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    reads_or_refuses(lambda: check_statistics(read_tensors(path)[0]), ValueError)


def test_sound_statistics_are_read(tmp_path):
    save_tensors(tmp_path / "statistics", STATISTICS, META)
    check_statistics(read_tensors(tmp_path / "statistics")[0])


@settings(max_examples=80)
@given(choose=st.randoms(use_true_random=False))
def test_statistics_are_read_or_refused(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_sets(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
