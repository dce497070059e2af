"""Runs a record's program with its eyes open: notes every file, socket and child process, and hides this library.

One idea: a hook cannot be taken off. Standard library only: this file is copied beside the program and started as
`guard.py EVENTS PROGRAM ARGUMENT...`.

Checked by: tests/audit/test_shipped.py.
"""

import os
import runpy
import sys
from typing import Any

WATCHED_EVENTS = {
    "open": 0, "os.listdir": 0, "socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0, "subprocess.Popen": 1, "os.system": 0, "os.posix_spawn": 0, "os.exec": 0,
}  # fmt: skip
"""Audit event -> position of what it is about."""


def watch(events_path: str) -> None:
    """Append a line, event and subject, to a file for every watched event from now on."""
    descriptor = os.open(events_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED_EVENTS:
            subject = arguments[WATCHED_EVENTS[event]]
            if isinstance(subject, str | bytes | os.PathLike) and event == "open":
                subject = os.path.realpath(os.fsdecode(subject))
            os.write(descriptor, (f"{event} {subject}".replace("\n", " ") + "\n").encode(errors="replace"))

    sys.addaudithook(note)


if __name__ == "__main__":
    for hidden in ("pipeline", "stages"):
        sys.modules[hidden] = None  # type: ignore[assignment]  # an import of it fails
    watch(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
