"""A folder for a while, and programs that run in it and end with this process, however it ends.

One idea: a watcher, a process of its own, reads a pipe that only this process writes. The end of the pipe is the end of
this process, a kill -9 included: then the watcher kills the programs it was told of, with all that they started in
their groups, and removes the folder. Nothing is asked of the programs, so that a hostile one cannot refuse.

Differs: prctl's PR_SET_PDEATHSIG is Linux's own, ends with the thread that started the program, is undone by the
program, and spares what the program started.
Checked by: tests/launching/test_workplace.py.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_WATCHER = """
import os, shutil, signal, sys
for group in sys.stdin.read().split():
    try:
        os.killpg(int(group), signal.SIGKILL)
    except OSError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
_PATIENCE_MILLISECONDS = 10_000
"""How long a child that was killed may take to end."""


class Workplace:
    """An empty folder in which programs can be started."""

    def __init__(self, folder: Path, watcher: IO[bytes]) -> None:
        self.folder = folder
        self._watcher = watcher

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Start a program in the folder, without input, as the head of a process group; `options`: those of Popen."""
        process = subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
        self._watcher.write(f"{process.pid}\n".encode())
        self._watcher.flush()
        return process


@contextlib.contextmanager
def workplace() -> Iterator[Workplace]:
    """Yield a workplace; its folder is removed at the end, its programs are whoever's started them."""
    folder = Path(tempfile.mkdtemp()).resolve()
    try:
        command = [sys.executable, "-I", "-S", "-c", _WATCHER, str(folder)]
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        assert watcher.stdin is not None
        try:
            yield Workplace(folder, watcher.stdin)
        finally:
            watcher.kill()
            watcher.communicate()
    finally:
        remove_foreign(folder)


def remove_foreign(folder: Path) -> None:
    """Remove a folder whose contents are a stranger's: of folders locked, and of links to what is not his.

    `tempfile` of some Pythons unlocks what a link names.
    """
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        for place, names, _ in os.walk(folder):
            for path in (os.path.join(place, name) for name in names):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def kill_group(process: subprocess.Popen) -> None:
    """Kill a program that `start` started, all of its group and its children of other groups, and wait for their end.

    The child of a sandbox is its first process, and with that all of the sandbox.
    """
    children = list(_children(process))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
    process.wait()
    for child in children:
        ended = select.poll()
        ended.register(child, select.POLLIN)
        ended.poll(_PATIENCE_MILLISECONDS)
        os.close(child)


def _children(process: subprocess.Popen) -> Iterator[int]:
    """Yield descriptors of a running program's children: they stay theirs, as a number would not."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if process.poll() is None and path.exists():
        for number in path.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                yield os.pidfd_open(int(number))
