"""A tiny copy of the project in which the whole pipeline runs in well under a minute."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import made_once

REPO = Path(__file__).resolve().parent.parent.parent

TINY = {
    "seeds": [1],
    "data": {"source": "text", "files": ["corpus/*.jsonl"], "val_frac": 0.1, "vocab_size": 320, "shard_tokens": 20000},
    "model": {
        "vocab_size": 320,
        "context_tokens": 32,
        "model_dim": 32,
        "embedding_dim": 32,
        "schedule": {"unique_blocks": 2, "num_loops": 2},
        "attention": {"num_heads": 2, "num_kv_heads": 1, "exclusive_blocks": [2]},
        "rope": {"dims": 8, "loop_scales": [2.0, 1.0]},
        "conditioners": {"flow_dim": 8},
        "bigram": {"buckets": 64, "dim": 16},
        "value_embedding": {"dim": 16},
    },
    "train": {"max_steps": 6, "batch_tokens": 512, "warmup_steps": 2, "log_every_steps": 2, "loop_stages": None},
    "launch": {"device": "cpu"},
    "calibrate": {
        "num_sequences": 32,
        "batch_sequences": 16,
        "sweeps": 1,
        "sensitivity_sequences": 8,
        "mixture": {"tokens": 2000},
    },
    "budget": {"limit_bytes": 430000, "code_reserve_bytes": 400000, "tolerance_frac": 0.0008},
    "package": {"readable": True},
    "evaluate": {
        "items": ["blocks", "sliding", "ttt"],
        "limit_seconds": None,
        "protocols": {
            "float": {"kind": "blocks", "context_tokens": None, "mixture": None},
            "blocks": {"kind": "blocks", "context_tokens": None, "mixture": None},
            "sliding": {"kind": "sliding", "context_tokens": 32, "stride_tokens": 16, "mixture": None},
            "ttt": {
                "kind": "ttt",
                "context_tokens": 32,
                "stride_tokens": 16,
                "chunk_tokens": 512,
                "epochs": 1,
                "learning_rate": 0.01,
                "momentum": 0.9,
                "grad_clip": 1.0,
                "batch_sequences": 8,
                "freeze_blocks": 1,
                "lane_tokens": None,
                "mixture": "document",
            },
        },
    },
}


def write_corpus(path: Path, documents: int) -> None:
    """Write a deterministic .jsonl of short documents over a small vocabulary of words."""
    generator = random.Random(7)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 7))) for _ in range(200)]
    lines = [" ".join(generator.choices(words, k=60)) for _ in range(documents)]
    path.parent.mkdir(parents=True)
    path.write_text("".join(f'{{"text": "{line}."}}\n' for line in lines))


HOSTILE = {"LC_ALL": "C", "HOME": "/proc/nowhere"}
"""What may surround a checkout besides a path with spaces and letters that are not ASCII: no UTF-8, and a home in which
nothing can be written."""


def unfolded(printed: str) -> str:
    """Return what was printed with every line that was folded to a terminal's width in one piece."""
    return re.sub(r"\n {2,}", " ", printed)


class Project:
    """A checkout of its own: run `fairway` and `dvc` in it, edit its parameters and code."""

    def __init__(self, root: Path, programs: str) -> None:
        """`programs`: folders to look for programs in, as in PATH; the first one's `python` runs the stages."""
        self.root, self.programs = root, programs
        self.yaml = YAML()

    def at(self, root: Path) -> "Project":
        """Return the project of another folder."""
        return Project(root, self.programs)

    def run(self, *command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command; `fairway` runs this project's own code."""
        if command[0] == "fairway":
            command = ("python", "-m", "stages.cli", *command[1:])
        environment = {**os.environ, "PATH": self.programs, **HOSTILE}
        command = (shutil.which(command[0], path=self.programs) or command[0], *command[1:])
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the names of the stages that ran."""
        printed = self.run("dvc", "repro", *arguments).stdout
        return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]

    def would_run(self, *targets: str) -> list[str]:
        """Return the names of the stages that `dvc repro` would run if all of them changed their outputs."""
        return self.repro("--dry", *targets)

    def changed(self) -> set[str]:
        """Return the names of the stages that `dvc status` finds changed."""
        printed = self.run("dvc", "status").stdout
        return {line[:-1] for line in printed.splitlines() if line.endswith(":") and not line.startswith(("\t", " "))}

    def edit(self, **sections: object) -> None:
        """Merge `sections` into params.yaml."""
        path = self.root / "params.yaml"
        document = self.yaml.load(path.read_text())
        _merge(document, sections)
        with open(path, "w") as file:
            self.yaml.dump(document, file)


def _merge(document: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict) and key != "protocols":
            _merge(document[key], value)
        else:
            document[key] = value


def make_project(root: Path, programs: str) -> Project:
    """Copy the checkout to `root`, with a tiny corpus and tiny parameters, as a git repository of its own."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.split():
        if name.startswith((".dvc/", "pipeline/", "stages/")) or name in (
            "dvc.yaml",
            "fairway.py",
            "params.yaml",
            ".dvcignore",
            ".gitignore",
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, root / name)
    write_corpus(root / "corpus" / "documents.jsonl", 300)
    project = Project(root, programs)
    project.edit(**TINY)
    project.run("git", "init", "-q")
    return project


@pytest.fixture(scope="session")
def finished(common: Path, programs: str) -> Project:
    """Return a tiny project after one `dvc repro`, shared by all workers; tests that change it must copy it first."""
    root = common / "ein fertiges Projekt f\u00fcr alle"
    made_once(root, lambda: make_project(root, programs).repro())
    return Project(root, programs)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, free to be changed."""
    shutil.copytree(finished.root, tmp_path / "copy", symlinks=True)
    return finished.at(tmp_path / "copy")
