"""The pages for every day, typed in order into a fresh checkout: what they show runs and leaves what they say.

What is other than on the pages: `make demo` is the course of own-text.md, whose recipe takes seconds; the environment
is that of the tests; recipes for GPUs are checked and dried, and the tiny parameters come back after them; a checkpoint
to import is made by tests/stages/test_import.py alone.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stages.conftest import REPO, Project
from tests.test_docs import NOT_RUN, commands_of, shell_blocks


@pytest.fixture
def checkout(tmp_path: Path, programs: str) -> Project:
    """Return a fresh checkout, committed, in which `fairway` runs its code."""
    root, scripts = tmp_path / "checkout", tmp_path / "scripts"
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / name, root / name)
    for path, text in (
        (root / ".venv/bin/activate", ""),
        (scripts / "fairway", '#!/bin/sh\nexec python -m stages.cli "$@"\n'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    project = Project(root, f"{scripts}:{programs}")
    project.run("git", "init", "-q")
    for key, value in (("email", "somebody@example.org"), ("name", "Somebody")):
        project.run("git", "config", f"user.{key}", value)
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "a checkout")
    return project


def is_run(block: str) -> bool:
    """Return whether a block is one for this course."""
    return not any(re.search(rf"^({row})", block, re.MULTILINE) for row in [*NOT_RUN, "fairway import"])


def follow(project: Project, text: str, **placeholders: str) -> str:
    """Type the blocks of a page, and return what they print; a recipe that is used is gone after its block."""
    printed = []
    for block in filter(is_run, shell_blocks(text)):
        kept = (project.root / "params.yaml").read_bytes()
        for name, value in placeholders.items():
            block = re.sub(rf"\b{name}\b", value, block)
        printed.append(project.run("bash", "-euo", "pipefail", "-c", block).stdout)
        if "recipe use" in block and "dvc repro" not in block:
            (project.root / "params.yaml").write_bytes(kept)
    return "\n".join(printed)


def section(text: str, heading: str) -> str:
    """Return what stands below a heading."""
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.slow
def test_the_pages_for_every_day(checkout: Project):
    docs = {path.stem: path.read_text() for path in (REPO / "docs").glob("*.md")}
    root = checkout.root
    printed = follow(checkout, docs["own-text"])
    assert "sound" in printed  # fairway check
    assert json.loads((root / "artifacts/audit/audit.json").read_text())["verdict"] == "pass"
    assert "My text" in (root / "artifacts/submission/README.md").read_text()

    printed = follow(checkout, docs["quickstart"])
    assert "The city of" in printed
    assert "a step needs 33.5 GB of its memory" in printed
    assert "limit_bytes" in printed  # why quantize is stale
    assert "<html" in (root / "page.html").read_text()
    assert not checkout.changed() & {"train@444", "calibrate@444", "quantize@444", "metrics@444"}
    assert "package" in checkout.changed()

    (root / "notes.txt").write_text("The city of Berlin lies on a river.")
    (root / "corpus.jsonl").write_text('{"text": "One document."}\n{"text": "And another one."}\n')
    (root / "book.txt").write_text("The first chapter.\n\n\nThe second chapter.")
    assert "The second" not in follow(checkout, docs["using"])

    follow(checkout, docs["faq"])
    assert not checkout.changed()
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "a run")
    printed = follow(checkout, section((REPO / "README.md").read_text(), "Everyday use"), FILE="held-out.txt")
    assert "Running stage 'metrics@444'" in printed


def test_sections_are_found():
    text = "a\n## One\n\nb\n\n## Two\nc\n"
    assert section(text, "One").strip() == "b"
    assert [command.text for command in commands_of(REPO / "docs/faq.md")][:1] == ["fairway status"]
