"""What ships computes what the library computes, for every recipe, and says what is wrong with its inputs."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.config import SECTIONS, load_params
from pipeline.recipes.recipes import recipe_names
from pipeline.record.build import recipe_of, record_source
from pipeline.record.ship import shipped_program, without_unused
from tests.shrunk_recipes import shrunk_recipe, write_inputs

REPO = Path(__file__).resolve().parents[2]
MOST_BYTES = 31_350
ITEMS = load_params(REPO / "recipes/tiny.yaml", ["evaluate"]).evaluate.items
"""One of every kind."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def run(folder: Path, inputs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "train_gpt.py", "--data", str(inputs / "data"), *arguments]
    command += ["--tokenizer", str(inputs / "tokenizer.model")]
    environment = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def run_record(program: bytes, inputs: Path, folder: Path) -> tuple[list[str], bytes, list[bytes]]:
    """Return what a program prints of a run from scratch, but for sizes and times, its artifact and its ledgers."""
    folder.mkdir()
    (folder / "train_gpt.py").write_bytes(program)
    done = run(folder, inputs)
    assert done.returncode == 0, done.stderr
    again = run(folder, inputs, "--evaluate-only", "model.fwy", "--ledger", "ledgers")
    assert again.returncode == 0, again.stderr
    own = ("Code size", "Total submission", "total_eval_time")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(own) and "train_gpt.py" not in line]
    said = [re.sub(r"(train_time|step_avg):[0-9.]+ms", "", line) for line in lines]
    ledgers = [path.read_bytes() for path in sorted((folder / "ledgers").iterdir())]
    return said, (folder / "model.fwy").read_bytes(), ledgers


def check_recipe(name: str, inputs: Path, folder: Path, item: str | None = None) -> None:
    """Train, quantize and score with the library's text and with what ships: same log, artifact, ledger."""
    recipe = shrunk_recipe(REPO / "recipes" / f"{name}.yaml", item)
    source = record_source(recipe, REPO)
    whole = run_record(source.encode(), inputs, folder / "whole")
    assert run_record(shipped_program(source, readable=False), inputs, folder / "small") == whole
    assert sum(line.startswith("final_") for line in whole[0]) == len(whole[2]) == 1


def test_the_shipped_program_trains_quantizes_and_scores_as_the_library(inputs, tmp_path):
    check_recipe("tiny", inputs, tmp_path)
    artifact = tmp_path / "small" / "model.fwy"
    content = artifact.read_bytes()
    damages = {
        "magic": b"GWYA" + content[4:],
        "version": content[:4] + bytes([content[4] + 1]) + content[5:],
        "sha256": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "truncated": content[:20],
        "end of its sections": content + b"0",
    }
    for word, damaged in damages.items():
        artifact.write_bytes(damaged)
        done = run(tmp_path / "small", inputs, "--evaluate-only", "model.fwy")
        assert done.returncode == 1
        assert re.fullmatch(rf"train_gpt.py: error: model.fwy: .*{word}.*\n", done.stderr), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names(REPO / "recipes") if name != "tiny"])
def test_every_recipe_ships_a_program_that_computes_what_the_library_computes(name, inputs, tmp_path):
    check_recipe(name, inputs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("item", ITEMS)
def test_every_protocol_ships_as_a_headline(item, inputs, tmp_path):
    check_recipe("tiny", inputs, tmp_path, item)


@pytest.mark.parametrize("name", ["demo", "nightcrawler-7f3c"])
def test_a_program_is_small_and_holds_only_what_its_recipe_names(name: str):
    source = record_source(recipe_of(load_params(REPO / "recipes" / f"{name}.yaml", SECTIONS)), REPO)
    small = without_unused(source)
    for part in ("Helix", "Tap", "Anchor", "ChokeMLP", "DocumentLora", "ChunkSGD", "WeightAverage"):
        assert f"class {part}(" in source or f"class {part}:" in source
        assert part not in small, part
    assert "class Flow(" in small
    assert "base_V[[" not in small
    assert ("def fit_mixture" in small) == (name == "demo")
    assert ("class ValueEmbedding" in small) == (name == "demo")
    assert len(shipped_program(source, readable=False)) <= MOST_BYTES


def test_a_record_without_capitals_takes_the_bytes_of_markers_out():
    params = load_params(REPO / "recipes/tiny.yaml", SECTIONS)
    params.data = replace(params.data, case_ops="fused")
    assert "table.base_V[[*recipe.silent_tokens]] = 0" in without_unused(record_source(recipe_of(params), REPO))
