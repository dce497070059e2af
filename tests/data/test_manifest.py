"""The manifest decides which shards are opened: strays, gaps, changes and damage are one line each."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.files import sha256_of_file
from pipeline.data.manifest import (
    check_digests,
    fingerprint,
    listed_shards,
    open_listed,
    read_manifest,
    split_fingerprints,
)
from pipeline.data.shards import ShardError, write_shard

SIZES = [300, 300, 7]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return the manifest of two splits of three shards each."""
    splits = {}
    for split in ("train", "val"):
        shards = []
        for number, tokens in enumerate(SIZES):
            name = f"{split}/{split}_{number:06d}.bin"
            write_shard(tmp_path / name, np.arange(tokens) + number)
            shards.append({"file": name, "sha256": sha256_of_file(tmp_path / name), "tokens": tokens})
        splits[split] = {"documents": 1, "tokens": sum(SIZES), "targets": sum(SIZES) - 1, "bytes": 9, "shards": shards}
    content = {
        "source": "text",
        "vocab_size": 512,
        "bos_id": 1,
        "unigram_bpb": 2.5,
        "splits": splits,
        "tokenizer_sha256": "0",
    }
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    return tmp_path / "manifest.json"


def test_the_listed_shards_are_opened_in_order(manifest):
    assert [tokens_M.tolist() for tokens_M in open_listed(listed_shards(manifest, "train"), 512)] == [
        list(range(number, number + tokens)) for number, tokens in enumerate(SIZES)
    ]
    assert [shard.path.name for shard in listed_shards(manifest, "val")] == [f"val_{n:06d}.bin" for n in range(3)]


def test_a_split_is_known_by_what_the_shell_says_of_its_files(manifest):
    """The command that the docstring and every record's README name."""
    stated = split_fingerprints(read_manifest(manifest))
    for split, digest in stated.items():
        command = f"sha256sum {split}_*.bin | cut -c-64 | sha256sum"
        said = subprocess.run(command, shell=True, cwd=manifest.parent / split, capture_output=True, check=True)
        assert said.stdout.decode().split()[0] == digest
    assert fingerprint(["aa", "bb"]) != fingerprint(["bb", "aa"])


def test_shards_kept_elsewhere_are_found_by_their_list(manifest, tmp_path):
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_shards.txt").write_text("".join(f"../elsewhere/val_{n:06d}.bin\n" for n in range(3)))
    assert [len(tokens_M) for tokens_M in open_listed(listed_shards(manifest, "val"), 512)] == SIZES
    (tmp_path / "val" / "val_shards.txt").write_text("../elsewhere/val_000000.bin\n")
    with pytest.raises(ShardError, match=r"got 1 shards, expected the 3 .*val_000001\.bin"):
        open_listed(listed_shards(manifest, "val"), 512)


def _stray(folder: Path) -> None:
    write_shard(folder / "train_000099.bin", np.arange(5))


def _missing(folder: Path) -> None:
    (folder / "train_000001.bin").unlink()


def _twice(folder: Path) -> None:
    write_shard(folder / "below" / "train_000001.bin", np.arange(5))


def _swapped(folder: Path) -> None:
    write_shard(folder / "train_000000.bin", np.arange(300) + 7)


def _shorter(folder: Path) -> None:
    write_shard(folder / "train_000000.bin", np.arange(299))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_stray, r"train: got 4 shards, expected the 3 that .*manifest\.json lists \(first difference: train_000099"),
        (_missing, r"train: got 2 shards, expected the 3 that .*manifest\.json lists \(first difference: train_000001"),
        (_twice, r"got 4 shards, expected the 3 .*one lies there twice"),
        (_shorter, r"train_000000\.bin: got 299 tokens, expected the 300 that the manifest lists"),
        (_swapped, r"train_000000\.bin: got digest [0-9a-f]{64}, expected [0-9a-f]{64} as the manifest lists"),
    ],
)
def test_any_other_shard_is_one_line_with_a_remedy(manifest, change, words):
    change(manifest.parent / "train")
    with pytest.raises(ShardError, match=words + ".*; run `dvc repro -f prepare`$") as caught:
        open_listed(listed_shards(manifest, "train"), 512)
    assert "\n" not in str(caught.value)
    assert open_listed(listed_shards(manifest, "val"), 512)


def test_a_rank_beside_one_that_checks_reads_no_content(manifest):
    _swapped(manifest.parent / "train")
    assert len(open_listed(listed_shards(manifest, "train"), 512, check_content=False)) == 3
    with pytest.raises(ShardError, match="got digest"):
        check_digests(listed_shards(manifest, "train"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: b"\xff" + content,
        lambda content: b"[" * 100_000,
        lambda content: b"null",
        lambda content: b"[]",
        lambda content: content.replace(b'"vocab_size": 512', b'"vocab_size": "512"'),
        lambda content: content.replace(b'"bos_id": 1', b'"bos_id": true'),
        lambda content: content.replace(b'"bos_id"', b'"other"'),
        lambda content: content.replace(b'"unigram_bpb": 2.5', b'"unigram_bpb": null'),
        lambda content: content.replace(b'"tokens": 7', b'"tokens": 7.5'),
        lambda content: content.replace(b'"file": "train/train_000000.bin"', b'"file": 3'),
        lambda content: content.replace(b'"shards": [', b'"shards": [1, '),
        lambda content: content.replace(b'"splits": {', b'"splits": 1, "x": {'),
    ],
)
def test_a_damaged_manifest_is_one_line_with_a_remedy(manifest, damage):
    manifest.write_bytes(damage(manifest.read_bytes()))
    with pytest.raises(
        ValueError, match=r"manifest\.json: not a manifest of prepared data \(.* .* .*\); run `dvc repro -f"
    ):
        read_manifest(manifest)


def test_an_absent_manifest_names_what_writes_it(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json: no such file; run `dvc repro -f prepare`"):
        read_manifest(tmp_path / "manifest.json")
