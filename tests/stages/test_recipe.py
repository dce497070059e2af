"""`fairway recipe` from outside: what it prints, what it writes, what it refuses, and that it loads no torch."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def recipe(repo: Path, tmp_path: Path):
    """Return a function that runs `fairway recipe` on a copy of params.yaml and returns the finished process."""
    params = tmp_path / "params.yaml"
    params.write_bytes((repo / "params.yaml").read_bytes())

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        located = arguments if arguments[0] in ("list", "show") else (*arguments, "--params", str(params))
        command = [sys.executable, "-m", "stages.cli", "recipe", *located]
        done = subprocess.run(
            command, cwd=repo, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def test_list_names_every_recipe_with_its_description(recipe, repo: Path):
    printed = recipe("list").stdout.splitlines()
    assert max(map(len, printed)) <= 80
    lines = [line for line in printed if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (repo / "recipes").glob("*.yaml"))
    assert "29,415,508 parameters" in " ".join(" ".join(printed).split())


def test_show_prints_the_file(recipe, repo: Path):
    assert recipe("show", "tiny").stdout == (repo / "recipes/tiny.yaml").read_text()
    assert "pass 2   l0 l1 l2" in recipe("show", "--visits", "nightcrawler-7f3c").stdout


def test_diff_names_what_differs_and_nothing_else(recipe):
    lines = recipe("diff", "nightcrawler-7f3c").stdout.splitlines()
    assert "model.schedule.unique_blocks: 4 -> 7" in lines
    assert any(line.startswith("train.max_steps: ") and line.endswith(" -> null") for line in lines)
    assert not any("model.logit_softcap" in line for line in lines)
    assert "the same values" in recipe("diff", "demo").stdout


def test_an_unknown_name_is_one_line_with_the_nearest(recipe):
    error = recipe("show", "nightcrawler", code=1).stderr
    assert error.strip() == (
        "fairway: error: recipe: got 'nightcrawler', which does not exist; did you mean `nightcrawler-7f3c`?"
    )


def test_use_asks_or_is_told(recipe, repo: Path, tmp_path: Path):
    before = (tmp_path / "params.yaml").read_bytes()
    assert "--yes" in recipe("use", "tiny", code=1).stderr
    assert (tmp_path / "params.yaml").read_bytes() == before
    shown = recipe("use", "tiny", "--yes").stdout
    assert "model.model_dim: 128 -> 32" in shown
    assert (tmp_path / "params.yaml").read_bytes() == (repo / "recipes/tiny.yaml").read_bytes()


def test_list_show_and_diff_load_no_torch(repo: Path):
    probe = (
        "import sys, stages.cli\n"
        "for arguments in (['list'], ['show', 'tiny'], ['diff', 'tiny']):\n"
        "    try: stages.cli.main(['recipe', *arguments])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print('TORCH', 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.endswith("TORCH False\n")
