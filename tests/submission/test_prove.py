"""The proof runs the shipped file alone and fails when its output is not the record's."""

from pathlib import Path

import pytest

from pipeline.submission.minify import wrap
from pipeline.submission.prove import ProofError, prove

PROGRAM = """
import argparse
import os
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--evaluate-only")
parser.add_argument("--data")
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
print("final_ttt_exact val_loss:" + content, os.environ.get("THREADS"))
"""


@pytest.fixture
def record(tmp_path: Path):
    """Return a function that proves a record holding `content` and gives the lines streamed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "toy.model").write_bytes(b"pieces")
    (tmp_path / "folder").mkdir()

    def run(
        content: str, expected: list[str], program: str = PROGRAM, timeout_seconds: float = 30, **extra: str
    ) -> list[str]:
        (tmp_path / "folder" / "train_gpt.py").write_bytes(wrap(program))
        (tmp_path / "folder" / "model.fwy").write_text(content)
        streamed: list[str] = []
        prove(
            tmp_path / "folder", tmp_path / "data", tmp_path / "toy.model", "model.fwy", expected,
            timeout_seconds=timeout_seconds, environment={"THREADS": "2", **extra}, log=streamed.append,
        )  # fmt: skip
        return streamed

    return run


def test_equal_lines_pass_and_are_streamed(record):
    streamed = record("1.25000000", ["final_ttt_exact val_loss:1.25000000 2", "sizes"])
    assert streamed == ["sizes", "final_ttt_exact val_loss:1.25000000 2"]


def test_a_different_last_digit_fails_with_both_lines(record):
    with pytest.raises(ProofError) as caught:
        record("1.25000001", ["final_ttt_exact val_loss:1.25000000 2"])
    assert str(caught.value) == (
        "train_gpt.py --evaluate-only: expected `final_ttt_exact val_loss:1.25000000 2`, "
        "got `final_ttt_exact val_loss:1.25000001 2`"
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


@pytest.mark.parametrize("borrowed", ["from pipeline.checks import require", "def f():\n    import stages.cli"])
def test_a_program_that_borrows_the_library_is_refused(record, borrowed):
    with pytest.raises(ProofError, match=r"imports (pipeline\.checks|stages\.cli)"):
        record("1", ["sizes"], program=PROGRAM + borrowed + "\n")


def test_neither_this_environment_nor_python_variables_reach_the_program(record, monkeypatch, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "argparse.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.setenv("OTHER_VARIABLE", "set")
    record("1", ["sizes"], PYTHONPATH=str(tmp_path / "shadow"))
