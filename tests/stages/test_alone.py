"""Two commands for one output: one makes it, the other says in one line that it is busy; a killed one blocks nobody."""

import json
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.data.manifest import listed_shards, open_listed
from pipeline.launching.alone import BusyError, held_alone
from tests.stages.conftest import Project, make_project

COMMANDS = {
    "artifacts/data/tokenizer.model": ["prepare"],
    "artifacts/seeds/1/train/checkpoint.safetensors": ["train", "--seed", "1"],
    "artifacts/seeds/1/calibrate/hessians.safetensors": ["calibrate", "--seed", "1"],
    "artifacts/seeds/1/quantize/model.fwy": ["quantize", "--seed", "1"],
    "artifacts/seeds/1/evaluate/scores-blocks.json": ["evaluate", "--seed", "1", "--item", "blocks"],
    "artifacts/package": ["package"],
    "artifacts/audit/audit.json": ["audit", "artifacts/package"],
}


def _hold(output: Path, held: "multiprocessing.synchronize.Event") -> None:
    with held_alone(output):
        held.set()
        signal.pause()


def test_an_output_is_held_until_its_process_ends_or_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "manifest.json"
    held = multiprocessing.get_context("spawn").Event()
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(output, held))
    holder.start()
    assert held.wait(60)
    with (
        pytest.raises(BusyError, match=r"manifest\.json: another command is making it; run again when"),
        held_alone(output),
    ):
        pass
    with held_alone(output.with_name("other.json")):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with held_alone(output):
        pass
    assert list(output.parent.iterdir()) == []


def _take(output: Path, rounds: int) -> None:
    """Count rounds of sole ownership in a file, failing when somebody else is inside."""
    for _ in range(rounds):
        try:
            with held_alone(output):
                (output.parent / "inside").mkdir()  # fails when another is inside
                (output.parent / "inside").rmdir()
        except BusyError:
            continue


def test_no_two_are_ever_inside(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    takers = [spawn.Process(target=_take, args=(tmp_path / "out", 3000)) for _ in range(3)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert [taker.exitcode for taker in takers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_every_command_says_that_its_output_is_busy_and_changes_nothing(project: Project) -> None:
    for output, command in COMMANDS.items():
        before = {path: path.stat().st_mtime_ns for path in (project.root / "artifacts").rglob("*") if path.is_file()}
        with held_alone(project.root / output):
            done = project.run("fairway", *command, check=False)
        assert done.returncode == 1, command
        line = f"fairway: error: {output}: another command is making it; run again when that has ended\n"
        assert done.stderr == line
        assert before == {path: path.stat().st_mtime_ns for path in before}


def test_items_of_one_seed_do_not_wait_for_one_another(project: Project) -> None:
    with held_alone(project.root / "artifacts/seeds/1/evaluate/scores-ttt.json"):
        project.run("fairway", "evaluate", "--seed", "1", "--item", "blocks")


def test_several_prepare_at_once_leave_one_corpus(tmp_path: Path, programs: str) -> None:
    project = make_project(tmp_path / "project", programs)
    environment = {**os.environ, "PATH": programs}
    command = ["python", "-m", "stages.cli", "prepare"]
    for _ in range(3):
        runs = [
            subprocess.Popen(
                command, cwd=project.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        messages = [run.communicate()[1] for run in runs]
        assert any(run.returncode == 0 for run in runs), messages
        for run, message in zip(runs, messages, strict=True):
            assert run.returncode == 0 or (run.returncode == 1 and "another command is making it" in message), message
        folder = project.root / "artifacts"
        assert sorted(path.name for path in folder.iterdir()) == ["data", "state"]
        files = [path for path in (folder / "state").rglob("*") if path.is_file()]
        assert files == [folder / "state/seconds/prepare.json"]
        manifest = folder / "data/manifest.json"
        assert json.loads(manifest.read_text())["vocab_size"] == 320
        for split in ("train", "val"):
            open_listed(listed_shards(manifest, split), 320)
