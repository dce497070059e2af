"""Guarded processes of a record's program: started as torchrun would, watched, bounded in time, memory and output.

One idea: nobody but the auditor holds the other end. Each rank writes its events to its own socket; output and events
are read as they come, by threads, so that a program can neither fill a pipe nor rewrite what it told. Ranks are started
here and not by torchrun, which hands no descriptor on; they find each other by the same variables.

Checked by: tests/audit/test_shipped.py.
"""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

from pipeline.audit.guard import END
from pipeline.audit.untrusted import LARGEST_TEXT_BYTES
from pipeline.base.checks import FairwayError
from pipeline.launching.workplace import Workplace, kill_group

LARGEST_FILE_BYTES = 1 << 30
"""What the program may write into one file: an audit must not fill the disk."""
_LONGEST_LINE_BYTES = 1 << 16
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
"""How long after a program's end its pipes may take to run dry."""


class ShippedError(FairwayError):
    """The shipped program could not be run for the audit."""


class Event(NamedTuple):
    """What a process was about to do."""

    name: str
    """Of the interpreter's audit event."""
    arguments: str
    """JSON list."""

    @property
    def values(self) -> list[Any]:
        """The arguments as plain data."""
        return json.loads(self.arguments)


class Outcome(NamedTuple):
    """What a group of processes left behind."""

    lines: list[str]
    """Printed by rank 0, errors included."""
    events: set[Event]
    silent_ranks: list[int]
    """Ranks that stopped telling before they ended."""


class _Rank:
    """One process and the threads that listen to it."""

    def __init__(
        self, arguments: Sequence[str], limits: Mapping[str, int], place: Workplace, environment: Mapping[str, str]
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.shutdown(socket.SHUT_WR)
            self.process = place.start(
                [sys.executable, "-I", "guard.py", str(theirs.fileno()), json.dumps(limits), *arguments],
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        self.messages: dict[str, None] = {}
        self.last_message = ""
        self.flooded = False
        self.threads = [
            threading.Thread(target=self._listen, args=arguments, daemon=True)
            for arguments in ((self.process.stdout, self.lines.append), (ours.makefile("rb"), self._keep))
        ]
        ours.close()  # its file holds on to it
        for thread in self.threads:
            thread.start()

    def _keep(self, message: str) -> None:
        self.messages[message] = None
        self.last_message = message

    def _listen(self, stream: IO[bytes], keep: Callable[[str], None]) -> None:
        """Hand on every line of a stream until its end, or until it holds more than anybody would read."""
        held = 0
        with stream, contextlib.suppress(ConnectionError):
            while line := stream.readline(_LONGEST_LINE_BYTES):
                held += len(line)
                if held > LARGEST_TEXT_BYTES:
                    self.flooded = True
                    return
                keep(line.decode(errors="replace").rstrip("\r\n"))

    def stop(self) -> None:
        """Kill the process and all that it started, and wait until its pipes are dry."""
        kill_group(self.process)
        for thread in self.threads:
            thread.join(_PATIENCE_SECONDS)
            if thread.is_alive():
                raise ShippedError("train_gpt.py --evaluate-only: a process that it started outlives it")

    def outcome(self) -> tuple[set[Event], bool]:
        """Return the events that the process told, and whether it told its end, last of all."""
        try:
            told = [json.loads(message) for message in self.messages]
            events = {Event(str(name), json.dumps(arguments)) for name, arguments in told if name != END}
        except (ValueError, TypeError, RecursionError):
            raise ShippedError("train_gpt.py --evaluate-only: tells the auditor what its guard would not") from None
        return events, self.last_message == json.dumps([END, []])


def run_guarded(
    arguments: Sequence[str],
    place: Workplace,
    environment: Mapping[str, str],
    num_processes: int,
    timeout_seconds: float,
    stopped: threading.Event,
) -> Outcome:
    """Run `guard.py` in `place` on so many ranks; ShippedError, one line, when it fails or takes too long.

    Also when `stopped` is set, by whoever no longer waits for an answer. The events that ranks told before a failure
    are lost with it: a program that fails is not audited.
    """
    limits = resource_limits(environment, timeout_seconds)
    deadline = time.monotonic() + timeout_seconds
    ranks: list[_Rank] = []
    try:
        for variables in _rank_variables(num_processes):
            ranks.append(_Rank(arguments, limits, place, {**environment, **variables}))
        while any(rank.process.poll() is None for rank in ranks):
            if time.monotonic() > deadline:
                raise ShippedError(
                    f"train_gpt.py --evaluate-only: still running after {timeout_seconds:g} s; "
                    "allow it more with --timeout-seconds"
                )
            if stopped.is_set():
                raise ShippedError("train_gpt.py --evaluate-only: stopped, for nobody waits for its answer")
            if any(rank.flooded for rank in ranks) or any(rank.process.poll() for rank in ranks):
                break
            time.sleep(_POLL_SECONDS)
        # Whoever ended by itself: those that the next lines stop have a negative status that says nothing.
        statuses = [rank.process.poll() for rank in ranks]
    finally:
        for rank in ranks:
            rank.stop()
    _require_success(ranks, statuses)
    told = [rank.outcome() for rank in ranks]
    silent = [number for number, (_, ended) in enumerate(told) if not ended]
    return Outcome(ranks[0].lines, {event for events, _ in told for event in events}, silent)


def resource_limits(environment: Mapping[str, str], timeout_seconds: float) -> dict[str, int]:
    """Return what each process of the program may use at most, by name of the resource.

    Seconds of all cores, so that whatever escapes the auditor ends too; no core dumps, no huge file. Memory: the data
    segment, not the address space, of which torch reserves much and uses little; all that the machine has, so that a
    program without measure ends itself and nobody else. With a GPU there is none: its driver maps what it does not use.
    No number of processes: the system counts all of the user's threads, of other programs too.
    """
    limits = {
        "RLIMIT_CPU": math.ceil(timeout_seconds) * (os.cpu_count() or 1),
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": LARGEST_FILE_BYTES,
    }
    if environment.get("CUDA_VISIBLE_DEVICES") == "":
        limits["RLIMIT_DATA"] = machine_memory_bytes()
    return limits


def machine_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _require_success(ranks: Sequence[_Rank], statuses: Sequence[int | None]) -> None:
    if any(rank.flooded for rank in ranks):
        raise ShippedError(f"train_gpt.py --evaluate-only: tells more than {LARGEST_TEXT_BYTES} bytes")
    for rank, status in zip(ranks, statuses, strict=True):
        if status:
            last = next((line for line in reversed(rank.lines) if "rror" in line), (rank.lines or ["no output"])[-1])
            raise ShippedError(
                f"train_gpt.py --evaluate-only: exit status {status}: {last[:200].strip()}; "
                "package the record again with this Fairway"
            )


def _rank_variables(num_processes: int) -> list[dict[str, str]]:
    """Return what torchrun would put into each rank's environment; nothing for a process alone."""
    if num_processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(num_processes)
    ]
