"""The clock of a scoring run: phases add up, a hopeless run stops early, others run on."""

import pytest

from pipeline.base.progress import silent
from pipeline.scoring.clock import ScoringClock, TimeLimitError


class Time:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def run(limit: float | None, first: float, each: float, between: float = 0.0, spent: float = 5.0) -> tuple[int, float]:
    """Score 1,000 targets, 10 a report, ten reports a group with training in `between`; return where and when it ends.

    `first`: seconds to the first report.
    """
    time = Time()
    clock = ScoringClock(limit, spent, silent, time)
    for done in range(10, 1001, 10):
        time.seconds += first if done == 10 else each
        clock(done, 1000, "")
        if done % 100 == 0 and done < 1000:
            time.seconds += between
            clock(done, 1000, "")
    return done, time.seconds - 100.0 + spent


def test_a_run_that_meets_its_limit_ends() -> None:
    assert run(limit=300.0, first=90.0, each=2.0) == (1000, 5 + 90 + 99 * 2)  # a slow start is not the pace


def test_no_limit_stops_nothing() -> None:
    assert run(limit=None, first=1.0, each=1e6)[0] == 1000


def test_a_run_that_cannot_meet_its_limit_stops_as_soon_as_its_pace_is_known() -> None:
    message = (
        r"^scoring stopped after 8 s with 20 of 1,000 targets done: it would take about 302 s, "
        r"evaluate.limit_seconds is 200; use more processes"
    )
    with pytest.raises(TimeLimitError, match=message) as caught:
        run(limit=200.0, first=0.0, each=3.0)
    assert "\n" not in str(caught.value)


def test_training_between_groups_counts() -> None:
    assert run(limit=150.0, first=1.0, each=1.0)[0] == 1000
    with pytest.raises(TimeLimitError, match="with 100 of 1,000 targets"):
        run(limit=150.0, first=1.0, each=1.0, between=20.0)


def test_a_run_beyond_its_limit_stops_whatever_its_pace() -> None:
    with pytest.raises(TimeLimitError, match="after 95 s with 10 of"):
        run(limit=90.0, first=90.0, each=0.0)


def test_phases() -> None:
    time = Time()
    clock = ScoringClock(None, 5.0, silent, time)
    assert clock.seconds() == {"compile": 0.0, "score": 0.0}
    time.seconds += 3
    clock(1, 10, "")
    time.seconds += 4
    assert clock.seconds() == {"compile": 3.0, "score": 4.0}


def test_reports_pass_through() -> None:
    seen: list[tuple[int, int, str]] = []
    ScoringClock(None, 0.0, lambda *report: seen.append(report))(3, 7, "note")
    assert seen == [(3, 7, "note")]
