"""`fairway train`, stopped and killed from outside: it must end in the checkpoint of a run that nobody touched.

The runs are real processes in a tiny project that snapshots after every step, so that a random moment is often one in
which a snapshot is being written.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.conftest import Project, make_project, unfolded

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds child processes in /proc: Linux")

TRAIN = Path("artifacts/seeds/1/train")
STATE = Path("artifacts/state/train-1")


class Training:
    """One `fairway train` in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.first_step = self.step()
        command = [sys.executable, "-m", "stages.cli", "train", "--seed", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def step(self) -> int:
        """Return the step of the latest complete snapshot, 0 without one."""
        manifest = self.root / STATE / "snapshot.json"
        return json.loads(manifest.read_text())["step"] if manifest.exists() else 0

    def wait_for_snapshots(self, number: int) -> "Training":
        """Wait until this run has written at least so many."""
        deadline = time.monotonic() + 120
        while self.step() < self.first_step + number:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "no snapshot in two minutes"
            time.sleep(0.001)
        return self

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and stderr."""
        stderr = self.process.communicate(timeout=300)[1]
        return self.process.returncode, stderr

    def family(self) -> list[int]:
        """Return the process and all that descend from it, ranks last."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            parents[int(stat.parent.name)] = int(fields[1])
        family = [self.process.pid]
        for member in family:
            family += [pid for pid, parent in parents.items() if parent == member]
        return family

    def kill(self) -> None:
        """Kill -9 the process and its ranks, which torchrun puts into sessions of their own."""
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids=["1 process", "2 processes"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, programs: str) -> Project:
    """Return a project with shards, set to 1 or 2 processes."""
    project = make_project(tmp_path_factory.mktemp("prepared"), programs)
    project.edit(launch={"num_processes": request.param, "snapshot_seconds": 1e-9})
    project.run("fairway", "prepare")
    return project


@pytest.fixture
def root(prepared: Project) -> Iterator[Path]:
    """Return the project's folder, without results and snapshots."""
    yield prepared.root
    for folder in (TRAIN, STATE):
        shutil.rmtree(prepared.root / folder, ignore_errors=True)


def untouched(project: Project, **train: float) -> dict[str, bytes]:
    """Return the outputs of a run that nobody touches, and remove them."""
    project.edit(train=train)
    assert Training(project.root).end()[0] == 0
    outputs = {path.name: path.read_bytes() for path in (project.root / TRAIN).iterdir()}
    assert not (project.root / STATE).exists(), "a finished run leaves no snapshot"
    shutil.rmtree(project.root / TRAIN)
    return outputs


def assert_finished_like(root: Path, expected: dict[str, bytes]) -> None:
    """Check the outputs against those of an untouched run: equal weights, and one log and one curve, but for times."""
    assert (root / TRAIN / "checkpoint.safetensors").read_bytes() == expected["checkpoint.safetensors"]
    ours, theirs = (root / TRAIN / "curve.csv").read_text(), expected["curve.csv"].decode()
    assert _without_seconds(ours) == _without_seconds(theirs)
    log = (root / TRAIN / "train.log").read_text()
    assert [line.split(" train_time")[0] for line in log.splitlines()] == [
        line.split(" train_time")[0] for line in expected["train.log"].decode().splitlines()
    ]
    assert not (root / STATE).exists()


def _without_seconds(csv: str) -> list[list[str]]:
    rows = [line.split(",") for line in csv.splitlines()]
    return [row[:3] + row[4:] for row in rows]


def test_stopped_then_killed_it_ends_like_an_untouched_run(prepared: Project, root: Path) -> None:
    """Ctrl-C on one process, SIGTERM on two; then kill -9; the last of the three runs finishes."""
    expected = untouched(prepared, max_steps=16)
    alone = json.loads(expected["report.json"])["num_processes"] == 1
    asked, exit_code = (signal.SIGINT, 130) if alone else (signal.SIGTERM, 143)
    first = Training(root).wait_for_snapshots(1)
    first.process.send_signal(asked)
    code, said = first.end()
    stopped_at = first.step()
    assert code == exit_code
    assert unfolded(said).splitlines()[-1] == (
        f"train: stopped by {asked.name} after step {stopped_at}; to continue from there, run the same command again"
    )
    assert "Traceback" not in said
    Training(root).wait_for_snapshots(1).kill()
    code, said = Training(root).end()
    assert code == 0, said
    resumed = json.loads((root / TRAIN / "report.json").read_text())["resumed_at_steps"]
    assert resumed[0] == stopped_at < resumed[1]
    assert f"continuing after step {resumed[1]}" in said
    assert_finished_like(root, expected)


@pytest.mark.slow
def test_a_changed_parameter_starts_afresh_and_says_why(prepared: Project, root: Path) -> None:
    expected = untouched(prepared, max_steps=16, matrix_lr=0.02)
    prepared.edit(train={"matrix_lr": 0.03})
    Training(root).wait_for_snapshots(2).kill()
    prepared.edit(train={"matrix_lr": 0.02})
    code, said = Training(root).end()
    assert code == 0, said
    assert "ignored: train.matrix_lr was 0.03, is 0.02" in said
    assert_finished_like(root, expected)


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [2], ids=["2 processes"], indirect=True)
def test_a_signal_to_one_rank_stops_all_after_the_same_step(prepared: Project, root: Path) -> None:
    prepared.edit(train={"max_steps": 200})
    run = Training(root).wait_for_snapshots(1)
    os.kill(run.family()[-1], signal.SIGTERM)
    code, said = run.end()
    assert code == 143
    assert f"stopped by SIGTERM after step {run.step()}" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [2], ids=["2 processes"], indirect=True)
def test_ranks_do_not_outlive_torchrun(prepared: Project, root: Path) -> None:
    """Kill -9 of the command alone: its ranks see that they are orphans after their step."""
    prepared.edit(train={"max_steps": 100_000})
    run = Training(root).wait_for_snapshots(1)
    ranks = run.family()
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline, "a rank went on without its torchrun"
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(prepared: Project, root: Path) -> None:
    """Some moments fall into the start, before a snapshot is read; most into the steps and the snapshots after them."""
    expected = untouched(prepared, max_steps=240)
    moments = random.Random(20)
    for _ in range(20):
        run = Training(root)
        if moments.random() < 0.25:
            time.sleep(moments.uniform(0, 3))
        else:
            run.wait_for_snapshots(moments.randint(1, 3))
            time.sleep(moments.uniform(0, 0.05))
        assert run.process.poll() is None, "the run was over before it was killed: give it more steps"
        run.kill()
        assert len(list((root / STATE).glob("step-*.rank-0.pt"))) <= 2
    code, said = Training(root).end()
    assert code == 0, said
    assert json.loads((root / TRAIN / "report.json").read_text())["resumed_at_steps"]
    assert_finished_like(root, expected)
