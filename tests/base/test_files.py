"""Atomic writes: the old file or the new one, never half of one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.files import atomic_folder, atomic_path, require_file, require_writable, sha256_of_file, write_bytes


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


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_descriptor: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/model\.bin'$"):
        write_bytes(tmp_path / "model.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_mode_that_the_umask_leaves(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


WRITER = """
import sys
from pathlib import Path
from pipeline.base.files import atomic_folder, atomic_path

with atomic_path(Path(sys.argv[1], "model.bin")) as file, atomic_folder(Path(sys.argv[1], "package")) as folder:
    file.write_bytes(b"half")
    (folder / "log").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path, repo: Path):
    other = tmp_path / ".model.bin.json.0badcafe.partial"
    other.write_bytes(b"of another file")
    left = {"model.bin": 1, "package": 1}

    def sweep() -> dict[str, int]:
        for name in left:
            require_writable(tmp_path / name)
        return {name: len(list(tmp_path.glob(f".{name}.????????.partial"))) for name in left}

    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert sweep() == left
        writer.kill()
    assert sweep() == {"model.bin": 0, "package": 0}
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path):
    for content in (b"old", b"new"):
        with atomic_folder(tmp_path / "package") as partial:
            (partial / "log").write_bytes(content)
    assert (tmp_path / "package" / "log").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


@pytest.mark.parametrize("blocked", ["a file in the place of the folder", "a full disk"])
def test_an_unwritable_output_is_known_before(blocked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if blocked == "a full disk":
        monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    else:
        (tmp_path / "train").write_bytes(b"")
    with pytest.raises(OSError, match="train"):
        require_writable(tmp_path / "train" / "checkpoint")
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_no_plain_file_is_refused_with_the_nearest(tmp_path: Path):
    (tmp_path / "weights.pt").touch()
    (tmp_path / "wieghts.json").touch()
    (tmp_path / "gone.pt").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")

    def refused(path: Path, *suffixes: str) -> str:
        with pytest.raises(ValueError, match=r"^checkpoint: .*got ") as caught:
            require_file(path, "checkpoint", suffixes or [".pt", ".pth"])
        return str(caught.value).replace(str(tmp_path), "")

    assert refused(tmp_path / "wieghts.pt") == (
        "checkpoint: got '/wieghts.pt', which names no file, expected a .pt or .pth file; "
        "the nearest that exists is '/weights.pt'"
    )
    assert refused(tmp_path / "w.json", ".json").endswith(
        "expected a .json file; the nearest that exists is '/wieghts.json'"
    )
    assert refused(tmp_path / "gone.pt").endswith("the nearest that exists is '/weights.pt'")
    assert refused(tmp_path / "emty/weights.pt").endswith("the nearest that exists is '/empty'")
    assert refused(tmp_path / "empty/weights.pt").endswith("the folder /empty holds none")
    assert refused(tmp_path / "weights.pt/a").endswith("the nearest that exists is '/weights.pt'")
    assert refused(tmp_path) == "checkpoint: : got 'a folder', expected a .pt or .pth file"
    assert "/pipe: got 'a pipe, socket or device', expected" in refused(tmp_path / "pipe")
    require_file(tmp_path / "weights.pt", "checkpoint", [".pt"])
