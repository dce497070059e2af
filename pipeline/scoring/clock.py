"""How long scoring takes, and whether it will end in time: a progress callable around another.

One idea: the first report carries what is paid once (kernels built, libraries loaded), so the pace is measured from
there on, over whatever happens between reports: training between groups included. A run that cannot end in time is
stopped as soon as its pace is known, not at its limit.

Source: none.
Checked by: tests/scoring/test_clock.py.
"""

import time
from collections.abc import Callable

from pipeline.base.checks import FairwayError
from pipeline.base.progress import Progress

TRUSTED_FRAC = 0.02
"""Part of the targets after which the pace counts as known."""
TRUSTED_SECONDS = 2.0
"""Seconds of pace that it takes at least."""
MARGIN = 1.1
"""A projection stops a run when it is over the limit by more than this factor; what is spent, at once."""


class TimeLimitError(FairwayError):
    """Scoring takes longer than it may."""


class ScoringClock:
    """Times one scoring run; called as its progress."""

    def __init__(
        self,
        limit_seconds: float | None,
        spent_seconds: float,
        progress: Progress,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_seconds`: for all of the run, None for no limit; `spent_seconds`: gone before the clock starts."""
        self.limit_seconds, self.progress, self.now = limit_seconds, progress, now
        self.started = now() - spent_seconds
        self.opened = now()
        self.first: tuple[float, int] | None = None
        """When the first report came, and how many targets were done."""

    def __call__(self, done: int, total: int, note: str) -> None:
        """Report, and raise TimeLimitError when the run is, or is bound to get, beyond its limit."""
        self.progress(done, total, note)
        at = self.now()
        if self.first is None:
            self.first = at, done
        if self.limit_seconds is None or done >= total:
            return
        spent, pace = at - self.started, at - self.first[0]
        known = done > self.first[1] and done >= TRUSTED_FRAC * total and pace >= TRUSTED_SECONDS
        projected = spent + (total - done) * pace / (done - self.first[1]) if known else spent
        if max(spent, projected / MARGIN) > self.limit_seconds:
            raise TimeLimitError(
                f"scoring stopped after {spent:.0f} s with {done:,} of {total:,} targets done: it would take about "
                f"{projected:.0f} s, evaluate.limit_seconds is {self.limit_seconds:g}; use more processes "
                "(launch.num_processes), larger evaluate.batch_tokens, a larger stride_tokens or fewer epochs"
            )

    def seconds(self) -> dict[str, float]:
        """Return `compile`, from the clock's start to the first report (it builds kernels), and `score`, from there."""
        first = self.opened if self.first is None else self.first[0]
        return {"compile": first - self.opened, "score": self.now() - first}
