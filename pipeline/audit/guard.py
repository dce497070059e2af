"""Runs a record's program with its eyes open: tells the auditor of every file, socket and child process.

One idea: a hook cannot be taken off, and what is told is gone: each event is written at once to a socket whose other
end only the auditor holds, so nothing can be erased or edited later. A last message says that the process came to its
end; without it the telling was cut off. Also hides this library. Standard library only: this file is copied beside the
program and started as `guard.py DESCRIPTOR PROGRAM ARGUMENT...`.

Checked by: tests/audit/test_shipped.py.
"""

import _posixsubprocess
import atexit
import json
import os
import runpy
import sys
from typing import Any

FILE_EVENTS = ("open", "os.link", "os.symlink", "os.rename")
NETWORK_EVENTS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
)
CHILD_EVENTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "fork_exec",
)
"""`fork_exec` is no event of the interpreter: it is how both subprocess and multiprocessing start a program."""
END = "end"
"""The last message of a process."""
_LONGEST_TEXT = 500
_LONGEST_LIST = 8
_WATCHED = frozenset({*FILE_EVENTS, *NETWORK_EVENTS, *CHILD_EVENTS})


def watch(descriptor: int) -> None:
    """Write a line of JSON, event and arguments, to a socket for every watched event from now on, one at the end."""

    def tell(event: str, arguments: object) -> None:
        os.write(descriptor, (json.dumps([event, plain(arguments)]) + "\n").encode())

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED:
            tell(event, arguments[:1] if event == "open" else arguments)

    def told_fork_exec(arguments: list[Any], programs: list[Any], *more: Any) -> int:
        tell("fork_exec", plain([programs, arguments]))
        return fork_exec(arguments, programs, *more)

    fork_exec = _posixsubprocess.fork_exec
    _posixsubprocess.fork_exec = told_fork_exec  # type: ignore[assignment]
    atexit.register(tell, END, [])
    sys.addaudithook(note)


def plain(argument: object) -> object:
    """Return an event's argument as short JSON: the end of a text, where a path has its name; objects by their type."""
    if isinstance(argument, int | None):
        return argument
    if isinstance(argument, str | bytes | os.PathLike):
        return os.fsdecode(argument)[-_LONGEST_TEXT:]
    if isinstance(argument, list | tuple):
        return [plain(each) for each in argument[:_LONGEST_LIST]]
    return type(argument).__name__


if __name__ == "__main__":
    for hidden in ("pipeline", "stages"):
        sys.modules[hidden] = None  # type: ignore[assignment]  # an import of it fails
    watch(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
