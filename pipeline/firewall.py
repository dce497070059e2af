"""The walls of a stage: which files it may not open, and that it talks to nobody.

One idea: what a legal run must not do, its process cannot do. An audit hook sees every file that Python opens, every
socket and every child process, and raises before it happens; a hook cannot be removed, so neither a library nor our own
mistake gets around it. Sealed files are known by inode, too: a link to one is as closed as the file.

Differs: a hook sees Python's opens only. Files that compiled code opens itself are checked where our readers use such
code (`artifacts.read_tensors`); a foreign library that reads a path in C is beyond it. Only sockets made by Python are
seen; torch's rendezvous and gloo are compiled code and connect the ranks of a run.
Checked by: tests/test_firewall.py, tests/stages/test_walls.py.
"""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.artifacts import ROOT, path_of
from pipeline.checks import FairwayError

_VALIDATION = (path_of("val_shards"), path_of("scores", seed="*", item="*").parent)
SEALED: dict[str, tuple[Path, ...]] = {
    "train": _VALIDATION,
    "import_checkpoint": _VALIDATION,
    "calibrate": _VALIDATION,
    "quantize": _VALIDATION,
    "evaluate": (path_of("train_shards"),),
}
"""Stage -> folders (patterns) it may not read: what is scored while a model is made, what it learnt from in scoring."""
NETWORK_STAGES = ("prepare",)
"""Stages that may leave this machine: downloads."""

_OPENERS = {"open": 0, "os.link": 0, "os.symlink": 0, "os.rename": 0}
"""Audit event -> position of the path that it would make readable."""
_CHILDREN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
_CONNECTIONS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Audit event -> position of the address."""


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
        """Note the files that lie in `folders` now, and those that their listings name; paths may be patterns."""
        self.stage = stage
        self.network = network
        self.folders = [found for folder in folders for found in _matches(folder)]
        self.prefixes = tuple(os.path.realpath(folder) + os.sep for folder in self.folders)
        files = {path for folder in self.folders for path in _sealed_files(folder)}
        self.inodes = {_inode(path) for path in files} - {None}

    def check(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise FirewallError when an audit event would cross a wall."""
        if event in _OPENERS:
            path = arguments[_OPENERS[event]]
            if isinstance(path, str | bytes | os.PathLike) and self.is_sealed(path):
                raise FirewallError(f"{self.stage}: may not open {os.fsdecode(path)}, which is sealed in this stage "
                                    "(docs/legality.md); read it in another stage")  # fmt: skip
        elif event in _CONNECTIONS and not self.network:
            address = arguments[_CONNECTIONS[event]]
            if not _is_local(address):
                raise FirewallError(f"{self.stage}: may not connect to {address}, expected no network in this stage; "
                                    "fetch what it needs in `prepare`")  # fmt: skip
        elif event in _CHILDREN:
            words = " ".join(_words(arguments))
            named = next((folder for folder in self.folders if str(folder) in words), None)
            if named is not None:
                raise FirewallError(f"{self.stage}: may not hand {named}, sealed in this stage, to a child process")

    def is_sealed(self, path: str | bytes | os.PathLike) -> bool:
        """Return whether a path, links followed, is a sealed file or lies in a sealed folder."""
        real = os.fsdecode(os.path.realpath(path))
        return real.startswith(self.prefixes) or (bool(self.inodes) and _inode(real) in self.inodes)


def _matches(folder: Path) -> list[Path]:
    """Return the folders that a pattern below the artifacts' root names; a plain path is itself, present or not."""
    relative = folder.relative_to(ROOT).as_posix()
    return sorted(ROOT.glob(relative)) if "*" in relative else [folder]


def _sealed_files(folder: Path) -> Iterable[Path]:
    """Yield the files of a folder, and the shards kept elsewhere that its listings (`*_shards.txt`) name."""
    for path in folder.rglob("*"):
        yield path
        if path.name.endswith("_shards.txt"):
            yield from (path.parent / line for line in path.read_text().splitlines())


def _inode(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_local(address: object) -> bool:
    """Return whether an address, or the host in it, is this machine's: a Unix socket, loopback or its own name."""
    host = address[0] if isinstance(address, tuple) else address
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    return name.startswith(("127.", "/")) or name in ("", "localhost", "0.0.0.0", "::1", "::", socket.gethostname())


def _words(arguments: Iterable[object]) -> Iterable[str]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _words(argument)
        elif isinstance(argument, str | bytes | os.PathLike):
            yield os.fsdecode(argument)
