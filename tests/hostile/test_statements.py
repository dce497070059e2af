"""What a record states (submission.json, logs, README): whatever the bytes are, `verify` ends in a table or a line."""

import json
import random
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.record.verify import check_statements
from tests.hostile.mutations import damaged_bytes, damaged_value

RESULTS = {"val_loss": 1.919, "val_bpb": 1.13678, "eval_bytes": 151_080_362, "artifact_sha256": "0" * 64}
SUBMISSION = {
    "val_loss": 1.919,
    "val_bpb": 1.13678,
    "val_bpb_std": 0.001,
    "bytes_total": 15_000_100,
    "bytes_code": 100,
    "seeds": [444, 300],
    "seed_results": {"444": RESULTS, "300": RESULTS},
    "comparison_baseline": {"name": "a", "val_losses": [1.92, 1.93]},
    "p_value": 0.01,
}
LOG = """val_loader:shards pattern=/data/fineweb_val_*.bin tokens:62021632
sha256 0000 model.fwy
step:4000/4000 val_loss:1.9465 val_bpb:1.1528
Code size: 100 bytes
Serialized model int6+brotli: 15000000 bytes
Total submission size int6+brotli: 15000100 bytes
final_int6_sliding_window_exact val_loss:1.91900000 val_bpb:1.13678000
"""


def attempt(folder, choose):
    """Damage one statement of a record and verify it."""
    files = {
        "submission.json": json.dumps(SUBMISSION),
        "train_seed444.log": LOG,
        "train_seed300.log": LOG,
        "README.md": "# val_bpb 1.1368\n",
        "train_gpt.py": "print(1)\n",
    }
    name = choose.choice(("submission.json", "train_seed444.log", "README.md"))
    for each, text in files.items():
        (folder / each).write_text(text)
    if name == "submission.json" and choose.random() < 0.7:
        (folder / name).write_text(json.dumps(damaged_value(SUBMISSION, choose)))
    elif name.endswith(".log") and choose.random() < 0.5:
        words = LOG.split(" ")
        words[choose.randrange(len(words))] = choose.choice(
            ("", "9" * 400, "nan", "-1", "1e999", "x" * 5000, "\x1b[2J")
        )
        (folder / name).write_text(" ".join(words))
    else:
        (folder / name).write_bytes(damaged_bytes(files[name].encode(), choose))
    started = time.monotonic()
    try:
        told = [check.evidence for check in check_statements(folder)]
    except ValueError as error:
        told = [str(error)]
    assert all("\n" not in line for line in told)
    assert time.monotonic() - started < 5


@settings(max_examples=80)
@given(choose=st.randoms(use_true_random=False))
def test_statements_end_in_a_table_or_one_line(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_statements(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
