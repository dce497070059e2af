"""Folders and files of strangers: looked through and read within bounds, every fault one line.

The one idea: a file is measured through the descriptor that it is read from, which is opened without following a link
and without waiting for a pipe, so that what was measured is what is read.

Checked by: tests/base/test_foreign.py.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.base.checks import require_always

MOST_ENTRIES, DEEPEST = 4000, 8
"""Of a folder that is looked through."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NOT_CONTENT = {".git", "__pycache__"}
_FILES = (".py", ".json", ".md", ".log", ".txt")
"""How names of files end: a folder with such a name stands in the place of one."""


class Listing(NamedTuple):
    """What lies in a folder, by name relative to it, sorted."""

    sizes: dict[str, int]
    """Plain files -> bytes."""
    faults: dict[str, str]
    """What is neither file nor folder, or was not looked at -> reason."""


def look_through(folder: Path) -> Listing:
    """Return what lies in a folder, following no link; ValueError when it is no folder."""
    require_always(folder.is_dir(), str(folder), "no such folder", "a record folder; run `dvc repro` or name one")
    listing = Listing({}, {})
    _look(folder, "", listing, iter(range(MOST_ENTRIES)))
    return listing


def _look(folder: Path, prefix: str, listing: Listing, allowed: Iterator[int]) -> None:
    """Note what lies at a place and below, an entry for each that is `allowed`."""
    try:
        with os.scandir(folder / prefix) as found:
            entries = sorted(
                (each for each, _ in zip(found, range(MOST_ENTRIES + 1), strict=False)), key=lambda each: each.name
            )
    except OSError as error:
        listing.faults[prefix] = error.strerror or type(error).__name__
        return
    for entry in entries:
        name = prefix + entry.name
        if next(allowed, None) is None:
            listing.faults[prefix or "."] = f"more than {MOST_ENTRIES:,} files and folders: the rest is not looked at"
            return
        if not entry.is_dir(follow_symlinks=False) or entry.name.endswith(_FILES):
            _note(name, entry.stat(follow_symlinks=False), listing)
        elif name.count("/") >= DEEPEST:
            listing.faults[name] = f"deeper than {DEEPEST} folders: not looked at"
        elif entry.name not in _NOT_CONTENT:
            _look(folder, f"{name}/", listing, allowed)


def _note(name: str, found: os.stat_result, listing: Listing) -> None:
    if stat.S_ISREG(found.st_mode):
        listing.sizes[name] = found.st_size
    else:
        listing.faults[name] = f"{kind_of(found.st_mode)}, expected a file: not read"


def kind_of(mode: int) -> str:
    """Return what a file that is no plain one is called."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return a plain file's content; ValueError, naming it, when there is none, it is none or larger."""
    with _opened(path) as (file, size):
        require_always(size <= most_bytes, str(path), f"{size:,} bytes", f"at most {most_bytes:,}")
        content = file.read(most_bytes + 1)
    require_always(len(content) <= most_bytes, str(path), "more bytes than it had", f"at most {most_bytes:,}")
    return content


def read_start(path: Path, num_bytes: int) -> bytes:
    """Return the first bytes of a plain file of any size; ValueError, naming it, when there is none or it is none."""
    with _opened(path) as (file, _):
        return file.read(num_bytes)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a plain file and its size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        got = kind_of(path.lstat().st_mode) if path.is_symlink() else error.strerror
        raise ValueError(f"{path}: got {got!r}, expected a file") from None
    try:
        found = os.fstat(descriptor)
        require_always(stat.S_ISREG(found.st_mode), str(path), kind_of(found.st_mode), "a file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, found.st_size
    finally:
        os.close(descriptor)
