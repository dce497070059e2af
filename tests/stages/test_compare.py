"""`fairway compare`: folders, revisions and experiments give their own files; what cannot be had is one line."""

import json
import shutil

import pytest

from tests.stages.conftest import Project


@pytest.fixture
def committed(project: Project) -> Project:
    """Return the finished project after its first commit."""
    project.run("git", "config", "user.email", "somebody@example.org")
    project.run("git", "config", "user.name", "Somebody")
    commit(project, ".")
    return project


def commit(project: Project, path: str) -> None:
    project.run("git", "add", path)
    project.run("git", "commit", "-qm", "a commit")


def compared(project: Project, *runs: str) -> dict:
    """Return what `fairway compare` says of runs under item `blocks`."""
    return json.loads(project.run("fairway", "compare", *runs, "--item", "blocks", "--json").stdout)


def refusal(project: Project, *runs: str) -> str:
    """Return the one line with which a comparison ends."""
    done = project.run("fairway", "compare", *runs, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    return done.stderr


def test_an_experiment_is_compared_with_its_revision_and_the_workspace(committed: Project) -> None:
    committed.run("dvc", "exp", "run", "-n", "finer", "-S", "budget.limit_bytes=435000", "evaluate@1-blocks")
    comparison = compared(committed, "HEAD", "finer", ".", "workspace")
    base, finer, *workspaces = comparison["arms"]
    assert (base["packaged_bytes"] is None, finer["packaged_bytes"] is None) == (False, True)
    assert base["mean"]["artifact_bytes"] < 30000 < finer["mean"]["artifact_bytes"] < 35000
    assert [arm["mean"] for arm in workspaces] == [finer["mean"]] * 2
    changes = [{"key": "budget.limit_bytes", "before": "430000", "after": "435000"}]
    assert comparison["params"] == {"B": changes, "C": changes, "D": changes}
    before, after, *_ = (arm["bpb"] for arm in comparison["arms"])
    rows = comparison["differences"]
    assert [row["difference_mbpb"] for row in rows] == pytest.approx([1000 * (after - before)] * 3)
    assert all(row["low_mbpb"] < row["difference_mbpb"] < row["high_mbpb"] for row in rows)
    table = committed.run("fairway", "compare", "finer", ".").stdout
    assert "B  ., seed 1" in table
    assert "B  +0.00  [+0.00, +0.00]  no clear difference" in table


def test_what_is_no_experiment_or_not_one_yet_is_one_line(committed: Project) -> None:
    committed.run("dvc", "exp", "run", "--queue", "-n", "waiting", "-S", "budget.limit_bytes=435000")
    task = committed.run("dvc", "queue", "status").stdout.splitlines()[1].split()[0]
    for name in ("waiting", task):  # the commit that holds a task has the outputs of the one before it
        assert "(queued), expected an experiment; `dvc queue start` runs it" in refusal(committed, ".", name)
    assert "unknown Git revision 'nothing'" in refusal(committed, "nothing", ".")
    assert committed.run("dvc", "exp", "list", "-A").returncode == 0
    done = committed.run("fairway", "compare", ".", check=False)
    assert (done.returncode, "give two runs or more" in done.stderr) == (2, True)


def test_files_that_lie_elsewhere_come_by_what_the_messages_say(committed: Project) -> None:
    committed.run("dvc", "exp", "save", "-n", "saved")
    clone = committed.at(committed.root.parent / "clone")
    committed.run("git", "clone", "-q", ".", str(clone.root))
    missing = "lies neither in DVC's cache nor on its remote; run `dvc push -A`, for an experiment `dvc exp push`"
    assert missing in refusal(clone, "HEAD", "HEAD")

    committed.run("dvc", "remote", "add", "-d", "store", str(committed.root.parent / "store"))
    commit(committed, ".dvc/config")
    committed.run("dvc", "push", "-A")
    clone.run("git", "pull", "-q")
    (row,) = compared(clone, ".", "HEAD")["differences"]
    assert row["unpaired"] == "A has no scores of blocks: `dvc repro` or `dvc pull` in its checkout brings them"
    clone.run("dvc", "pull")
    committed.run("git", "remote", "add", "clone", str(clone.root))
    committed.run("dvc", "exp", "push", "clone", "saved")
    shutil.rmtree(clone.root / ".dvc" / "cache")
    rows = compared(clone, ".", "HEAD", "HEAD~1", "saved")["differences"]
    assert [row["difference_mbpb"] for row in rows] == [0.0] * 3


def test_a_folder_that_the_cache_has_lost_is_one_line(committed: Project) -> None:
    for listing in (committed.root / ".dvc" / "cache").rglob("*.dir"):
        listing.unlink()
    assert "HEAD: artifacts/submission/submission.json lies neither in DVC's cache" in refusal(committed, ".", "HEAD")
