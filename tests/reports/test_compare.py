"""Arms side by side: documents pair across seeds and tokenizers, other text never; the table fits 80 columns."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.artifacts import path_of, write_json
from pipeline.base.files import sha256_of_file, write_bytes
from pipeline.data.shards import write_shard
from pipeline.reports.compare import common_item, compare_arms, comparison_table, open_arms
from pipeline.scoring.ledger import Ledger, save_ledger
from tests.conftest import REPO

BOS = 1
LENGTHS = [7, 3, 12, 5]
"""Bytes of the documents, which arms of either tokenizer score."""


def tokens_of(piece_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return val's tokens under a tokenizer of pieces of so many bytes, and the bytes of every target."""
    rows = [[min(piece_bytes, length - start) for start in range(0, length, piece_bytes)] for length in LENGTHS]
    bytes_M = np.array([size for row in rows for size in (0, *row)])
    return np.where(bytes_M == 0, BOS, 1 + bytes_M), bytes_M[1:]


def write_run(folder: Path, nats_per_byte: dict[int, float], piece_bytes: int = 1, **changes: str) -> Path:
    """Write a run folder whose item `blocks` costs so many nats per byte, by seed; `changes`: lines of params.yaml."""
    text = (REPO / "params.yaml").read_text().replace("[444]", str(list(nats_per_byte)))
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    write_bytes(folder / "params.yaml", text.encode())
    tokens_M, bytes_N = tokens_of(piece_bytes)
    shard = folder / path_of("val_shards") / "val_000000.bin"
    write_shard(shard, tokens_M)
    entry = {"documents": len(LENGTHS), "tokens": len(tokens_M), "targets": len(bytes_N), "bytes": sum(LENGTHS)}
    listed = {"file": "val/val_000000.bin", "sha256": sha256_of_file(shard), "tokens": len(tokens_M)}
    splits = {split: {**entry, "shards": [listed]} for split in ("train", "val")}
    made = {"unigram_bpb": 3.5, "tokenizer_sha256": str(piece_bytes), "vocab_size": 64, "bos_id": BOS}
    write_json(folder / path_of("manifest"), {**made, "splits": splits})
    for seed, rate in nats_per_byte.items():
        columns = {"target": np.arange(len(bytes_N)), "bytes": bytes_N, "group": np.zeros(len(bytes_N), int)}
        ledger = Ledger(nats=rate * bytes_N, num_targets=len(bytes_N), protocol={"kind": "blocks"}, **columns)
        save_ledger(folder / path_of("ledger", seed=seed, item="blocks"), ledger)
        score = {"val_bpb": ledger.val_bpb, "weights": "artifact", "protocol": ledger.protocol}
        write_json(folder / path_of("scores", seed=seed, item="blocks"), {**score, "seconds": {"total": 1.5}})
        report = {
            "artifact_bytes": 1000 + seed,
            "artifact_sha256": f"of {seed}",
            "totals": {"bits_per_weight": 2.5},
            "seconds": 3.0,
        }
        write_json(folder / path_of("quantize_report", seed=seed), report)
    return folder


def compared(*folders: Path, item: str = "blocks") -> dict:
    return compare_arms(open_arms([(folder.name, folder) for folder in folders]), item)


def test_the_mean_over_shared_seeds_pairs_documents_of_any_tokenizer(tmp_path):
    before = write_run(tmp_path / "before", {1: 0.5, 2: 0.6, 3: 0.7})
    after = write_run(tmp_path / "after", {2: 0.65, 3: 0.75, 9: 5.0}, piece_bytes=4)
    (row,) = compared(before, after)["differences"]
    assert (row["label"], row["seeds"], row["documents"]) == ("B", [2, 3], 4)
    expected = 1000 * 0.05 / math.log(2)
    assert [row[key] for key in ("difference_mbpb", "low_mbpb", "high_mbpb")] == pytest.approx([expected] * 3)
    assert (row["better"], row["worse"], row["covers_seeds"]) == (0, 4, False)


def test_the_same_run_differs_by_nothing(tmp_path):
    folder = write_run(tmp_path / "run", {1: 0.5, 2: 0.6, 3: 0.7})
    comparison = compared(folder, folder)
    (row,) = comparison["differences"]
    assert [row[key] for key in ("difference_mbpb", "low_mbpb", "high_mbpb", "better", "worse")] == [0.0] * 5
    assert row["covers_seeds"]
    assert comparison["params"] == {"B": []}
    assert "no clear difference" in comparison_table(comparison)


def test_what_cannot_be_paired_is_said_in_a_line(tmp_path, monkeypatch):
    first = write_run(tmp_path / "first", {1: 0.5})
    alone = write_run(tmp_path / "alone", {2: 0.5})
    unscored = write_run(tmp_path / "unscored", {1: 0.5})
    (unscored / path_of("ledger", seed=1, item="blocks")).unlink()
    monkeypatch.setitem(globals(), "LENGTHS", [7, 3, 11, 6])
    others = [write_run(tmp_path / f"pieces{size}", {1: 0.5}, piece_bytes=size) for size in (1, 4)]
    monkeypatch.setitem(globals(), "LENGTHS", [7])
    single = write_run(tmp_path / "single", {1: 0.5})
    rows = compared(first, alone, unscored, *others)["differences"] + compared(single, single)["differences"]
    expected = ["no seed in common", "C has no scores of blocks", *["its val text is another one"] * 2, "one document"]
    for row, reason in zip(rows, expected, strict=True):
        assert reason in row["unpaired"]
        assert "difference_mbpb" not in row


def test_a_ledger_of_other_shards_is_refused(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", {1: 0.5})
    stale = (folder / path_of("ledger", seed=1, item="blocks")).read_bytes()
    monkeypatch.setitem(globals(), "LENGTHS", [7, 3])
    write_run(folder, {1: 0.5})
    write_bytes(folder / path_of("ledger", seed=1, item="blocks"), stale)
    with pytest.raises(ValueError, match=r"ledger-blocks\.npz: targets: got 30, expected the val shards' 11"):
        compared(folder, folder)


def test_totals_are_of_records_only_where_all_arms_have_one_of_their_artifacts(tmp_path):
    packaged, other = (write_run(tmp_path / name, {1: 0.5, 5: 0.6}) for name in ("packaged", "other"))
    sizes, results = {"bytes_code": 300, "bytes_total": 1305}, {str(n): {"artifact_sha256": f"of {n}"} for n in (1, 5)}
    write_json(packaged / path_of("package") / "submission.json", {**sizes, "seed_results": results})
    earlier = {**results, "5": {"artifact_sha256": "of an earlier run"}}
    for held, expected in ((None, 1005 + 31350), (earlier, 1005 + 31350), (results, 1305)):
        if held is not None:
            write_json(other / path_of("submission") / "submission.json", {**sizes, "seed_results": held})
        comparison = compared(packaged, other)
        assert [arm["total_bytes"] for arm in comparison["arms"]] == [expected] * 2
        assert ("holds the artifacts of B" in comparison_table(comparison)) == (held != results)


def test_the_table_of_three_arms_fits_80_columns(tmp_path):
    before = write_run(tmp_path / "before", {1: 0.5, 2: 0.6, 3: 0.7})
    finer = write_run(tmp_path / "finer", {1: 0.4, 2: 0.5, 3: 0.6}, limit=("480000", "16000000"))
    recipe = write_run(tmp_path / "recipe", {1: 0.6, 2: 0.7, 3: 0.8})
    (recipe / "params.yaml").write_bytes((REPO / "recipes" / "helix.yaml").read_bytes().replace(b"444", b"1"))
    comparison = json.loads(json.dumps(compared(before, finer, recipe)))
    lines = comparison_table(comparison).splitlines()
    assert max(map(len, lines)) <= 80
    assert "A  before, seeds 1, 2, 3" in lines
    assert [line.split()[-3:] for line in lines if line.startswith("artifact bytes")] == [["1,002", "1,002", "1,001"]]
    assert next(line.split()[-2] for line in lines if line.startswith("limit bytes")) == "16,000,000"
    assert any(line.startswith("B  -144.27  [-144.27, -144.27]  better; 4 documents better, 0 worse") for line in lines)
    assert "   budget.limit_bytes: 480000 -> 16000000" in lines
    assert any("more keys; --json lists all" in line for line in lines)
    assert len(comparison["params"]["C"]) > 12


def test_the_item_is_the_last_that_all_list(tmp_path):
    both = "items: [blocks, sliding, ttt, mixture]"
    first = write_run(tmp_path / "first", {1: 0.5})
    fewer = write_run(tmp_path / "fewer", {1: 0.5}, items=(both, "items: [blocks, sliding]"))
    arms = open_arms([("first", first), ("fewer", fewer)])
    assert (common_item(arms, None), common_item(arms[:1], None), common_item(arms, "float")) == (
        "sliding",
        "mixture",
        "float",
    )
    with pytest.raises(ValueError, match="--item: got 'ttt', expected one that all arms list: float, blocks, sliding"):
        common_item(arms, "ttt")
