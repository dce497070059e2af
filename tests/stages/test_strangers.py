"""Whose program runs how: a stranger's in the sandbox or not at all, one's own without where there is none."""

import json
import os
from pathlib import Path

import pytest

from pipeline.base.artifacts import path_of
from pipeline.launching.sandbox import require_sandbox
from stages.shell.strangers import is_own, runs_in_sandbox
from tests.stages.conftest import Project

REPO = Path(__file__).resolve().parent.parent.parent
OWN = [REPO / path_of("package"), REPO / path_of("submission")]


def test_own_is_what_this_checkout_makes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(REPO)
    assert all(map(is_own, [*OWN, path_of("package"), OWN[0] / ".." / "package"]))
    assert not any(map(is_own, [tmp_path, REPO, OWN[0].parent, OWN[0] / "copy"]))
    (tmp_path / "link").symlink_to(OWN[0])
    assert is_own(tmp_path / "link")


def test_a_folder_of_the_same_name_elsewhere_is_not_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_own(path_of("package"))


def test_where_there_is_no_sandbox_only_own_programs_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert not runs_in_sandbox(OWN[0], False, said.append)
    assert "runs without a sandbox (sandbox: got 'no bwrap'" in said.pop()
    with pytest.raises(ValueError, match="apt-get install bubblewrap"):
        runs_in_sandbox(tmp_path, False, said.append)
    assert not said
    assert not runs_in_sandbox(tmp_path, True, said.append)
    assert "--unsafe" in said.pop()


@pytest.fixture
def usable() -> None:
    """Skip what needs a sandbox where there is none."""
    try:
        require_sandbox()
    except ValueError as error:
        pytest.skip(f"needs a bubblewrap that starts: {error}")


def test_where_there_is_one_all_run_in_it_unless_told_otherwise(usable, tmp_path: Path) -> None:
    said: list[str] = []
    for folder in (*OWN, tmp_path):
        assert runs_in_sandbox(folder, False, said.append)
        assert not runs_in_sandbox(folder, True, said.append)
    assert ["--unsafe" in line for line in said] == 3 * [False, True]


def test_the_audit_refuses_a_stranger_without_a_sandbox_in_one_line(finished: Project, tmp_path: Path) -> None:
    few = os.pathsep.join(finished.programs.split(os.pathsep)[:2])  # this environment's: no bubblewrap
    output = str(tmp_path / "audit")
    done = Project(finished.root, few).run("fairway", "audit", str(tmp_path), "--output", output, check=False)
    assert done.returncode == 1
    assert "got 'no bwrap'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not Path(output, "audit.json").exists()


@pytest.mark.slow
def test_an_audit_in_the_sandbox_says_what_one_without_says(usable, finished: Project, tmp_path: Path) -> None:
    reports = []
    for options in ([], ["--unsafe"]):
        output = tmp_path / f"audit{len(options)}"
        finished.run("fairway", "audit", "artifacts/package", "--device", "cpu", "--output", str(output), *options)
        reports.append(json.loads((output / "audit.json").read_text()))
        del reports[-1]["provenance"]
    assert reports[0] == reports[1]
    assert reports[0]["verdict"] == "pass"
