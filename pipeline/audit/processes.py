"""Guarded processes of a record's program: started as torchrun would, watched, bounded in time, memory and output.

One idea: nobody but the auditor holds the other end. Each rank writes its events to its own socket, so that a program
cannot rewrite what it told. Ranks are not started by torchrun, which hands no descriptor on; they find each other by
the same variables.

Checked by: tests/audit/test_shipped.py.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.audit.guard import END
from pipeline.audit.untrusted import LARGEST_TEXT_BYTES
from pipeline.base.checks import FairwayError
from pipeline.launching.foreign import Listener, Program, StartError, resource_limits, run_programs
from pipeline.launching.workplace import Workplace

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
    """One process of the program, and what it prints and tells."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        events, theirs = socket.socketpair()
        events.shutdown(socket.SHUT_WR)
        output, printing = os.pipe()
        self.lines: list[str] = []
        self.messages: dict[str, None] = {}
        self.last_message = ""
        self.listeners = (
            Listener(output, self.lines.append, LARGEST_TEXT_BYTES),
            Listener(events.detach(), self._keep, LARGEST_TEXT_BYTES),
        )
        telling = theirs.detach()
        command = [sys.executable, "-I", "guard.py", str(telling), *arguments]
        self.program = Program(command, environment, printing, printing, [telling])

    def _keep(self, message: str) -> None:
        self.messages[message] = None
        self.last_message = message

    @property
    def flooded(self) -> bool:
        """Whether it has told more than anybody would read."""
        return any(each.flooded for each in self.listeners)

    def require_silence(self) -> None:
        """Wait until its pipes are dry, after its end; ShippedError when somebody still holds them."""
        if not all(each.has_ended(_PATIENCE_SECONDS) for each in self.listeners):
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
    *,
    sandboxed: bool,
) -> Outcome:
    """Run `guard.py` in `place` on so many ranks; ShippedError, one line, when it fails or takes too long.

    Also when `stopped` is set, by whoever no longer waits for an answer. The events that ranks told before a failure
    are lost with it: a program that fails is not audited.
    """
    deadline = time.monotonic() + timeout_seconds
    ranks = [_Rank(arguments, {**environment, **variables}) for variables in _rank_variables(num_processes)]

    def is_over() -> bool:
        if time.monotonic() > deadline:
            raise ShippedError(
                f"train_gpt.py --evaluate-only: still running after {timeout_seconds:g} s; "
                "allow it more with --timeout-seconds"
            )
        if stopped.is_set():
            raise ShippedError("train_gpt.py --evaluate-only: stopped, for nobody waits for its answer")
        return any(rank.flooded for rank in ranks)

    limits = resource_limits(environment, timeout_seconds, sandboxed=sandboxed)
    try:
        programs = [rank.program for rank in ranks]
        statuses = run_programs(programs, place, limits, sandboxed=sandboxed, is_over=is_over)
    except StartError as error:
        raise ShippedError(f"train_gpt.py --evaluate-only: {error}") from None
    finally:
        for rank in ranks:
            rank.require_silence()
    _require_success(ranks, statuses)
    told = [rank.outcome() for rank in ranks]
    silent = [number for number, (_, ended) in enumerate(told) if not ended]
    return Outcome(ranks[0].lines, {event for events, _ in told for event in events}, silent)


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
