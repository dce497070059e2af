"""Files that are never half written, and digests of files.

An output is written under a temporary name in its own folder, synced and renamed, so that a reader sees the old file
or the new one and an interrupted writer leaves nothing behind; what a killed one leaves goes with the next run of its
stage.

Checked by: tests/base/test_files.py, tests/stages/test_faults.py.
"""

import contextlib
import difflib
import fcntl
import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.checks import explain_failure, require


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync and rename it to `path`, on any error remove it.

    Its writer holds a lock on it, which the system takes from whoever dies: `sweep` goes by that. Process
    ids would tell less: they come again, and two containers that share a folder give the same ones.
    An OSError names `path`; that of a full disk would name nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(path)
    try:
        with open(partial, "ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield partial
            os.fsync(held)
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _partial_of(path: Path) -> Path:
    """Return a new temporary name beside `path`."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes the place of `folder`, on any error it is removed.

    Files and folders reach the disk before the name does: after a power cut the name never means a torn folder.
    An OSError that names no file names `folder`.
    """
    replaced = _partial_of(folder)
    try:
        with temporary_folder(folder) as partial:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _sync(path)
            if folder.exists():
                folder.rename(replaced)
            try:
                partial.rename(folder)
            except OSError:
                if replaced.exists():
                    replaced.rename(folder)
                raise
            _sync(folder.parent)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield an empty folder beside a path, held as `atomic_path` holds its file, and remove it if it is still there."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(beside)
    partial.mkdir()
    try:
        with _locked(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(folder: Path, pattern: str = "**/.*") -> None:
    """Remove what killed writers left in a folder: temporary files and folders, and locks, that nobody holds."""
    for left in [*folder.glob(f"{pattern}.????????.partial"), *folder.glob(f"{pattern}.lock")]:
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def require_writable(path: Path) -> None:
    """Raise OSError when no file or folder can be written to `path`; sweep what killed writers of it left."""
    sweep(path.parent, f".{path.name}")
    with contextlib.suppress(_NothingToWriteError), atomic_path(path) as partial:
        partial.write_bytes(b"\0")
        raise _NothingToWriteError


class _NothingToWriteError(Exception):
    """Leaves `atomic_path` before anything takes the place of the file."""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder; BlockingIOError while another process does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def require_file(path: Path, field: str, suffixes: Sequence[str]) -> None:
    """Raise ValueError unless a plain file lies at `path`; `suffixes`: how such files end, for the advice."""
    expected = f"a {', '.join(suffixes[:-1])}{' or ' if suffixes[1:] else ''}{suffixes[-1]} file"
    if not path.exists():
        advice = nearest_file(path, suffixes)
        raise ValueError(f"{field}: got {str(path)!r}, which names no file, expected {expected}; {advice}")
    kind = "a folder" if path.is_dir() else "a pipe, socket or device"
    require(path.is_file(), f"{field}: {path}", kind, expected)


def nearest_file(path: Path, suffixes: Sequence[str] = ("",)) -> str:
    """Return advice naming what exists nearest to a path or pattern that does not: a file ending so, or a folder."""
    missing, folder = path, path.parent
    while not folder.is_dir() and folder != folder.parent:
        missing, folder = folder, folder.parent
    endings = tuple(suffixes) if missing == path else ("",)
    found = (entry.name for entry in folder.iterdir() if os.path.exists(entry) and not entry.name.startswith("."))
    names = sorted(name for name in found if name.endswith(endings))
    if not names:
        return f"the folder {folder} holds none"
    nearest = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.0)[0]
    return f"the nearest that exists is {str(folder / nearest)!r}"


def read_arrays(path: Path, names: Iterable[str], most_bytes: int) -> dict[str, Any]:
    """Return NumPy arrays of an .npz that unpacks to at most `most_bytes`; ValueError with a reason when it cannot."""
    import numpy as np

    try:
        unpacked = unpacked_bytes(path)
        require(unpacked <= most_bytes, "unpacked size", unpacked, f"at most {most_bytes} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
        for name, array in arrays.items():  # a member that is no .npy comes as bytes
            require(isinstance(array, np.ndarray), name, type(array).__name__, "an array")
    except Exception as error:  # numpy and zipfile raise whatever the bytes make them
        raise ValueError(explain_failure(error)) from None
    return arrays


def unpacked_bytes(path: Path) -> int:
    """Return the bytes that a zip archive's members say they unpack to; raises what zipfile does."""
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def sha256_of_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the hex sha256 over the sorted relative names and the contents of all files of a folder."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files_below(folder)):
        digest.update(f"{name}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def require_plain_files(folder: Path) -> None:
    """Raise ValueError for what is neither file nor folder below a folder: a link names what no digest holds."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "a pipe, socket or device"
            raise ValueError(f"{path}: got {kind}, expected files and folders: put a copy in its place")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder, at any depth."""
    return (path for path in folder.rglob("*") if path.is_file())
