"""How far long work is: a bar on a terminal, a plain line every few seconds elsewhere.

The one idea: the pace is that of the last half minute, counted from the first report on. A run that was resumed did
not do in a second what it found done, and work that changes its speed is told at the speed it has now.

Checked by: tests/stages/test_progress.py.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.base.progress import ClockedProgress, Log

SECONDS_BETWEEN_LINES = 5.0
WINDOW_SECONDS = 30.0
"""The pace is that of so much time, or of the last report where reports are further apart."""


class Work(NamedTuple):
    """A piece of long work and what it is counted in."""

    label: str
    unit: str
    tokens_per_unit: int | None = None
    """The pace is told in tokens where this is set."""
    at_most: bool = False
    """Whether it may end before all is done."""


class Pace:
    """How fast work goes, by the reports that it gives."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.marks: deque[tuple[float, int]] = deque()

    def per_second(self, done: int) -> float | None:
        """Take a report; return the units per second of late, None before there is a second one."""
        at, marks = self.now(), self.marks
        if not marks or at - marks[-1][0] >= WINDOW_SECONDS / 100:
            marks.append((at, done))
        while len(marks) > 2 and at - marks[1][0] >= WINDOW_SECONDS:
            marks.popleft()
        since, before = marks[0]
        return (done - before) / (at - since) if done > before and at > since else None


class _State(NamedTuple):
    """A report as people read it."""

    done: int
    total: int
    elapsed: str
    left: str
    pace: str
    note: str


@contextmanager
def shown(work: Work, log: Log, running: Callable[..., None]) -> Iterator[ClockedProgress]:
    """Yield a progress callable that shows `work`, and tells `running` of it."""
    pace, started = Pace(), time.monotonic()

    def report(done: int, total: int, note: str, seconds_left: float | None = None) -> None:
        rate = pace.per_second(done)
        ends = [seconds for seconds in ((total - done) / rate if rate else None, seconds_left) if seconds is not None]
        left = min(ends, default=None)
        running(label=work.label, unit=work.unit, done=done, total=total, note=note, seconds_left=left)
        most = "at most " if work.at_most else ""
        told = "" if left is None or done >= total else f"{most}{as_clock(left)} left"
        show(_State(done, total, as_clock(time.monotonic() - started), told, _pace_text(work, rate), note))

    with (_bar if sys.stderr.isatty() else _plain_lines)(work, log) as show:
        yield report


def as_clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _pace_text(work: Work, rate: float | None) -> str:
    if rate is None:
        return ""
    rate, unit = (rate, work.unit) if work.tokens_per_unit is None else (rate * work.tokens_per_unit, "tokens")
    return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"


@contextmanager
def _plain_lines(work: Work, log: Log) -> Iterator[Callable[[_State], None]]:
    """Yield what logs a line every few seconds, when all is done, and at the end when there is something to add."""
    last, unsaid = time.monotonic(), ""

    def show(state: _State) -> None:
        nonlocal last, unsaid
        count = f"{state.done}/{state.total} {work.unit}" + (" at most" if work.at_most else "")
        parts = (f"{work.label} {count} after {state.elapsed}", state.left, state.pace, state.note)
        unsaid = ", ".join(part for part in parts if part)
        if state.done >= state.total or time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            log(unsaid)
            last, unsaid = time.monotonic(), ""

    yield show
    if unsaid:
        log(unsaid)


@contextmanager
def _bar(work: Work, log: Log) -> Iterator[Callable[[_State], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("elapsed", "left", "pace", "note")]
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), *fields)
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        empty = {"elapsed": "", "left": "", "pace": "", "note": ""}
        task = progress.add_task(work.label, total=None, **empty)  # type: ignore[arg-type]

        def show(state: _State) -> None:
            values = state._asdict()
            progress.update(task, completed=values.pop("done"), **values)

        yield show
