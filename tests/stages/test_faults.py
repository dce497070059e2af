"""Faults of the machine, in every stage: a full disk, signals, kill -9. One line or none, nothing left, the same bytes.

A limit on the size of files stands for a full disk: it needs no privileges. Stages run in real Pythons, because limits
and signals do not reach forks of the preloaded one.
"""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base.artifacts import ROOT, outputs_of
from tests.stages.conftest import HOSTILE, Project

STAGES = {
    "prepare": [],
    "train": ["--seed", "1"],
    "calibrate": ["--seed", "1"],
    "quantize": ["--seed", "1"],
    "evaluate": ["--seed", "1", "--item", "ttt"],
    "package": [],
    "audit": ["artifacts/package", "--evidence", "artifacts", "--record", "artifacts/submission"],
}
"""Command -> arguments, as in dvc.yaml."""
QUICK = ["train"]
ALL = [*QUICK, *(pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES if stage not in QUICK)]


class Started:
    """A stage in a Python, session and folder for temporary files of its own."""

    def __init__(self, project: Project, stage: str, before: str = "exec") -> None:
        """`before`: words of a shell before the command."""
        self.temporary = project.root / "temporary"
        self.temporary.mkdir(exist_ok=True)
        command = shlex.join([sys.executable, "-m", "stages.cli", stage, *STAGES[stage]])
        environment = {
            **os.environ,
            **HOSTILE,
            "PATH": project.programs,
            "TMPDIR": str(self.temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(self.temporary),
        }
        self.process = subprocess.Popen(
            f"{before} {command}",
            shell=True,
            cwd=project.root,
            env=environment,
            text=True,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def end(self) -> tuple[int, list[str]]:
        """Wait; return the exit code and the lines on stderr but those that tell how far it is."""
        stderr = self.process.communicate(timeout=300)[1]
        return self.process.returncode, stderr.splitlines()


def leftovers(project: Project, waiting_seconds: float = 0.0) -> list[Path]:
    """Return what no stage has among its outputs; a watcher may take a moment to remove a folder."""
    deadline = time.monotonic() + waiting_seconds
    while True:
        left = [*(project.root / ROOT).rglob(".*"), *(project.root / "temporary").rglob("*")]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def digests(project: Project) -> dict[str, bytes]:
    """Return the content of all artifacts that do not tell the time."""
    files = [path for path in (project.root / ROOT).rglob("*") if path.is_file()]
    timeless = (".bin", ".npz", ".model", ".safetensors", ".fwy", "manifest.json", "train_gpt.py")
    return {str(path.relative_to(project.root)): path.read_bytes() for path in files if path.name.endswith(timeless)}


@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize("blocks", [0, 1], ids=["nothing", "1 KiB"])
def test_a_full_disk_is_one_line_that_names_the_file(project: Project, stage: str, blocks: int) -> None:
    before = digests(project)
    code, said = Started(project, stage, f"ulimit -f {blocks}; exec").end()
    assert code == 1
    assert "Traceback" not in "\n".join(said)
    assert [line for line in said if line.startswith("fairway: error: ")] == said[-1:]
    assert "File too large" in said[-1]
    assert "artifacts/" in said[-1]
    assert not leftovers(project)
    if stage != "prepare":
        assert digests(project) == before


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="sees who waits for a signal in /proc: Linux")


def _wait_until_signals_are_obeyed(process: subprocess.Popen) -> None:
    """Wait for the first line of ours: what Python does before it is not ours."""
    while process.poll() is None:
        caught = Path(f"/proc/{process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


@linux
@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_moment_is_an_exit_code_and_no_traceback(
    project: Project, stage: str, number: int, expected: int
) -> None:
    """The first comes while modules are loaded. One after the work, while Python ends, has its own effect."""
    moments = random.Random(number)
    for seconds in (0.0, *(moments.uniform(0, 2) for _ in range(3))):
        run = Started(project, stage)
        _wait_until_signals_are_obeyed(run.process)
        time.sleep(seconds)
        run.process.send_signal(number)
        code, said = run.end()
        assert code in ((expected, 0, -number) if seconds else (expected,)), said
        assert "Traceback" not in "\n".join(said)
        assert not leftovers(project, waiting_seconds=5)


def test_kills_leave_nothing_and_change_nothing(project: Project) -> None:
    """Two leftovers are certain: one of a stage that runs again, one of a stage that does not."""
    expected, stages = digests(project), ["calibrate", "train", "quantize"]
    for name in ("train/.checkpoint.safetensors", "evaluate/.ledger-gone.npz"):
        (project.root / ROOT / f"seeds/1/{name}.0badcafe.partial").write_bytes(b"half")
        (project.root / ROOT / f"seeds/1/{name}.lock").write_bytes(b"")
    for stage, moment in zip(stages, (2.5, 3.0, 1.0), strict=True):
        _kill(project, stage, moment)
    for stage in ("train", "calibrate", "quantize"):
        project.run("fairway", stage, *STAGES[stage])
    assert digests(project) == expected
    assert not leftovers(project, waiting_seconds=5)


@pytest.mark.slow
def test_fifty_kills_over_all_stages_end_in_the_same_bytes(finished: Project, project: Project) -> None:
    """Every kill finds what the stage reads complete, and nothing of what it writes, as DVC leaves it."""
    expected, moments = digests(project), random.Random(50)
    shutil.rmtree(project.root / ".dvc/cache/runs")
    for number in range(50):
        _kill(project, list(STAGES)[number % len(STAGES)], moments.uniform(0, 6))
        shutil.copytree(finished.root / ROOT, project.root / ROOT, symlinks=True, dirs_exist_ok=True)
    for stage in STAGES:
        _remove_outputs(project, stage)
    project.repro()
    assert digests(project) == expected
    assert not leftovers(project, waiting_seconds=5)


def _kill(project: Project, stage: str, seconds: float) -> None:
    """Start a stage without outputs and kill -9 its group after so many seconds."""
    _remove_outputs(project, stage)
    run = Started(project, stage)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.process.communicate(timeout=seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    run.process.communicate()


def _remove_outputs(project: Project, stage: str) -> None:
    for path in outputs_of(stage, seed=1, item="ttt"):
        if (project.root / path).is_dir():
            shutil.rmtree(project.root / path)
        else:
            (project.root / path).unlink(missing_ok=True)
