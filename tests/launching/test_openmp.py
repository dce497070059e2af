"""Whatever loads torch on our behalf has said before how threads wait, and a user's own choice stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.waiting import process_seconds, summary
from pipeline.base.config import SECTIONS, load_params
from pipeline.launching.openmp import POLICY, WAITING
from pipeline.record.build import recipe_of, record_source

TELLING = f"""
import os, sys
def tell(event, arguments):
    if event == "import" and arguments[0] == "torch":
        print(os.environ.get("{POLICY}"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)
sys.addaudithook(tell)
"""
BRIEFLY = f"{WAITING[POLICY]} {WAITING['GOMP_SPINCOUNT']}"
COMMANDS = {
    "stage": "from stages.cli import main; main(['train', '--seed', '444'])",
    "benchmark": "import benchmarks.train_throughput",
}


def said_before_torch(code: str, repo: Path, **variables: str) -> str:
    """Return the policy in force when `code` first imports torch."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", TELLING + code],
        cwd=repo,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("code", COMMANDS.values(), ids=COMMANDS)
def test_processes_of_ours_wait_briefly(code: str, repo: Path):
    assert said_before_torch(code, repo) == BRIEFLY
    assert said_before_torch(code, repo, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE None"


def test_a_record_waits_briefly(repo: Path, tmp_path: Path):
    program = tmp_path / "train_gpt.py"
    program.write_text(record_source(recipe_of(load_params(repo / "params.yaml", SECTIONS)), repo))
    assert said_before_torch(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", repo) == BRIEFLY


def test_these_tests_wait_briefly():
    assert {name: os.environ.get(name) for name in WAITING} == WAITING


def test_the_benchmark_reports_both_ratios():
    seconds = {
        "idle_default": [1.0, 1.0],
        "idle_ours": [1.0, 1.5],
        "idle_passive": [2.0, 2.0],
        "busy_default": [8.0, 6.0],
        "busy_ours": [2.0, 2.0],
        "busy_passive": [1.0, 1.0],
    }
    shown = summary(seconds)
    assert (shown["idle_ours_over_default"], shown["busy_default_over_ours"]) == (1.25, 3.5)
    assert (shown["idle_passive_over_default"], shown["busy_ours_step_seconds"]) == (2.0, 2.0)
    assert process_seconds("ours", steps=1) > 0
