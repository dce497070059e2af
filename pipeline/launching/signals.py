"""SIGINT and SIGTERM end a command with 130 and 143, at any moment, without a traceback.

Checked by: tests/stages/test_faults.py.
"""

import os
import signal
import sys
from types import FrameType


def obey_signals() -> None:
    """From now on both signals end this process, by an exception, so that every block removes what is temporary."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell's script
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """Exit; at once while a module is imported, where compiled code would turn an exception into another or drop it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back
    sys.exit(128 + number)
