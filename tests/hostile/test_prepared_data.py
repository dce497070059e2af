"""The readers of prepared data (byte table, manifest, listing, shard): whatever the bytes are, a short line or none."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.files import sha256_of_file
from pipeline.data.byte_count import ByteTable, load_byte_table, save_byte_table
from pipeline.data.manifest import listed_shards, open_listed, read_manifest
from pipeline.data.shards import ShardError, shard_paths, write_shard
from tests.hostile.mutations import damage_a_member, damaged_bytes, damaged_value, reads_or_refuses

TABLE = ByteTable(np.arange(40), np.arange(40) % 2 == 0, np.arange(40) < 3)
TOKENS = np.arange(600, dtype=np.uint16) % 40


def prepared(folder: Path) -> None:
    """Write a small folder of prepared data: two splits of one shard, one of them listed from elsewhere."""
    splits = {}
    for split in ("train", "val"):
        shard = folder / (f"{split}/{split}_000000.bin" if split == "train" else "elsewhere.bin")
        shard.parent.mkdir(parents=True, exist_ok=True)
        write_shard(shard, TOKENS)
        listed = {"file": shard.name, "sha256": sha256_of_file(shard), "tokens": len(TOKENS)}
        splits[split] = {"documents": 1, "tokens": 600, "targets": 599, "bytes": 900, "shards": [listed]}
    (folder / "val").mkdir(exist_ok=True)
    (folder / "val/val_shards.txt").write_text("../elsewhere.bin\n")
    manifest = {"unigram_bpb": 4.5, "vocab_size": 40, "bos_id": 1, "tokenizer_sha256": "0" * 64, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    save_byte_table(folder / "byte_table.npz", TABLE)


def attempt(folder: Path, choose: random.Random) -> None:
    """Damage one file of prepared data and read all that stages read of it."""
    prepared(folder)
    name = choose.choice(("byte_table.npz", "manifest.json", "val/val_shards.txt", "elsewhere.bin"))
    path = folder / name
    if name == "byte_table.npz" and choose.random() < 0.5:
        damage_a_member(path, choose)
    elif name == "manifest.json" and choose.random() < 0.7:
        path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), choose)))
    else:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    manifest = folder / "manifest.json"
    reads_or_refuses(lambda: load_byte_table(folder / "byte_table.npz"), ValueError)
    reads_or_refuses(lambda: read_manifest(manifest), ValueError)
    reads_or_refuses(lambda: shard_paths(folder / "val", "val"), ShardError)
    reads_or_refuses(lambda: open_listed(listed_shards(manifest, "val"), 40), (ShardError, ValueError))


@settings(max_examples=80)
@given(choose=st.randoms(use_true_random=False))
def test_prepared_data_read_or_refuse(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_forty_thousand_files_of_prepared_data(tmp_path):
    """Four readers, ten thousand damaged files of each."""
    for case in range(40_000):
        attempt(tmp_path, random.Random(case))
