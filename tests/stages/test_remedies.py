"""What a message advises is right: the command that it names brings back what was lost, and makes nothing else."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.artifacts import ROOT, STATE
from pipeline.base.files import folder_digest

SEED = ROOT / "seeds/1"


def damage(path: Path) -> None:
    """Cut a file in half; what it was linked to stays whole."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


LOSSES: dict[str, tuple[Path, list[str]]] = {
    "data/train": (ROOT / "data/train", ["train", "--seed", "1"]),
    "data/val": (ROOT / "data/val", ["evaluate", "--seed", "1", "--item", "blocks"]),
    "data/byte_table.npz": (ROOT / "data/byte_table.npz", ["evaluate", "--seed", "1", "--item", "blocks"]),
    "data/manifest.json": (ROOT / "data/manifest.json", ["calibrate", "--seed", "1"]),
    "data/tokenizer.model": (ROOT / "data/tokenizer.model", ["package"]),
    "checkpoint": (SEED / "train/checkpoint.safetensors", ["calibrate", "--seed", "1"]),
    "hessians": (SEED / "calibrate/hessians.safetensors", ["quantize", "--seed", "1"]),
    "model": (SEED / "quantize/model.fwy", ["evaluate", "--seed", "1", "--item", "blocks"]),
    "scores": (SEED / "evaluate/scores-ttt.json", ["package"]),
    "log": (SEED / "train/train.log", ["package"]),
}
"""What is lost, and a command that misses it."""
FAST = {("data/train", "missing"), ("hessians", "damaged")}


@pytest.mark.parametrize(
    ("name", "act"),
    [
        pytest.param(name, act, marks=() if (name, act) in FAST else pytest.mark.slow)
        for name in LOSSES
        for act in ("missing", "damaged")
    ],
)
def test_what_was_lost_comes_back_by_the_command_that_the_message_names(project, name: str, act: str) -> None:
    path, command = project.root / LOSSES[name][0], LOSSES[name][1]
    shutil.rmtree(project.root / STATE)  # which says how long stages took
    before = folder_digest(project.root / ROOT)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    lose: Callable[[Path], None] = damage if act == "damaged" else Path.unlink
    for file in files:
        lose(file)
    error = project.run("fairway", *command, check=False)
    assert error.returncode == 1, error.stdout
    advice = re.findall(r"`(dvc [^`]+)`", error.stderr.splitlines()[-1])
    assert len(advice) == 1, error.stderr
    done = project.run(*advice[0].split())
    ran = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran in ([], ["Running stage 'prepare':"])
    shutil.rmtree(project.root / STATE, ignore_errors=True)  # not there where no stage came so far
    assert folder_digest(project.root / ROOT) == before


@pytest.mark.slow
def test_scores_of_another_machine_are_taken_anew_by_the_advice_of_the_proof(project) -> None:
    scores = project.root / SEED / "evaluate/scores-ttt.json"
    text = scores.read_text()
    digit = re.search(r'"val_loss": \d\.\d{6}(\d)', text)
    assert digit
    scores.write_text(text[: digit.start(1)] + str((int(digit[1]) + 1) % 10) + text[digit.end(1) :])
    shutil.rmtree(project.root / ROOT / "package")
    error = project.run("fairway", "package", check=False)
    assert error.returncode == 1
    advice = re.findall(r"`(dvc [^`]+)`", error.stderr.splitlines()[-1])
    assert advice == ["dvc repro -sf evaluate"]
    done = project.run(*advice[0].split())
    ran = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    assert ran == {f"evaluate@1-{item}" for item in ("blocks", "sliding", "ttt")}
    assert scores.read_text() != text[: digit.start(1)]


def test_outputs_that_a_misspelt_key_has_cost_are_checked_out(project) -> None:
    path = project.root / "params.yaml"
    sound, before = path.read_text(), folder_digest(project.root / SEED)
    path.write_text(sound.replace("  visit_weights:", "  visit_weight:"))
    assert "unknown key in quantize" in project.run("dvc", "repro", "-s", "quantize@1", check=False).stderr
    assert not (project.root / SEED / "quantize/model.fwy").exists()
    path.write_text(sound)
    assert "next     dvc checkout   # brings the outputs back from the cache" in project.run("fairway", "status").stdout
    project.run("dvc", "checkout")
    assert folder_digest(project.root / SEED) == before
    assert project.changed() == set()
