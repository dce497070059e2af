"""How the library reports progress: a callable, so that it never knows a terminal.

A progress callable takes (done, total, note); `done` counts up to `total` in any unit, `note` is a short text such
as the loss so far. Stages pass a bar or plain lines (`stages/shell/progress.py`), tests and the record program
`silent`.
"""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
ClockedProgress = Callable[..., None]
"""The same with a fourth argument, where a clock may end the work first: the seconds that it leaves, None without."""
Log = Callable[[str], None]


def silent(done: int, total: int, note: str, seconds_left: float | None = None) -> None:
    """Report nothing."""
