"""One command at a time makes an output: a lock that the system takes from whoever dies.

Checked by: tests/stages/test_alone.py.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.checks import FairwayError


class BusyError(FairwayError):
    """Another process is making the same output."""


@contextmanager
def held_alone(output: Path) -> Iterator[None]:
    """Hold `output` for this process; BusyError while another holds it. A process that dies in any way lets it go."""
    path = output.with_name(f".{output.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_in_place = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except BlockingIOError:
                raise BusyError(f"{output}: another command is making it; run again when that has ended") from None
            except FileNotFoundError:
                is_in_place = False
            if not is_in_place:  # whoever held it has just ended and taken the file away, so this lock excludes nobody
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
