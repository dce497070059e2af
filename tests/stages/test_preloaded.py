"""A fork of the preloaded Python does what a fresh one does: code, variables, arguments, streams and exit status."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
print("torch" in sys.modules, file=sys.stderr)
print(__name__, sys.argv[1:], os.getcwd(), sys.path[0], os.environ.get("TOLD"), sys.stdin.read())
if sys.argv[1:] == ["raise"]:
    raise KeyError("gone")
if sys.argv[1:] == ["kill"]:
    os.kill(os.getpid(), 9)
if sys.argv[1:]:
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose `stages.cli` is a program of its own."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "cli.py").write_text(CODE)
    return tmp_path


def run(python: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "stages.cli", *arguments],
        cwd=folder,
        env={**os.environ, "TOLD": "yes"},
        input="asked",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["0"], ["3"], ["raise"]])
def test_it_ends_like_a_fresh_python(programs: str, folder: Path, arguments: list[str]):
    preloaded = shutil.which("python", path=programs)
    assert preloaded is not None
    ours, fresh = (run(python, folder, *arguments) for python in (preloaded, sys.executable))
    assert (ours.returncode, ours.stdout) == (fresh.returncode, fresh.stdout)
    assert (ours.stderr.splitlines()[0], fresh.stderr.splitlines()[0]) == ("True", "False"), "torch is there already"
    if arguments == ["raise"]:
        assert ours.stderr.splitlines()[-1] == fresh.stderr.splitlines()[-1] == "KeyError: 'gone'"


def test_a_killed_stage_is_no_success(programs: str, folder: Path):
    assert run(str(shutil.which("python", path=programs)), folder, "kill").returncode == 128 + 9


def test_everything_else_is_the_real_python(programs: str, folder: Path):
    python = str(shutil.which("python", path=programs))
    shown = subprocess.run(
        [python, "-c", "import sys; print(sys.executable, 'torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == [sys.executable, "False"]
