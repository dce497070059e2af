"""What a record states (submission.json, logs, README): whatever the bytes are, `verify` ends in findings or a line."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.verification.findings import VERDICTS
from pipeline.verification.verify import verify_folder, verify_report, verify_table
from tests.hostile.mutations import damaged_bytes, damaged_value

RESULTS = {"val_loss": 1.919, "val_bpb": 1.13678, "eval_bytes": 151_080_362, "artifact_sha256": "0" * 64, "steps": 4}
SUBMISSION = {
    "val_loss": 1.919,
    "val_bpb": 1.13678,
    "val_bpb_std": 0.001,
    "bytes_total": 15_000_100,
    "bytes_code": 100,
    "seeds": [444, 300],
    "seed_results": {"444": RESULTS, "300": RESULTS},
    "seed_4": {"val_bpb_exact": 1.13, "train_time_s": 600, "steps": 5, "artifact_bytes": 15_000_000},
    "comparison_baseline": {"name": "a", "val_losses": [1.92, 1.93]},
    "p_value": 0.01,
}
LOG = """val_loader:shards pattern=/data/fineweb_val_*.bin tokens:62021632
sha256 0000 model.fwy
seed: 444
step:4000/4000 val_loss:1.9465 val_bpb:1.1528 train_time:600000ms step_avg:149.0ms
Code size: 100 bytes
Serialized model int6+brotli: 15000000 bytes
Total submission size int6+brotli: 15000100 bytes
int6: 15,000,000 bytes | code: 100 | total: 15,000,100
final_int6_sliding_window_exact val_loss:1.91900000 val_bpb:1.13678000 eval_time:1000ms
"""
PROGRAM = (
    "import zlib, base64\nimport helper\nexec(zlib.decompress(base64.b85decode('abc')))\nopen('submission.json')\n"
)
KINDS = [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to(path.name)]


def damage(folder: Path, choose: random.Random) -> None:
    """Write a record into an empty folder and damage one file of it."""
    files = {
        "submission.json": json.dumps(SUBMISSION),
        "train_seed444.log": LOG,
        "train_seed300.log": LOG.replace("444", "300"),
        "README.md": "# val_bpb 1.1368\n",
        "train_gpt.py": PROGRAM,
        "helper.py": "print(1)\n",
    }
    for each, text in files.items():
        (folder / each).write_text(text)
    name = choose.choice(list(files))
    path = folder / name
    if choose.random() < 0.1:
        path.unlink()
        choose.choice(KINDS)(path)
    elif name == "submission.json" and choose.random() < 0.7:
        path.write_text(json.dumps(damaged_value(SUBMISSION, choose)))
    elif name.endswith(".log") and choose.random() < 0.5:
        words = files[name].split(" ")
        words[choose.randrange(len(words))] = choose.choice(
            ("", "9" * 400, "nan", "-1", "1e999", "x" * 5000, "\x1b[2J", "0", "\u0663", "1" + "0" * 17)
        )
        path.write_text(" ".join(words))
    else:
        path.write_bytes(damaged_bytes(files[name].encode(), choose))


def attempt(folder: Path, choose: random.Random) -> None:
    """Verify a damaged record: every finding is one printable line, in its form."""
    damage(folder, choose)
    started = time.monotonic()
    findings = verify_folder(folder)
    assert all(each.message.isprintable() and each.message.isascii() for each in findings)
    assert all(each.verdict in VERDICTS for each in findings)
    assert verify_table(findings).count("\n") == len(findings)
    json.dumps(verify_report(findings), allow_nan=False)
    assert time.monotonic() - started < 5


@settings(max_examples=150)
@given(choose=st.randoms(use_true_random=False))
def test_statements_end_in_findings(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_statements(tmp_path):
    for case in range(10_000):
        folder = tmp_path / str(case)
        folder.mkdir()
        attempt(folder, random.Random(case))
        shutil.rmtree(folder)
