"""What long work says of itself: a pace that is true of a resumed run, seconds that know the clock, narrow lines."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from stages.shell import progress
from stages.shell.console import Stage
from stages.shell.folding import COLUMNS, wrapped
from stages.shell.progress import WINDOW_SECONDS, Pace, Work, as_clock, shown


def paces(reports: Iterable[tuple[float, int]]) -> list[float | None]:
    """Return the pace after each report (second, done)."""
    second = 0.0
    pace, found = Pace(lambda: second), []
    for at, done in reports:
        second = at
        found.append(pace.per_second(done))
    return found


def test_a_resumed_run_counts_from_its_first_report() -> None:
    assert paces([(1, 0), (5, 1001), (6, 1014), (7, 1028)]) == [None, None, 13.0, 13.5]


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    """Ten a second, then, when loops are switched on, two."""
    reports = [(second, 10 * second) for second in range(101)]
    reports += [(100 + second, 1000 + 2 * second) for second in range(1, 61)]
    found = paces(reports)
    assert found[100] == 10
    assert 2 < found[110] < 10
    assert found[100 + int(WINDOW_SECONDS) + 1] == found[160] == 2


def test_reports_further_apart_than_the_window_have_the_pace_of_the_last_two() -> None:
    assert paces([(0, 1), (100, 2), (150, 3), (200, 3)]) == [None, 0.01, 0.02, 0.01]


class Shown:
    """What `work` shows of reports (second, done, total, note, seconds left) in plain lines."""

    def __init__(self, work: Work, reports: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.told: list[dict] = []
        second = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: second)
        monkeypatch.setattr(progress.Pace.__init__, "__defaults__", (lambda: second,))
        with shown(work, self.lines.append, lambda **told: self.told.append(told)) as report:
            for at, *said in reports:
                second = at
                report(*said)


def test_training_is_told_in_tokens_and_knows_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [(second, 250 + second, 500, "loss 4.123, lr 1.00", 40.0 - second) for second in range(1, 11)]
    seen = Shown(Work("train", "steps", 4096, 500), reports, monkeypatch)
    assert seen.lines == [
        "train 255/500 steps after 0:05, 0:35 left, 4,096 tokens/s, loss 4.123, lr 1.00",
        "train 260/500 steps after 0:10, 0:30 left, 4,096 tokens/s, loss 4.123, lr 1.00",
        "train 260/500 steps after 0:10, 4,096 tokens/s, loss 4.123, lr 1.00",
    ]
    assert seen.told[-1] == {
        "label": "train",
        "unit": "steps",
        "done": 260,
        "total": 500,
        "note": "loss 4.123, lr 1.00",
        "seconds_left": 30.0,
    }
    assert max(map(len, seen.lines)) <= COLUMNS


@pytest.mark.parametrize(("most", "left"), [(2000, 162.0), (None, 162.0), (300, 88.0)])
def test_work_that_a_clock_ends_is_told_by_its_clock(monkeypatch: pytest.MonkeyPatch, most: int, left: float) -> None:
    """Two steps a second on average, three of late: the 360 steps that it expects will be over before its clock."""
    reports = [(8, 6, 360, "", 172.0), (18, 36, 360, "", 162.0)]
    assert Shown(Work("train", "steps", 1, most), reports, monkeypatch).told[-1]["seconds_left"] == left


def test_a_search_may_end_early_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [(9, 1, 12, "steps x 1: 9 bytes"), (13, 2, 12, "steps x 2: 8 bytes")]
    seen = Shown(Work("quantize", "trials", at_most=True), reports, monkeypatch)
    assert seen.lines == [
        "quantize 1/12 trials at most after 0:09, steps x 1: 9 bytes",
        "quantize 2/12 trials at most after 0:13, 0.25 trials/s, steps x 2: 8 bytes",
    ]


def test_what_has_ended_leaves_nothing_and_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [(6, 0, 8, "loading"), (7, 4, 8, "1.5 bpb"), (9, 8, 8, "1.25 bpb")]
    seen = Shown(Work("evaluate", "targets"), reports, monkeypatch)
    assert seen.lines == ["evaluate after 0:06, loading", "evaluate 8/8 targets after 0:09, 2 targets/s, 1.25 bpb"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (605, "10:05"), (3723, "1:02:03")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert as_clock(seconds) == text


def test_no_line_is_wider_than_a_terminal_and_no_word_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    digest = "sha256 " + "0123456789abcdef" * 4 + " fineweb_val_000000.bin"
    text = "  audit fail: T8 (val and train kept apart): " + "seeds/444/train/report.json is sealed, " * 5
    stage = Stage(0, 0.0, {"stage": "package"})
    for line in (digest, text):
        stage.log(line)
    stage.phase("proving seed 444 (1 of 3): train_gpt.py scores its artifact, alone in an empty folder")
    stage.summary("package: " + "1.6388 bpb, " * 9, "         second line " + "479,795 bytes; " * 9)
    said = capsys.readouterr()
    assert max(len(line) for line in (said.err + said.out).splitlines()) <= COLUMNS
    assert (said.err.split()[: len((digest + text).split())]) == (digest + text).replace("bin  ", "bin ").split()
    assert wrapped("short") == "short"


BAR = """
import time
from stages.shell.progress import Work, shown
with shown(Work("evaluate sliding", "targets"), print, lambda **told: None) as report:
    for step in range(1, 4):
        report(20000 * step, 61491, "network 1.7159 bpb", None)
        time.sleep(0.3)
"""


def test_a_bar_fits_a_terminal(programs: str) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm"}
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", BAR], stderr=theirs, env=environment, cwd=root) as process:
        os.close(theirs)
        shown_text = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if not part:
                break
            shown_text += part
    assert process.returncode == 0
    text = shown_text.decode()
    for word in ("evaluate sliding", "60000/61491  0:0", "/s  ", "left", "network 1.7159 bpb"):
        assert word in text, text
