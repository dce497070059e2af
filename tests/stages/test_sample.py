"""`fairway sample`: a stream of text on stdout and nothing else, the same for a seed; bad input is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.codec.foreign import load_artifact_model
from pipeline.data.tokenizer import load_tokenizer
from pipeline.model.checkpoint import load_checkpoint
from tests.stages.conftest import Project
from tests.stages.test_cli import fairway

SEED = "artifacts/seeds/1"


def plain_greedy(model, tokens: list[int], count: int) -> list[int]:
    """Return the most probable tokens by whole forward passes, within the context."""
    model, tokens = model.eval(), list(tokens)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens


def written(project: Project, *options: str) -> str:
    return project.run("fairway", "sample", *options).stdout


def test_greedy_text_is_that_of_a_loop_in_plain_torch(finished: Project) -> None:
    processor = load_tokenizer(finished.root / "artifacts/data/tokenizer.model")
    models = {
        f"{SEED}/quantize/model.fwy": load_artifact_model(finished.root / f"{SEED}/quantize/model.fwy")[0],
        f"{SEED}/train/checkpoint.safetensors": load_checkpoint(finished.root / f"{SEED}/train/checkpoint.safetensors"),
    }
    begun = processor.encode("tea ", add_bos=True)
    for source, model in models.items():
        tokens = plain_greedy(model, begun, 12)
        ends = [at for at in range(len(begun), len(tokens)) if tokens[at] == processor.bos_id()]
        expected = processor.decode(tokens[: ends[0] if ends else None])
        assert written(finished, source, "--temperature", "0", "--tokens", "12", "--prompt", "tea ") == f"{expected}\n"


def test_the_artifact_of_the_first_seed_is_the_default_and_a_record_brings_its_tokenizer(finished: Project) -> None:
    # 80 tokens: far beyond the context of 32.
    options = ["--tokens", "80", "--seed", "3"]
    text = written(finished, *options)
    assert text == written(finished, *options)
    assert text == written(finished, "artifacts/submission", *options)
    record = "artifacts/submission"
    done = finished.run("fairway", "sample", record, *options)
    assert f"model {record}/model.fwy | cpu\ntokenizer {record}/tokenizers/tokenizer.model\n" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80
    assert text != written(finished, "--tokens", "80", "--seed", "4")


def test_without_an_artifact_the_checkpoint_is_taken(project: Project) -> None:
    artifact = project.root / SEED / "quantize/model.fwy"
    artifact.unlink()
    done = project.run("fairway", "sample", "--tokens", "1")
    assert f"model {SEED}/train/checkpoint.safetensors" in done.stderr
    (project.root / SEED / "train/checkpoint.safetensors").unlink()
    done = project.run("fairway", "sample", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"fairway: error: {SEED}/quantize/model.fwy: no such file; run `dvc repro`, or name a checkpoint, artifact or "
        "record folder\n"
    )


def test_text_comes_while_it_is_made_and_a_reader_may_leave(finished: Project) -> None:
    command = [sys.executable, "-m", "stages.cli", "sample", "--tokens", "1000000", "--prompt", "tea"]
    with subprocess.Popen(
        command, cwd=finished.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        first = writer.stdout.read(5)
        writer.stdout.close()
        said = writer.stderr.read()
        writer.wait(60)
    assert first.startswith("tea")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["modl.fwy"], "SOURCE: got 'modl.fwy', which names no file, expected a .fwy or .safetensors file;"),
        (["params.yaml"], "SOURCE: got 'params.yaml', expected a .fwy or .safetensors file or a record folder;"),
        (["artifacts/data"], "SOURCE: artifacts/data/ holds neither model.fwy nor model_seedN.fwy"),
        (["--temperature", "nan"], "--temperature: got nan, expected 0, for the most probable token, or"),
        (["--tokenizer", "corpus/documents.jsonl"], "corpus/documents.jsonl: SentencePiece cannot load it"),
        (["--prompt", b"\xff"], "--prompt: not UTF-8"),
    ],
)
def test_bad_input_is_one_line(options: list, says: str, finished: Project) -> None:
    done = finished.run("fairway", "sample", *options, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"fairway: error: {says}")
    assert "Traceback" not in done.stderr


def test_a_damaged_artifact_is_one_line(finished: Project, tmp_path: Path) -> None:
    content = (finished.root / SEED / "quantize/model.fwy").read_bytes()
    path = tmp_path / "model.fwy"
    path.write_bytes(content[:-100])
    done = finished.run("fairway", "sample", str(path), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fairway: error: {path}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [["--tokens", "0"], ["--temperature", "-1"], ["--seed", "-1"], ["--device", "tpu"]])
def test_wrong_usage_exits_2(options: list[str], repo: Path) -> None:
    done = fairway("sample", *options, cwd=repo)
    assert done.returncode == 2
    assert options[0] in done.stderr
