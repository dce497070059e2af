"""Does a record's program start? `train_gpt.py --help`, alone in an empty folder, for a while, saying little.

Checked by: tests/launching/test_sandbox.py.
"""

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from pipeline.base.checks import one_line
from pipeline.launching.foreign import Listener, Program, StartError, resource_limits, run_programs
from pipeline.launching.workplace import Workplace, workplace
from pipeline.verification.findings import Finding, finding
from pipeline.verification.program import ShippedCode

START_SECONDS = 120.0
"""Time that `train_gpt.py --help` may take."""
LARGEST_OUTPUT_BYTES = 16 << 20
"""What it may say of errors."""
_PATIENCE_SECONDS = 2.0
"""How long after its end what it said may take to arrive."""
_COMMAND = "train_gpt.py --help"


def start_finding(path: Path, program: ShippedCode, environment: Mapping[str, str], sandboxed: bool) -> Finding:
    """Return whether `train_gpt.py --help` starts; not stated for a program that parses no arguments."""
    if not program.has_command_line:
        return finding("program", "not stated", "train_gpt.py has no command line to try")
    evidence, starts = start_alone(path, environment, sandboxed=sandboxed)
    return finding("program", "agreement" if starts else "contradiction", evidence)


def start_alone(program: Path, environment: Mapping[str, str], *, sandboxed: bool) -> tuple[str, bool]:
    """Return whether a copy of `program` starts, as evidence of one line and the answer; nothing of it is left.

    `environment`: all its variables besides a home and a folder for temporary files; `sandboxed`: in the sandbox,
    where `require_sandbox` has found one. Raises OSError when there is no such file.
    """
    with workplace() as place:
        shutil.copyfile(program, place.folder / "train_gpt.py")
        home = str(place.folder)
        return _start(place, {"HOME": home, "TMPDIR": home, **environment}, sandboxed)


def _start(place: Workplace, environment: Mapping[str, str], sandboxed: bool) -> tuple[str, bool]:
    reading, writing = os.pipe()
    said: deque[str] = deque(maxlen=100)
    listener = Listener(reading, said.append, LARGEST_OUTPUT_BYTES)
    command = [sys.executable, "-I", *_COMMAND.split()]
    program = Program(command, environment, os.open(os.devnull, os.O_WRONLY), writing)
    limits = resource_limits(environment, START_SECONDS, sandboxed=sandboxed)
    deadline = time.monotonic() + START_SECONDS

    def is_over() -> bool:
        return listener.flooded or time.monotonic() > deadline

    try:
        (status,) = run_programs([program], place, limits, sandboxed=sandboxed, is_over=is_over)
    except StartError as error:
        return f"{_COMMAND}: {one_line(error)}", False
    is_silent = listener.has_ended(_PATIENCE_SECONDS)
    if listener.flooded:
        return f"{_COMMAND}: tells more than {LARGEST_OUTPUT_BYTES} bytes", False
    if status is None:
        return f"{_COMMAND}: no end within {START_SECONDS:g} s", False
    if not is_silent:
        return f"{_COMMAND}: a process that it started outlives it", False
    if status:
        last = next((line for line in reversed(said) if line.strip()), "no output")
        return f"{_COMMAND}: exit status {status}: {one_line(last, 120)}", False
    return "starts alone", True
