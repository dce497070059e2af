"""A program under guard: its rows are read as they are, what it touches is seen, and it cannot borrow this library."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit.shipped import ShippedError, ShippedFiles, ShippedProgram

PROGRAM = """
import argparse, json, os
from pathlib import Path
import numpy as np

parser = argparse.ArgumentParser()
for name in ("--evaluate-only", "--seed", "--data", "--tokenizer", "--ledger"):
    parser.add_argument(name)
arguments = parser.parse_args()
EXTRA
print("data:", sorted(os.listdir("data")))
if arguments.ledger:
    streams = [np.fromfile(path, "<u2")[512:] for path in sorted(Path("data").glob("val_*.bin"))]
    lengths = [len(stream) - 1 for stream in streams]
    target = np.concatenate([np.arange(length)[::-1] for length in lengths])
    nats = np.concatenate([stream[1:].astype(float) for stream in streams])
    np.savez(arguments.ledger + "/toy.npz", lengths=lengths, protocol=json.dumps({"kind": "blocks"}),
             target=target, nats=nats, bytes=target, group=target)
"""


@pytest.fixture
def shipped(tmp_path: Path):
    """Return a function that puts a statement into the program and gives the evaluator."""
    for name in ("model.fwy", "toy.model"):
        (tmp_path / name).write_bytes(b"")

    def build(statement: str = "") -> ShippedProgram:
        (tmp_path / "train_gpt.py").write_text(PROGRAM.replace("EXTRA", statement))
        files = ShippedFiles(tmp_path / "train_gpt.py", tmp_path / "model.fwy", tmp_path / "toy.model", 7)
        return ShippedProgram(files, {"PATH": os.environ["PATH"]}, lambda line: None)

    return build


STREAMS = [np.array([1, 5, 6]), np.array([1, 9])]


def test_rows_come_back_by_stream_in_their_order(shipped) -> None:
    program = shipped()
    first, second = program(STREAMS)
    assert program.protocols == {"toy": {"kind": "blocks"}}
    np.testing.assert_array_equal(first["toy"].target, [1, 0])
    np.testing.assert_array_equal(first["toy"].nats, [5.0, 6.0])
    np.testing.assert_array_equal(second["toy"].nats, [9.0])


def test_two_processes_see_no_train_shard_and_one_process_does(shipped) -> None:
    program = shipped("print('TRAIN', os.path.exists('data/train_000000.bin'))")
    assert "TRAIN True" in program.printed(STREAMS[0])
    program = shipped("assert not os.path.exists('data/train_000000.bin')")
    program(STREAMS, num_processes=2)
    with pytest.raises(ShippedError, match="AssertionError"):
        program(STREAMS)


def test_what_the_program_touches_is_seen(shipped) -> None:
    program = shipped(
        "open('data/train_000000.bin').close(); import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    )
    program(STREAMS)
    assert "open data/train_000000.bin" in program.events
    assert "socket.connect ('127.0.0.1', 9)" in program.events


@pytest.mark.parametrize("module", ["pipeline.files", "stages.cli"])
def test_the_program_cannot_import_this_library(shipped, module: str) -> None:
    with pytest.raises(ShippedError, match="ModuleNotFoundError"):
        shipped(f"import {module}")(STREAMS)


def test_a_program_without_ledgers_is_refused_in_one_line(shipped) -> None:
    with pytest.raises(ShippedError, match=r"exit status 3: .*package the record again"):
        shipped("import sys; sys.exit(3)")(STREAMS)
    with pytest.raises(ShippedError, match="left no ledgers"):
        shipped("arguments.ledger = None")(STREAMS)


def test_the_interpreter_is_this_one(shipped) -> None:
    assert sys.version.split()[0] in " ".join(shipped("import sys; print(sys.version)").printed(STREAMS[0]))
