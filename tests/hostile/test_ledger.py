"""The reader of ledgers: whatever the bytes are, it reads them or refuses in one short line."""

import json
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.ledger import LEDGER_COLUMNS, Ledger, load_ledger, save_ledger
from tests.hostile.mutations import damage_a_member, damaged_bytes, damaged_value, reads_or_refuses

ROWS = 50
LEDGER = Ledger(
    target=np.arange(ROWS)[::-1],
    nats=np.linspace(0, 9, ROWS),
    bytes=np.ones(ROWS),
    group=np.zeros(ROWS),
    num_targets=ROWS,
    protocol={"kind": "sliding", "context_tokens": 4, "stride_tokens": 2},
)


def attempt(folder, choose):
    """Damage a member of a ledger, its metadata or the whole file, and read it."""
    path, kind = folder / "ledger.npz", choose.randrange(4)
    save_ledger(path, LEDGER)
    with np.load(path) as file:
        arrays = dict(file)
    if kind == 0:
        meta = json.dumps(damaged_value(json.loads(arrays["meta"].tobytes()), choose))
        np.savez_compressed(path, **{**arrays, "meta": np.frombuffer(meta.encode(), np.uint8)})
    elif kind == 1:
        name, dtype = choose.choice([*LEDGER_COLUMNS, "meta"]), choose.choice(("<f8", "<i8", "S3", "?", "<c16", "<U2"))
        np.savez(path, **{**arrays, name: choose.choice((arrays[name][1:], arrays[name].astype(dtype), np.zeros(())))})
    elif kind == 2:
        damage_a_member(path, choose)
    else:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    reads_or_refuses(lambda: load_ledger(path), ValueError)


@settings(max_examples=100)
@given(choose=st.randoms(use_true_random=False))
def test_a_ledger_reads_or_refuses(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_ledgers(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
