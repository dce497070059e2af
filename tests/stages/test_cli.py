"""The command line from outside: help that loads nothing heavy, exit codes, one-line errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.cli import COMMANDS


def fairway(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh process."""
    command = [sys.executable, "-m", "stages.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command_in_order(repo: Path):
    shown = fairway("--help", cwd=repo).stdout
    positions = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_explains_and_loads_no_heavy_library(name: str, repo: Path):
    probe = (
        "import sys, stages.cli\n"
        f"try: stages.cli.main(['{name}', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'rich', 'sentencepiece', 'ruamel'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=repo, capture_output=True, text=True, check=True)
    assert "HEAVY []" in run.stdout
    assert {"audit": "audit.json", "verify": "writes nothing"}.get(name, "params.yaml") in run.stdout


def test_wrong_usage_exits_2(repo: Path):
    run = fairway("train", cwd=repo)
    assert run.returncode == 2
    assert "--seed" in run.stderr
    wrong = fairway("trian", cwd=repo)
    assert (wrong.returncode, wrong.stderr.splitlines()[-1]) == (
        2,
        "Error: No such command 'trian'. Did you mean 'train'?",
    )
    assert fairway("zzz", cwd=repo).stderr.endswith("Error: No such command 'zzz'.\n")


def test_a_misspelt_parameter_is_one_line_and_exit_1(repo: Path, tmp_path: Path):
    text = (repo / "params.yaml").read_text().replace("val_frac:", "val_fraction:")
    (tmp_path / "params.yaml").write_text(text)
    run = fairway("prepare", "--params", str(tmp_path / "params.yaml"), cwd=repo)
    assert run.returncode == 1
    assert run.stderr.strip() == ("fairway: error: data.val_fraction: unknown key in data; did you mean `val_frac`?")


def test_a_missing_checkpoint_names_the_remedy(repo: Path, tmp_path: Path):
    run = fairway("quantize", "--seed", "1", "--params", str(repo / "params.yaml"), cwd=tmp_path)
    assert run.returncode == 1
    missing = "artifacts/seeds/1/train/checkpoint.safetensors: no such file"
    assert run.stderr.strip().splitlines()[-1] == f"fairway: error: {missing}; run `dvc repro`"


ARGUMENTS = {
    **dict.fromkeys(("train", "calibrate", "quantize", "metrics"), ("--seed", "444")),
    "evaluate": ("--seed", "444", "--item", "float"),
    "compare": (".", "."),
    "score": ("text.txt",),
    "recipe": ("diff", "tiny"),
    "import": ("model.pt", "--config", "arguments.json", "--seed", "444"),
}
"""What a command needs to begin."""
FOLDERS = {"empty": None, "broken": "seeds: [1\nmodel: }\n", "before anything has run": "recipes/demo.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_command_that_has_nothing_to_work_on_says_so_in_one_line(folder: str, repo: Path, tmp_path: Path):
    content = FOLDERS[folder]
    if content is not None:
        (tmp_path / "params.yaml").write_text((repo / content).read_text() if content.endswith(".yaml") else content)
    for name in ("text.txt", "model.pt", "arguments.json"):
        (tmp_path / name).write_text("{}")
    begun = folder == "before anything has run"
    works = {"recipe", "check", "report", "compare", "status"} if begun else set()
    for name in COMMANDS.keys() - {"init", "code", *({"prepare"} if begun else ())}:
        done = fairway(name, *ARGUMENTS.get(name, ()), cwd=tmp_path)
        assert done.returncode == (0 if name in works else 1), f"{name}: {done}"
        if name not in works:
            [line] = done.stderr.splitlines()
            assert line.startswith("fairway: error: "), line
