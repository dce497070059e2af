"""The proof runs the shipped file alone and fails when its output is not the record's."""

from pathlib import Path

import pytest

from pipeline.launching.openmp import WAITING
from pipeline.record.prove import ProofError, prove
from pipeline.record.record import SeedRun
from pipeline.record.runs import prove_runs
from pipeline.record.ship import wrap
from stages.shell.console import machine_environment

PROGRAM = """
import argparse
import os
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--evaluate-only")
parser.add_argument("--data")
parser.add_argument("--seed")
parser.add_argument("--tokenizer")
arguments = parser.parse_args()
assert sorted(os.listdir()) == ["model.fwy", "train_gpt.py"], os.listdir()
assert "OTHER_VARIABLE" not in os.environ
assert os.path.isdir(arguments.data) and os.path.isfile(arguments.tokenizer)
content = open(arguments.evaluate_only).read()
if content == "slow":
    print("waiting", flush=True)
    time.sleep(60)
if content == "broken":
    sys.exit("artifact is damaged")
print("sizes")
print("sha256 00" + arguments.seed + " config")
print("sha256 aa data")
print("final_ttt_exact val_loss:" + content, os.environ.get("THREADS"))
"""


@pytest.fixture
def record(tmp_path: Path):
    """Return a function that proves a record holding `content` and gives the lines streamed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "toy.model").write_bytes(b"pieces")
    (tmp_path / "folder").mkdir()

    def run(
        content: str, expected: list[str], program: str = PROGRAM, timeout_seconds: float | None = None, **extra: str
    ) -> list[str]:
        (tmp_path / "folder" / "train_gpt.py").write_bytes(wrap(program))
        (tmp_path / "folder" / "model.fwy").write_text(content)
        streamed: list[str] = []
        prove(
            tmp_path / "folder",
            tmp_path / "data",
            tmp_path / "toy.model",
            "model.fwy",
            expected,
            seed=5,
            timeout_seconds=timeout_seconds,
            environment={"THREADS": "2", **extra},
            log=streamed.append,
        )
        return streamed

    return run


def test_equal_lines_pass_and_are_streamed(record):
    streamed = record("1.25000000", ["final_ttt_exact val_loss:1.25000000 2", "sizes"])
    assert streamed == ["sizes", "sha256 005 config", "sha256 aa data", "final_ttt_exact val_loss:1.25000000 2"]


def test_a_different_last_digit_fails_with_both_lines(record):
    with pytest.raises(ProofError) as caught:
        record("1.25000001", ["final_ttt_exact val_loss:1.25000000 2"])
    assert str(caught.value) == (
        "train_gpt.py --evaluate-only: expected `final_ttt_exact val_loss:1.25000000 2`, "
        "got `final_ttt_exact val_loss:1.25000001 2`; scores come from another machine or thread count? "
        "run `dvc repro -sf evaluate` here"
    )


def test_an_absent_line_fails(record):
    with pytest.raises(ProofError, match="expected `final_zzz`, got nothing like it"):
        record("1", ["final_zzz"])


def test_a_failing_program_fails_with_its_last_line(record):
    with pytest.raises(ProofError, match="exit status 1: artifact is damaged"):
        record("broken", [])


def test_a_program_that_takes_too_long_is_stopped(record):
    with pytest.raises(ProofError, match=r"still running after 1\.5 s"):
        record("slow", [], timeout_seconds=1.5)


@pytest.mark.parametrize("borrowed", ["from pipeline.base.checks import require", "def f():\n    import stages.cli"])
def test_a_program_that_borrows_the_library_is_refused(record, borrowed):
    with pytest.raises(ProofError, match=r"imports (pipeline\.base\.checks|stages\.cli)"):
        record("1", ["sizes"], program=PROGRAM + borrowed + "\n")


def test_neither_this_environment_nor_python_variables_reach_the_program(record, monkeypatch, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "argparse.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.setenv("OTHER_VARIABLE", "set")
    record("1", ["sizes"], PYTHONPATH=str(tmp_path / "shadow"))


def test_a_different_digest_names_both(record):
    with pytest.raises(ProofError, match=r"expected `sha256 99 config`, got `sha256 005 config`; .*run `dvc repro`$"):
        record("1", ["sha256 99 config"])


def seed_run(seed: int) -> SeedRun:
    score = {"protocol": {"kind": "ttt"}, "weights": "artifact", "val_loss": 1.0, "val_bpb": 0.5}
    return SeedRun(
        seed=seed, artifact=Path("absent"), train={}, calibrate={}, quantize={}, scores={"ttt": score}, log=""
    )


@pytest.mark.parametrize(("digest", "library"), [("005", "/lib"), ("006", "/lib"), ("005", "/other")])
def test_each_seed_reproduces_the_digests_of_its_log_in_the_given_environment(tmp_path, digest, library, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PROGRAM[: PROGRAM.rindex("print(")] + (
        "if os.environ['LD_LIBRARY_PATH'] == '/lib':\n"
        "    print('final_ttt_exact val_loss:1.00000000 val_bpb:0.50000000')\n"
    )
    (tmp_path / "train_gpt.py").write_text(text)
    (tmp_path / "model.fwy").write_text("1")
    (tmp_path / "toy.model").write_text("")
    (tmp_path / "requirements.txt").write_text("torch==2\n")
    (tmp_path / "train_seed5.log").write_text(f"step:1/1\nsha256 {digest} config\nsha256 aa data\n")
    environment, told = {"LD_LIBRARY_PATH": library}, []

    def run() -> None:
        prove_runs(tmp_path, [seed_run(5)], tmp_path, tmp_path / "toy.model", environment, told.append, told.append)

    if (digest, library) == ("005", "/lib"):
        run()
        assert "sha256 005 config" in told
        told.clear()
        run()
        assert told == ["seed 5 (1 of 1) was proven before (artifacts/state/proofs)"]
        for name, content in (("requirements.txt", "torch==3\n"), ("train_seed5.log", "sha256 005 config\n")):
            (tmp_path / name).write_text(content)
            told.clear()
            run()
            assert "sha256 005 config" in told
    else:
        with pytest.raises(ProofError, match="sha256 006 config" if digest == "006" else "final_ttt_exact"):
            run()


def test_the_stage_hands_over_what_finds_libraries_gpus_and_kernels_and_nothing_else(monkeypatch):
    handed = ("PATH", "LD_LIBRARY_PATH", "ATEN_CPU_CAPABILITY", *WAITING)
    for name in (*handed, "OTHER_VARIABLE"):
        monkeypatch.setenv(name, "/x")
    for name in ("CUDA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"):
        monkeypatch.delenv(name, raising=False)
    assert machine_environment() == dict.fromkeys(handed, "/x")
