"""What a running stage says of itself to another terminal, and that nothing is said once it has ended, in any way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.launching.alone import held_alone
from stages.shell.running import RUNNING, report_running, running_stages, seconds_taken
from tests.stages.conftest import HOSTILE, Project

OUTPUT = Path("artifacts/seeds/7/evaluate/scores-ttt.json")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(told: "multiprocessing.synchronize.Event") -> None:
    with held_alone(OUTPUT), report_running("evaluate", 7, "ttt", OUTPUT) as running:
        running(label="evaluate ttt", unit="targets", done=3, total=10, note="bpb 1.7", seconds_left=2.5)
        told.set()
        signal.pause()


def test_a_stage_is_listed_until_its_process_dies() -> None:
    assert running_stages() == []
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Event()
    process = spawn.Process(target=_run, args=(told,), daemon=True)
    process.start()
    assert told.wait(60)
    (said,) = running_stages()
    assert time.time() - said.pop("written") < 60
    assert 0 <= said.pop("elapsed_seconds") < 60
    assert said == {
        "stage": "evaluate",
        "seed": 7,
        "item": "ttt",
        "pid": process.pid,
        "output": str(OUTPUT),
        "label": "evaluate ttt",
        "unit": "targets",
        "done": 3,
        "total": 10,
        "note": "bpb 1.7",
        "seconds_left": 2.5,
    }
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (RUNNING / "evaluate-7-ttt.json").exists()
    assert running_stages() == []
    assert list(RUNNING.iterdir()) == []


def test_a_stage_that_ends_says_nothing_and_a_file_of_nobody_is_no_stage() -> None:
    with held_alone(OUTPUT), report_running("train", 7, None, OUTPUT):
        (RUNNING / "other.json").write_text("{}")
        assert [said["stage"] for said in running_stages()] == ["train"]
    assert not (RUNNING / "train-7.json").exists()


def test_how_long_a_stage_took_is_kept_when_it_ends_well() -> None:
    with pytest.raises(ValueError, match="bad"), held_alone(OUTPUT), report_running("train", 7, None, OUTPUT):
        raise ValueError("bad")
    assert seconds_taken("train", 7, None) is None
    with held_alone(OUTPUT), report_running("train", 7, None, OUTPUT):
        time.sleep(0.01)
    assert seconds_taken("train", 7, None) > 0.01


def test_what_cannot_be_written_stops_nobody() -> None:
    RUNNING.parent.mkdir(parents=True)
    RUNNING.touch()  # a file, where a folder should be
    with held_alone(OUTPUT), report_running("train", 7, None, OUTPUT) as running:
        running(label="train", done=1)
    assert running_stages() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_real_stage_is_listed_while_it_runs(project: Project, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(project.root)
    project.edit(train={"max_steps": 100000, "max_seconds": None})
    environment = {**os.environ, **HOSTILE, "PATH": project.programs}
    command = [sys.executable, "-m", "stages.cli", "train", "--seed", "1"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (said := running_stages()) or said[0]["seconds_left"] is None:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.stderr is not None
        process.stderr.read()
    (shown,) = said
    assert (shown["stage"], shown["seed"], shown["pid"], shown["unit"]) == ("train", 1, process.pid, "steps")
    assert shown["total"] == 100000
    assert shown["note"].startswith("loss ")
    assert shown["seconds_left"] > 0
    assert running_stages() == []
    assert not list(RUNNING.iterdir())
