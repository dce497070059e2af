"""The walls of a stage: which files it may not open, whom it may start, and that it talks to nobody.

One idea: what a legal run must not do, its process cannot do. An audit hook sees every file that Python opens, every
socket and every child process, and raises before it happens; a hook cannot be removed, so neither a library nor our own
mistake gets around it. Whoever means to get around it starts a child, which has no walls: docs/legality.md says what
they are worth. Sealed files are known by inode, too: a link to one is as closed as the file. What is sealed is
looked up anew at every event, so that a file that appears later is as closed as one that was there.

Differs: a hook sees Python's opens only. Files that compiled code opens itself are checked where our readers use such
code (`artifacts.read_tensors`); a foreign library that reads a path in C is beyond it. Only sockets made by Python are
seen; torch's rendezvous and gloo are compiled code and connect the ranks of a run. Folders that are open are found in
/dev/fd, as Linux has it.
Checked by: tests/launching/test_firewall.py, tests/stages/test_walls.py.
"""

import glob
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import CACHE, git_lines, path_of
from pipeline.base.checks import FairwayError

_VALIDATION = (path_of("val_shards"), path_of("scores", seed="*", item="*").parent, CACHE)
SEALED: dict[str, tuple[Path, ...]] = {
    "train": _VALIDATION,
    "import_checkpoint": _VALIDATION,
    "calibrate": _VALIDATION,
    "quantize": _VALIDATION,
    "evaluate": (path_of("train_shards"), CACHE),
}
"""Stage -> folders (patterns) it may not read: what is scored while a model is made, what it learnt from in scoring;
the cache holds the corpus, which is both. Shards in the cache that the stage's own split lists stay open."""
NETWORK_STAGES = ("prepare",)
"""Stages that may leave this machine: downloads."""

_ROOT = Path(__file__).resolve().parents[2]
_MOVES = ("os.link", "os.symlink", "os.rename")
"""Audit events that would give a file another name."""
_CONNECTIONS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.bind": 1, "socket.getnameinfo": 0}
_LOOKUPS = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
"""Audit event -> position of the address, or of the host."""
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
"""Audit events of a program that starts."""
_BEFORE_PATHS = re.compile(r"^-\w|[\s=:,;'\"<>|&(){}$@`]")
"""What options and shells put before a path within a word."""


class FirewallError(FairwayError):
    """A stage tried to open what is sealed for it, or to leave this machine."""


def raise_walls(stage: str) -> dict[str, Any]:
    """Seal the process of stage `stage` for the rest of its life; return what is sealed, for its report."""
    folders = SEALED.get(stage, ())
    network = stage in NETWORK_STAGES
    sys.addaudithook(Walls(stage, folders, network).check)
    return {"sealed": [folder.as_posix() for folder in folders], "network": network}


class Walls:
    """The rules of one stage."""

    def __init__(self, stage: str, folders: Iterable[Path], network: bool) -> None:
        """Seal folders, absolute or below the working directory of this moment; a `*` stands for any one name.

        Listings (`*_shards.txt`) of shards kept elsewhere, the sealed split's and the other's, are read now.
        """
        self.stage = stage
        self.network = network
        names = [str(folder) for folder in folders]
        self.folders = [os.path.abspath(name) for name in names]
        self.names = (*(name for name in names if os.sep in name), *self.folders)  # many folders are called .cache
        self.listed = [shard for root in self._roots() for shard in _listed_shards(root)]
        self.cache = os.path.abspath(CACHE)
        open_splits = {path_of("train_shards"), path_of("val_shards")}.difference(folders)
        self.own = {_inode(shard) for split in open_splits for shard in _listed_shards(os.path.abspath(split))}

    def check(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise FirewallError when an audit event would cross a wall."""
        if event == "open" or event in _MOVES:
            if self.folders:
                # The event of os.open has no mode; like the moves, it may be relative to an open folder.
                self._check_path(arguments[0], event, event != "open" or arguments[1] is None)
        elif self.network:
            return
        elif event in _CONNECTIONS and not is_address_local(arguments[_CONNECTIONS[event]]):
            self._refuse_address(arguments[_CONNECTIONS[event]])
        elif event in _LOOKUPS and not is_host_local(arguments[_LOOKUPS[event]]):
            self._refuse_address(arguments[_LOOKUPS[event]])
        elif event in _STARTS:
            self._check_child(arguments, arguments[2] if event == "subprocess.Popen" else None)

    def _check_path(self, path: Any, event: str, has_folder: bool) -> None:
        """Refuse a sealed path; a relative one also as seen from each folder that is open (dir_fd)."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        seen_from = _open_folders() if has_folder and not os.path.isabs(name) else []
        for place in (name, *(os.path.join(folder, name) for folder in seen_from)):
            if self.is_sealed(place) or (event in _MOVES and self._holds_sealed(place)):
                raise FirewallError(
                    f"{self.stage}: may not open {name}, which is sealed in this stage "
                    "(docs/legality.md); read it in another stage"
                )

    def _refuse_address(self, address: object) -> None:
        raise FirewallError(
            f"{self.stage}: may not connect to {address}, expected no network in this stage; "
            "fetch what it needs in `prepare`"
        )

    def _check_child(self, arguments: tuple[Any, ...], folder: Any) -> None:
        """Refuse a child that is told a sealed path, seen from where it runs, and git asked for more than the commit.

        Everything else may start: compilers and libraries call programs of their own, which no list foresees.
        """
        place, words = os.fsdecode(folder or ""), list(_words(arguments))
        for word in (place, *words):
            paths = (os.path.join(place, part) for part in (word, *_BEFORE_PATHS.split(word)))
            if any(each in word for each in self.names) or any(map(self.is_sealed, paths)):
                raise FirewallError(f"{self.stage}: may not hand {word}, sealed in this stage, to a child process")
        asks_git = any(os.path.basename(word) == "git" for word in words[:2]) or any(
            w.startswith("git ") for w in words
        )
        if asks_git and not any(words[-len(line) :] == line for line in git_lines(_ROOT)):
            raise FirewallError(
                f"{self.stage}: may not start {' '.join(words)}, expected git asked for the commit only"
            )

    def is_sealed(self, path: str | bytes | os.PathLike) -> bool:
        """Return whether a path, links followed or not, lies in a sealed folder or is one of its files."""
        name = os.fsdecode(path)
        inode = _inode(name)
        roots = self._roots(without=self.cache if inode in self.own else None)
        if any(place == root or place.startswith(root + os.sep) for place in _places(name) for root in roots):
            return True
        files = (file for root in roots for file in _files_in(root))
        return inode is not None and any(inode == _inode(file) for file in (*self.listed, *files))

    def _holds_sealed(self, name: str) -> bool:
        return any(root.startswith(place + os.sep) for place in _places(name) for root in self._roots())

    def _roots(self, without: str | None = None) -> list[str]:
        """Return the sealed folders as they are now, links followed and not; those of no pattern, present or not."""
        folders = [folder for folder in self.folders if folder != without]
        found = [root for folder in folders for root in (glob.glob(folder) if "*" in folder else [folder])]
        return [*found, *{os.path.realpath(root) for root in found}.difference(found)]


def is_address_local(address: object) -> bool:
    """Return whether a socket's address is this machine's: a Unix socket's path, loopback, or none at all."""
    if isinstance(address, tuple | list):
        return bool(address) and isinstance(address[0], str | bytes) and _is_loopback(address[0])
    return address is None or isinstance(address, str | bytes)


def is_host_local(host: object) -> bool:
    """Return whether looking a host up leaves this machine alone: none, its own name, or loopback."""
    if host is None or host in ("", b""):
        return True
    return isinstance(host, str | bytes) and (os.fsdecode(host) == socket.gethostname() or _is_loopback(host))


def _is_loopback(host: str | bytes) -> bool:
    name = os.fsdecode(host)
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def _open_folders() -> list[str]:
    """Return the folders that this process holds open, by descriptor."""
    try:
        numbers = os.listdir("/dev/fd")
    except OSError:
        return []
    return [place for number in numbers if os.path.isdir(place := f"/dev/fd/{number}")]


def _places(name: str) -> set[str]:
    """Return a path in full, links followed and not."""
    return {os.path.abspath(name), os.path.realpath(name)}


def _files_in(folder: str) -> Iterator[str]:
    return (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)


def _listed_shards(folder: str) -> Iterator[str]:
    """Yield the shards kept elsewhere that a folder's listings name."""
    for path in _files_in(folder):
        if path.endswith("_shards.txt"):
            lines = (
                Path(path).read_text("utf-8", "surrogateescape").splitlines()
            )  # a damaged one fails where it is used
            yield from (os.path.join(os.path.dirname(path), line) for line in lines)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _words(arguments: Iterable[object]) -> Iterator[str]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _words(argument)
        elif isinstance(argument, str | bytes | os.PathLike):
            yield os.fsdecode(argument)
