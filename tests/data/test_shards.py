"""Shards: round trip, bytes of the format, and every kind of damage."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.shards import ShardError, open_shard, open_shards, shard_paths, write_shard


@settings(max_examples=40)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=300))
def test_round_trip(ids):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_000000.bin"
        write_shard(path, np.array(ids))
        tokens = open_shard(path, vocab_size=65536)
        assert tokens.dtype == np.uint16
        assert tokens.tolist() == ids
        assert not tokens.flags.writeable


def test_layout_is_the_challenges(tmp_path):
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.array([1, 513]))
    content = path.read_bytes()
    assert len(content) == 1024 + 4
    assert [int.from_bytes(content[i : i + 4], "little") for i in (0, 4, 8, 12)] == [20240520, 1, 2, 0]
    assert content[1024:] == bytes([1, 0, 1, 2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-2], "truncated"),
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0\0", "too long"),
        (lambda content: content[:100], "truncated in the header"),
        (lambda content: b"", "truncated in the header"),
        (lambda content: b"\x01" + content[1:], "magic number"),
        (lambda content: content[:4] + b"\x02" + content[5:], "version 2"),
        (lambda content: content[:8] + bytes(4) + content[12:1024], "promises 0 tokens"),
        (lambda content: content[:8] + b"\xff" * 4 + content[12:], "promises -1 tokens"),
        (
            lambda content: content[:-2] + b"\x00\x02",
            "token id 512 lies beyond the vocabulary of 512; set model.vocab_size and data.vocab_size",
        ),
    ],
)
def test_damage_is_one_line_with_the_file_and_a_remedy(tmp_path, damage, words):
    path = tmp_path / "val_000000.bin"
    write_shard(path, np.arange(10))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError) as caught:
        open_shard(path, vocab_size=512)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert "; " in message
    assert "`dvc repro -f prepare`" in message
    assert "\n" not in message


def test_missing_shards(tmp_path):
    with pytest.raises(ShardError, match=r"absent\.bin: no such shard; run `dvc repro -f prepare`"):
        open_shard(tmp_path / "absent.bin", 512)
    with pytest.raises(ShardError, match=r"cannot be read .*dvc repro -f prepare"):
        open_shard(tmp_path, 512)
    with pytest.raises(ShardError, match="no shards given; run `dvc repro -f prepare`"):
        open_shards([], 512)
    with pytest.raises(ShardError, match=r"no val shards .*dvc repro -f prepare"):
        shard_paths(tmp_path, "val")


def test_a_rank_may_leave_the_ids_to_another(tmp_path):
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.array([1, 512]))
    assert open_shards([path], 512, check_ids=False)[0].tolist() == [1, 512]
    with pytest.raises(ShardError, match="token id 512"):
        open_shards([path], 512)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match="truncated"):
        open_shards([path], 512, check_ids=False)


def test_shard_paths_finds_both_layouts_and_not_the_other_split(tmp_path):
    for name in ("train_000001", "train_000000", "val_000000", "val_bytes_000000"):
        write_shard(tmp_path / f"fineweb_{name}.bin", np.arange(3))
    write_shard(tmp_path / "train" / "train_000000.bin", np.arange(3))
    (tmp_path / "train" / ".train_000001.bin.1.partial").write_bytes(b"unfinished")
    names = [path.name for path in shard_paths(tmp_path, "train")]
    assert names == ["fineweb_train_000000.bin", "fineweb_train_000001.bin", "train_000000.bin"]
    assert [path.name for path in shard_paths(tmp_path, "val")] == ["fineweb_val_000000.bin"]
    assert len(open_shards(shard_paths(tmp_path, "train"), 512)) == 3


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a\0b.bin\n", b"x" * 100_000, b"a.bin\n\nb.bin\n"], ids=lambda each: str(each)[:9]
)
def test_a_listing_that_is_none_is_one_short_line(tmp_path, content):
    listing = tmp_path / "val_shards.txt"
    listing.write_bytes(content)
    with pytest.raises(ShardError, match=r"val_shards\.txt: not a list of shards, a path per line; run") as caught:
        shard_paths(tmp_path, "val")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_the_shared_listings_are_refused(tmp_path, shared):
    for path in sorted((shared / "hostile" / "parsers").glob("shard_listing*")):
        (tmp_path / "val_shards.txt").write_bytes(path.read_bytes())
        with pytest.raises(ShardError, match=r"val_shards\.txt: not a list of shards"):
            shard_paths(tmp_path, "val")


@pytest.mark.parametrize("tokens", [np.array([65536]), np.array([-1]), np.array([], np.int64), np.zeros((2, 2), int)])
def test_unwritable_tokens_leave_no_file(tmp_path, tokens):
    with pytest.raises(ValueError, match="tokens"):
        write_shard(tmp_path / "train_000000.bin", tokens)
    assert list(tmp_path.iterdir()) == []
