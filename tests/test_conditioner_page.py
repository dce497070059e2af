"""docs/conditioner.md: its blocks, put where it says, make a conditioner that trains, quantizes and ships."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPO
from tests.stages.conftest import make_project

PAGE = (REPO / "docs/conditioner.md").read_text()


class Block(NamedTuple):
    """A code block of the page: a whole file, or lines that go after the only one that begins with `after`."""

    path: str
    after: str | None
    code: str

    def put(self, root: Path) -> None:
        """Write the block into a checkout."""
        path = root / self.path
        if self.after is None:
            assert not path.exists()
            path.write_text(self.code)
            return
        lines = path.read_text().splitlines(keepends=True)
        [place] = [i for i, line in enumerate(lines) if line.strip().startswith(self.after)]
        path.write_text("".join([*lines[: place + 1], self.code, *lines[place + 1 :]]))


def blocks() -> list[Block]:
    """Return the blocks in the page's order, one per file that each goes to."""
    found = []
    for kind, names, after, code in re.findall(
        r"^(New file|In) (`[^\n]*?`)(?:, after the line `([^\n]*)`)?:\n\n```\w+\n(.*?)^```\n", PAGE, re.M | re.S
    ):
        for pattern in re.findall("`([^`]+)`", names):
            paths = [pattern] if kind == "New file" else [str(path.relative_to(REPO)) for path in REPO.glob(pattern)]
            assert paths, pattern
            found += [Block(path, after or None, code) for path in paths]
    return found


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout to which the page was applied."""
    root = tmp_path_factory.mktemp("changed")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (REPO / name).is_file() and not name.startswith("benchmarks/results/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, root / name)
    for block in blocks():
        block.put(root)
    return root


def run(root: Path, *arguments: str) -> str:
    """Run Python in a checkout and return what it printed."""
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_of_the_page_has_a_place_and_the_example_is_short():
    assert len(re.findall("^```[a-z]+$", PAGE, re.M)) == len({block.code for block in blocks()})
    library = {block.code for block in blocks() if block.path.startswith("pipeline/")}
    code = [line for text in library for line in text.split('"""\n\n', 1)[-1].splitlines() if line.strip()]
    assert len(code) < 40


def test_the_network_of_the_page_equals_the_oracle_of_the_page(changed: Path):
    tests = ["tests/model/test_network.py", "tests/model/test_scored_positions.py", "tests/model/test_stream_cache.py"]
    chosen = ["-k", "token and gates", "-m", "not slow and not gpu"]
    said = run(changed, "-m", "pytest", "-n0", "-p", "no:cacheprovider", *chosen, *tests)
    assert int(re.findall(r"(\d+) passed", said)[0]) >= 10


@pytest.mark.slow
def test_a_network_of_the_page_becomes_a_record(programs: str, tmp_path: Path):
    project = make_project(tmp_path / "project", programs)
    for block in blocks():
        if block.after is None or (project.root / block.path).exists():
            block.put(project.root)
    project.edit(model={"conditioners": {"token_gates": True}})
    assert "audit" in project.repro()
    record = project.root / "artifacts/submission"
    assert "class TokenGates(" in (record / "train_gpt.py").read_text()
    report = json.loads((project.root / "artifacts/seeds/1/quantize/report.json").read_text())
    gates = [layer for layer in report["layers"] if layer["name"].startswith("conditioners.token_gates.open.")]
    assert len(gates) == 2
    scored = project.run("fairway", "score", "corpus/documents.jsonl", "--model", str(record), "--json")
    assert json.loads(scored.stdout)


def test_what_the_page_says_of_the_demo(changed: Path):
    code = (
        "import torch, dataclasses as d\n"
        "from pipeline.base.config import load_params\n"
        "from pipeline.model.network import LoopedUNet\n"
        "from pipeline.reports.visit_picture import visit_picture\n"
        "off = load_params('recipes/demo.yaml', ['model']).model\n"
        "on = d.replace(off, conditioners=d.replace(off.conditioners, token_gates=True))\n"
        "with torch.device('meta'): on_off = [sum(p.numel() for p in LoopedUNet(c).parameters()) for c in (on, off)]\n"
        "print('{:,} parameters of {:,},'.format(*on_off), visit_picture(on))\n"
    )
    said, _, picture = run(changed, "-c", code).partition(", ")
    assert f"{said}," in PAGE
    assert "\ntoken_gates\n" in picture


@pytest.mark.slow
def test_the_files_of_the_page_are_as_the_house_has_them(changed: Path):
    run(changed, "-m", "ruff", "check", "pipeline", "tests")
    run(changed, "-m", "ruff", "format", "--check", "pipeline", "tests")
    rules = ["-k", "downwards or docstrings or modules or annotation or ascii", "tests/test_house.py"]
    run(changed, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *rules)
