"""Folders of strangers are looked through within bounds, and a file is measured where it is read."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.base import foreign
from pipeline.base.foreign import look_through, read_bounded, read_start


def test_files_are_listed_and_everything_else_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(3))
    (tmp_path / "train.log").mkdir()
    (tmp_path / "train.log" / "inside").write_bytes(b"")
    (tmp_path / "link").symlink_to("a/b/file")
    (tmp_path / "loop").symlink_to("..")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    listing = look_through(tmp_path)
    assert listing.sizes == {"a/b/file": 3}
    assert {name: reason.partition(",")[0] for name, reason in listing.faults.items()} == {
        "link": "a link",
        "loop": "a link",
        "pipe": "a pipe",
        "socket": "a socket",
        "train.log": "a folder",
    }


def test_depth_and_number_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "/".join("d" * 12)).mkdir(parents=True)
    assert look_through(tmp_path).faults == {"/".join("d" * 9): "deeper than 8 folders: not looked at"}
    monkeypatch.setattr(foreign, "MOST_ENTRIES", 5)
    for number in range(9):
        (tmp_path / f"a{number}").mkdir()
    listing = look_through(tmp_path)
    assert listing == ({}, {".": "more than 5 files and folders: the rest is not looked at"})


def test_what_is_no_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: got 'no such folder', expected a record folder"):
        look_through(tmp_path / "none")


def test_only_plain_files_up_to_a_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    assert read_start(tmp_path / "file", 2) == b"12"
    for name, told in (
        ("file", "got '5 bytes', expected at most 4"),
        ("link", "got 'a link', expected a file"),
        ("pipe", "got 'a pipe', expected a file"),
        ("none", "got 'No such file or directory', expected a file"),
        (".", "got 'a folder', expected a file"),
    ):
        with pytest.raises(ValueError, match=told):
            read_bounded(tmp_path / name, 4)
    with pytest.raises(ValueError, match="got 'a device', expected a file"):
        read_bounded(Path("/dev/zero"), 4)
