"""Programs of strangers: started side by side, bounded in time, memory and output, ended with all that they started.

One idea: nothing is asked of the programs. What they print and tell is read as it comes, by threads, so that they can
neither fill a pipe nor make anybody wait; limits of the kernel bound each of their processes; and when they are over,
however that came, they are killed. In the sandbox nothing outlives that; without one, a process in a session of its own
does, and whoever reads what it holds open is told.

Checked by: tests/launching/test_sandbox.py, tests/audit/test_shipped.py.
"""

import contextlib
import inspect
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.base.checks import FairwayError, one_line
from pipeline.launching import starter
from pipeline.launching.sandbox import gpu_nodes
from pipeline.launching.sandbox import sandboxed as in_sandbox
from pipeline.launching.workplace import Workplace, kill_group

LARGEST_FILE_BYTES = 1 << 30
"""What a program may write into one file: nobody's disk is to be filled."""
MOST_PROCESSES = 4096
"""Of a sandbox, threads included."""
_LONGEST_LINE_BYTES = 1 << 16
_LONGEST_ANSWER_BYTES = 1 << 16
_POLL_SECONDS = 0.05


class StartError(FairwayError):
    """A stranger's program could not be started, or was lost sight of."""


class Program(NamedTuple):
    """A program to be started; its descriptors are closed here as soon as it has them."""

    command: list[str]
    environment: Mapping[str, str]
    stdout: int
    stderr: int
    descriptors: Sequence[int] = ()
    """Others that it is handed."""


class Listener:
    """Hands on every line of a program's pipe or socket, until it ends or has told more than anybody would read."""

    def __init__(self, descriptor: int, keep: Callable[[str], object], most_bytes: int) -> None:
        """`descriptor`: closed at the end; `most_bytes`: of lines as memory holds them, more than what was written."""
        self.flooded = False
        self._thread = threading.Thread(target=self._listen, args=(descriptor, keep, most_bytes), daemon=True)
        self._thread.start()

    def _listen(self, descriptor: int, keep: Callable[[str], object], most_bytes: int) -> None:
        held = 0
        with open(descriptor, "rb") as stream, contextlib.suppress(ConnectionError):
            while line := stream.readline(_LONGEST_LINE_BYTES):
                held += sys.getsizeof(line)
                if held > most_bytes:
                    self.flooded = True
                    return
                keep(line.decode(errors="replace").rstrip("\r\n"))

    def has_ended(self, patience_seconds: float) -> bool:
        """Return whether nobody can tell any more, waiting for it a while."""
        self._thread.join(patience_seconds)
        return not self._thread.is_alive()


def run_programs(
    programs: Sequence[Program],
    place: Workplace,
    limits: Mapping[str, int],
    *,
    sandboxed: bool,
    is_over: Callable[[], bool],
) -> list[int | None]:
    """Run programs side by side in `place` until all ended, one failed, or `is_over` says so; then nothing lives.

    Returns their exit statuses, None for those that did not end by themselves. All share one sandbox, and its network.
    `limits`: as `resource_limits` has them. `is_over` may raise. StartError, one line, when they cannot be started.
    """
    request = json.dumps({"limits": limits, "programs": [each._asdict() for each in programs]})
    command = [sys.executable, "-I", "-S", "-c", inspect.getsource(starter), request]
    environment = dict(programs[0].environment)
    descriptors = {each for program in programs for each in (program.stdout, program.stderr, *program.descriptors)}
    try:
        process = place.start(
            in_sandbox(command, place.folder, environment) if sandboxed else command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
        )
    finally:
        for each in descriptors:
            os.close(each)
    try:
        while process.poll() is None and not is_over():
            time.sleep(_POLL_SECONDS)
        return [None] * len(programs) if process.poll() is None else _statuses(process, len(programs))
    finally:
        kill_group(process)
        assert process.stdout is not None
        process.stdout.close()


def _statuses(process: subprocess.Popen, num_programs: int) -> list[int | None]:
    """Return what the starter, which has ended, says of its programs."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)  # no program can make this wait
    try:
        answer = os.read(process.stdout.fileno(), _LONGEST_ANSWER_BYTES).decode(errors="replace")
    except BlockingIOError:
        answer = ""
    try:
        statuses = json.loads(answer)
    except ValueError:
        statuses = None
    if process.returncode or not isinstance(statuses, list) or len(statuses) != num_programs:
        said = one_line((answer.strip().splitlines() or ["no answer"])[-1])
        raise StartError(f"cannot be run: {said} (its starter ended with {process.returncode})")
    return statuses


def resource_limits(environment: Mapping[str, str], timeout_seconds: float, *, sandboxed: bool) -> dict[str, int]:
    """Return what each process of a program may use at most, by name of the resource.

    Seconds of all cores, so that whatever escapes ends too; no core dumps, no huge file. Memory: the data segment, not
    the address space, of which torch reserves much and uses little; all that the machine has, so that a program without
    measure ends itself and nobody else. With a GPU there is none: its driver maps what it does not use.
    The number of processes in a sandbox only, where the system (Linux 5.14 or later) counts those of the sandbox;
    elsewhere it counts all of the user's threads, of other programs too. For root, whom it spares, the starter counts.
    """
    limits = {
        "RLIMIT_CPU": math.ceil(timeout_seconds) * (os.cpu_count() or 1),
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": LARGEST_FILE_BYTES,
    }
    if not gpu_nodes(environment):
        limits["RLIMIT_DATA"] = machine_memory_bytes()
    if sandboxed:
        limits["RLIMIT_NPROC"] = MOST_PROCESSES
    return limits


def machine_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
