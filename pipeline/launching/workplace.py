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
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-S", "-c", _WATCHER, folder]
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        assert watcher.stdin is not None
        try:
            yield Workplace(Path(folder).resolve(), watcher.stdin)
        finally:
            watcher.kill()
            watcher.communicate()


def kill_group(process: subprocess.Popen) -> None:
    """Kill a program that `start` started and all that it started, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
