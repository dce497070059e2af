"""A program under guard: its rows are read as they are, what it touches is seen, and it cannot borrow this library."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit import processes
from pipeline.audit.processes import ShippedError
from pipeline.audit.shipped import ShippedFiles, ShippedProgram
from pipeline.audit.walls_checks import event_fault
from pipeline.launching import foreign

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
    protocol = json.dumps({"kind": "blocks", "context_tokens": 8})
    np.savez(arguments.ledger + "/toy.npz", lengths=lengths, protocol=protocol,
             target=target, nats=nats, bytes=target, group=target)
"""


@pytest.fixture
def shipped(tmp_path: Path):
    """Return a function that puts a statement into the program and gives the evaluator."""
    for name in ("model.fwy", "toy.model"):
        (tmp_path / name).write_bytes(b"")

    def build(statement: str = "", timeout_seconds: float = 60, side_by_side: int = 1) -> ShippedProgram:
        (tmp_path / "train_gpt.py").write_text(PROGRAM.replace("EXTRA", statement))
        files = ShippedFiles(tmp_path / "train_gpt.py", tmp_path / "model.fwy", tmp_path / "toy.model", 7)
        environment = {"PATH": os.environ["PATH"]}
        return ShippedProgram(files, environment, timeout_seconds, lambda line: None, side_by_side, sandboxed=False)

    return build


STREAMS = [np.array([1, 5, 6]), np.array([1, 9])]


def test_rows_come_back_by_stream_in_their_order(shipped) -> None:
    program = shipped()
    first, second = program(STREAMS)
    assert program.protocols == {"toy": {"kind": "blocks", "context_tokens": 8}}
    np.testing.assert_array_equal(first["toy"].target, [1, 0])
    np.testing.assert_array_equal(first["toy"].nats, [5.0, 6.0])
    np.testing.assert_array_equal(second["toy"].nats, [9.0])


@pytest.mark.parametrize("side_by_side", [2, 3, 9])
def test_programs_side_by_side_answer_in_the_order_of_the_streams(shipped, side_by_side: int) -> None:
    program = shipped(side_by_side=side_by_side)
    answers = program([np.array([1, number, number + 10]) for number in range(5)])
    assert [answer["toy"].nats.tolist() for answer in answers] == [[number, number + 10.0] for number in range(5)]
    assert program.first is not None
    assert program.first[1] is answers[0]


def test_one_of_several_programs_that_fails_is_named(shipped) -> None:
    fails = "assert len(list(Path('data').glob('val_*'))) == 2"
    with pytest.raises(ShippedError, match="exit status 1: AssertionError"):
        shipped(fails, side_by_side=2)(3 * STREAMS[:1])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_where_processes_are_counted_no_train_shard_lies_beside_them(shipped, num_processes: int) -> None:
    program = shipped("print('TRAIN', os.path.exists('data/train_000000.bin'))")
    assert "TRAIN True" in program.printed(STREAMS[0])
    program = shipped("assert not os.path.exists('data/train_000000.bin')")
    program(STREAMS, num_processes=num_processes)
    with pytest.raises(ShippedError, match="AssertionError"):
        program(STREAMS)


def test_what_the_program_touches_is_seen(shipped) -> None:
    program = shipped(
        "open('data/train_000000.bin').close(); import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    )
    program(STREAMS)
    told = [[event.name, *event.values] for event in program.events]
    assert ["open", "data/train_000000.bin"] in told
    assert ["socket.connect", "socket", ["127.0.0.1", 9]] in told
    assert not program.silenced


@pytest.mark.parametrize(
    "statement",
    [
        "import subprocess; subprocess.run(['true'])",
        "import multiprocessing; multiprocessing.get_context('spawn').Process(target=print).start()",
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
        "os.system('true')",
        "os.waitpid(os.posix_spawn(__import__('shutil').which('true'), ['true'], {}), 0)",
        "os.link('data/train_000000.bin', 'x')",
        "os.open('train_000000.bin', os.O_RDONLY, dir_fd=os.open('data', os.O_RDONLY))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
    ],
)
def test_what_no_scoring_needs_is_a_fault(shipped, statement: str) -> None:
    program = shipped(statement)
    program.printed(STREAMS[0])
    assert [event for event in program.events if event_fault(event)]


def test_an_honest_program_has_no_fault(shipped) -> None:
    program = shipped(
        "import subprocess; subprocess.run(['/sbin/ldconfig', '-p'], stdout=subprocess.DEVNULL, check=False)"
    )
    program(STREAMS)
    program(STREAMS, num_processes=2)
    assert len(program.events) > 10
    assert not [event for event in program.events if event_fault(event)]


@pytest.mark.parametrize(
    "statement", ["os._exit(0)", "[os.dup2(os.open(os.devnull, os.O_WRONLY), each) for each in range(3, 200)]"]
)
def test_a_program_that_stops_telling_is_known(shipped, statement: str) -> None:
    program = shipped(statement)
    program.printed(STREAMS[0])
    assert program.silenced == 1


def test_what_was_told_cannot_be_read_back_or_erased(shipped) -> None:
    program = shipped(
        "import socket\n"
        "for each in range(3, 200):\n"
        "    try:\n"
        "        theirs = socket.socket(fileno=os.dup(each))\n"
        "    except OSError:\n"
        "        continue\n"
        "    print('READ', theirs.recv(1000))\n"
    )
    assert "READ b''" in program.printed(STREAMS[0])


def test_a_program_that_hangs_is_stopped_and_named(shipped) -> None:
    with pytest.raises(ShippedError, match=r"still running after 1 s; .*--timeout-seconds"):
        shipped("import time; time.sleep(60)", timeout_seconds=1)(STREAMS)


def test_ranks_find_each_other_and_that_is_no_fault(shipped) -> None:
    program = shipped(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "assert total.item() == 2 == dist.get_world_size()\n"
        "dist.destroy_process_group()"
    )
    program(STREAMS, num_processes=2)
    assert not [event for event in program.events if event_fault(event)]
    assert not program.silenced


def test_a_rank_that_dies_ends_the_others(shipped) -> None:
    with pytest.raises(ShippedError, match=r"exit status 1: .*AssertionError"):
        shipped("assert os.environ['RANK'] != '1'; import time; time.sleep(60)")(STREAMS, num_processes=2)


def test_a_program_that_prints_without_end_is_stopped(shipped) -> None:
    with pytest.raises(ShippedError, match="tells more than"):
        shipped("while True: print('x' * 10000)")(STREAMS)


def test_the_program_gets_the_limits_of_an_audit(shipped) -> None:
    program = shipped(
        "import resource as r; print('LIMITS', [r.getrlimit(getattr(r, name)) for name in "
        "('RLIMIT_CPU', 'RLIMIT_CORE', 'RLIMIT_FSIZE')])"
    )
    seconds = 60 * os.cpu_count()
    allowed = [(most, most) for most in (seconds, 0, foreign.LARGEST_FILE_BYTES)]
    assert f"LIMITS {allowed}" in program.printed(STREAMS[0])


def test_a_program_that_takes_all_memory_ends_alone(shipped, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "machine_memory_bytes", lambda: 1 << 30)
    program = shipped("held = bytearray(2 << 30)")
    program.environment = {**program.environment, "CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(ShippedError, match="exit status 1: MemoryError"):
        program(STREAMS)


def test_when_one_of_several_programs_fails_the_others_are_stopped(shipped) -> None:
    """They would sleep for longer than they may."""
    waits = "import time; time.sleep(0 if (np.fromfile('data/val_000000.bin', '<u2')[512:] == 9).any() else 600)"
    with pytest.raises(ShippedError, match="exit status 1: AssertionError"):
        shipped(f"{waits}; assert False", timeout_seconds=500, side_by_side=2)(STREAMS[::-1])


def test_a_child_that_outlives_the_program_is_found(shipped, monkeypatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(ShippedError, match="outlives"):
        shipped("import time\nif not os.fork():\n    os.setsid()\n    time.sleep(3)\n    os._exit(0)")(STREAMS)


BAD_LEDGERS = {
    "no zip": "(Path(arguments.ledger) / 'bad.npz').write_bytes(b'x')",
    "no columns": "np.savez(arguments.ledger + '/bad.npz', x=1)",
    "objects": "np.savez(arguments.ledger + '/bad.npz', target=np.array([{}], object))",
    "texts": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'nats': np.array(['a', 'b', 'c'])})",
    "a column too short": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'group': np.zeros(2, int)})",
    "two axes": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'nats': np.zeros((3, 1))})",
    "too few streams": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'lengths': [3]})",
    "negative lengths": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'lengths': [4, -1]})",
    "lengths that wrap": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'lengths': [2**63 - 1, -2**63 + 4]})",
    "no protocol": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'protocol': '[1]'})",
    "no context": "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'protocol': '{\"kind\": \"x\"}'})",
    "an absurd context": (
        "np.savez(arguments.ledger + '/bad.npz', **{**GOOD, 'protocol': "
        '\'{"kind": "x", "context_tokens": 1000000000}\'})'
    ),
    "a link": "os.symlink('/etc/hostname', arguments.ledger + '/bad.npz')",
    "a pipe": "os.mkfifo(arguments.ledger + '/bad.npz')",
    "a bomb": "np.savez_compressed(arguments.ledger + '/bad.npz', **{**GOOD, 'nats': np.zeros(1 << 26)})",
}


@pytest.mark.parametrize("name", BAD_LEDGERS)
def test_a_ledger_that_is_none_ends_in_one_line(shipped, name: str) -> None:
    good = "GOOD = dict(target=[0, 1, 0], nats=[1.0] * 3, bytes=[1] * 3, group=[0] * 3, lengths=[2, 1], protocol='{}')"
    with pytest.raises(ShippedError, match=r"^train_gpt\.py --ledger: bad\.npz: [^\n]+$"):
        shipped(f"{good}\n{BAD_LEDGERS[name]}")(STREAMS)


def test_a_folder_of_ledgers_that_lies_elsewhere_is_not_read(shipped) -> None:
    moved = "os.rename('ledger', 'other'); os.symlink('other', 'ledger')"
    with pytest.raises(ShippedError, match=r"^train_gpt\.py --ledger: ledger: got 'a link'"):
        shipped(moved)(STREAMS)


@pytest.mark.parametrize("module", ["pipeline.base.files", "stages.cli"])
def test_the_program_cannot_import_this_library(shipped, module: str) -> None:
    with pytest.raises(ShippedError, match="ModuleNotFoundError"):
        shipped(f"import {module}")(STREAMS)


def test_a_program_without_ledgers_is_refused_in_one_line(shipped) -> None:
    with pytest.raises(ShippedError, match=r"exit status 3: .*package the record again"):
        shipped("import sys; sys.exit(3)")(STREAMS)
    with pytest.raises(ShippedError, match="left 0 ledgers"):
        shipped("arguments.ledger = None")(STREAMS)


def test_the_interpreter_is_this_one(shipped) -> None:
    assert sys.version.split()[0] in " ".join(shipped("import sys; print(sys.version)").printed(STREAMS[0]))
