"""How the library reports progress: a callable, so that it never knows a terminal.

A progress callable takes (done, total, note); `done` counts up to `total` in any unit, `note` is a short text such
as the current loss. Stages pass a bar or plain lines (`stages/shell/console.py`), tests and the record program
`silent`.
"""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
Log = Callable[[str], None]


def silent(done: int, total: int, note: str) -> None:
    """Report nothing."""
