"""Queued experiments and shared runs: data files are found, nothing runs twice, and the page on sweeps works."""

import dataclasses
import re
from pathlib import Path

import pytest

from pipeline.base.config import load_params
from stages.shell.experiment import link_data, queued_from
from tests.conftest import REPO
from tests.stages.conftest import Project

CONFIG = dataclasses.replace(
    load_params(REPO / "params.yaml", ["data"]).data,
    source="text",
    files=("corpus/*.jsonl", "/elsewhere/*.txt"),
    val_files=("held-out",),
    val_frac=None,
    tokenizer_model="own.model",
)


@pytest.fixture
def queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an experiment's checkout, in which git has put one of two files of text, and stand in it."""
    home, here = tmp_path / "home", tmp_path / "home/.dvc/tmp/exps/standalone/tmp1"
    for name in ("corpus/a.jsonl", "corpus/b.jsonl", "corpus/note", "held-out/page.txt", "own.model", ".cache/leads"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"home's {name}")
    (here / "corpus").mkdir(parents=True)
    (here / "corpus/a.jsonl").write_text("the experiment's")
    monkeypatch.chdir(here)
    return here


def test_an_experiment_has_what_git_does_not_track(queued: Path):
    link_data(CONFIG)
    link_data(CONFIG)  # every stage does
    assert (queued / "corpus/a.jsonl").read_text() == "the experiment's"
    for name in ("corpus/b.jsonl", "held-out/page.txt", "own.model", ".cache/leads"):
        assert (queued / name).read_text() == f"home's {name}"
    assert not (queued / "corpus/note").exists()


def test_a_checkout_of_its_own_links_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    link_data(CONFIG)
    assert list(tmp_path.iterdir()) == []
    assert queued_from(tmp_path) is None
    assert queued_from(tmp_path / ".dvc/tmp/exps/a") == tmp_path


def blocks(page: Path) -> list[list[str]]:
    """Return the lines of the fenced blocks of a page."""
    return [block.splitlines() for block in re.findall(r"^```\n(.*?)^```$", page.read_text(), re.M | re.S)]


def test_the_table_of_a_sweep_keeps_the_scores_of_several_seeds():
    (line,) = (line for block in blocks(REPO / "docs/sweeps.md") for line in block if line.startswith("dvc exp show"))
    dropped = re.compile(line.split("'")[1])  # DVC matches from the start of a column's name
    columns = [
        "artifacts/metrics/444.json:gap_mbpb",
        "headline_bpb",
        "artifacts/seeds/444",
        "artifacts/data/manifest.json",
    ]
    assert [bool(dropped.match(column)) for column in columns] == [False, False, True, True]


@pytest.mark.slow
def test_the_page_on_sweeps_works(project: Project, monkeypatch: pytest.MonkeyPatch):
    """Its commands in their order; arms are those of tiny's quantizer, prepare runs in one of them."""
    for key, value in {"name": "someone", "email": "someone@example.org"}.items():
        project.run("git", "config", f"user.{key}", value)
    sweep, winner, tidy, share = blocks(REPO / "docs/sweeps.md")
    (project.root / ".gitignore").open("a").write("/corpus/\n")  # so that git tracks no text
    for line in sweep:
        printed = shell(project, line)
        if line.startswith("dvc exp show"):
            assert "gap_mbpb" in printed
            assert "total_bytes" not in printed
    before = (project.root / "artifacts/metrics/1.json").read_text()
    shell(project, "dvc exp run prepare --queue -n split -S data.val_frac=0.2")
    shell(project, "dvc exp run --run-all")
    assert "split" in project.run("dvc", "exp", "list", "--name-only").stdout
    assert "quantize.damp_frac" in shell(project, tidy[0])
    for line in (*winner, *tidy[1:]):
        shell(project, line)
    assert (project.root / "artifacts/metrics/1.json").read_text() != before
    assert project.repro() == []
    shell(project, " && ".join(share[:-1]))
    clone = project.at(project.root.parent / "clone")
    assert clone.repro() == []


def shell(project: Project, line: str) -> str:
    """Run a line of the page as a shell would, `fairway` with the project's code; return what it prints."""
    line = re.sub(r"\bfairway ", "python -m stages.cli ", line)
    return project.run("bash", "-euc", line).stdout
