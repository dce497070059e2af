"""Atomic writes: the old file or the new one, never half of one."""

from pathlib import Path

import pytest

from pipeline.files import atomic_path, sha256_of_file, write_bytes


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_else(tmp_path: Path):
    target = tmp_path / "out" / "model.bin"
    write_bytes(target, b"old")

    def interrupted() -> None:
        with atomic_path(target) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [p.name for p in target.parent.iterdir()] == ["model.bin"]


def test_a_write_replaces_the_old_content(tmp_path: Path):
    target = tmp_path / "a"
    write_bytes(target, b"old")
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert sha256_of_file(target) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
