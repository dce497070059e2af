"""Programs of strangers: each tries one way out. In the sandbox it fails, and leaves nothing.

What gets out without a sandbox is asserted as well, on things that belong to the test: docs/legality.md says it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.audit.processes import ShippedError
from pipeline.audit.shipped import ShippedFiles, ShippedProgram
from pipeline.launching import foreign, sandbox
from pipeline.launching.foreign import Listener, Program, StartError, resource_limits, run_programs
from pipeline.launching.sandbox import gpu_nodes, require_sandbox
from pipeline.launching.workplace import workplace
from pipeline.verification import start
from pipeline.verification.start import start_alone

REPO = Path(__file__).resolve().parent.parent.parent
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc: Linux")
pytestmark = linux


@pytest.fixture(scope="module")
def usable() -> None:
    """Skip what needs a sandbox where there is none."""
    try:
        require_sandbox()
    except ValueError as error:
        pytest.skip(f"needs a bubblewrap that starts: {error}")


@pytest.fixture(params=[True, False], ids=["sandbox", "without"])
def sandboxed(request: pytest.FixtureRequest) -> bool:
    """Return whether the program runs in the sandbox."""
    if request.param:
        request.getfixturevalue("usable")
    return request.param


class Ran(NamedTuple):
    """What a program did."""

    status: int | None
    lines: list[str]
    survivors: list[int]


@pytest.fixture
def token() -> Iterator[str]:
    """Return a word by which the processes of this test are known; whoever still has it at the end is killed."""
    word = f"stranger-{uuid.uuid4().hex}"
    yield word
    for process in holders(word):
        os.kill(process, signal.SIGKILL)


def holders(token: str) -> list[int]:
    """Return the processes that live and were started with this word."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if token.encode() in words and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(place.name))
        except OSError:
            continue  # ended meanwhile
    return found


def run(source: str, token: str, *, sandboxed: bool, seconds: float = 20.0, most: dict | None = None, **told) -> Ran:
    """Run a program; `most`: limits in place of an audit's; `told`: what it knows as A."""
    with workplace() as place:
        (place.folder / "hostile.py").write_text(f"import os, sys, json\nA = json.loads(sys.argv[2])\n{source}")
        environment = {"HOME": str(place.folder), "CUDA_VISIBLE_DEVICES": ""}
        reading, writing = os.pipe()
        lines: list[str] = []
        listener = Listener(reading, lines.append, 1 << 20)
        command = [sys.executable, "-I", "hostile.py", token, json.dumps(told)]
        limits = {**resource_limits(environment, 60, sandboxed=sandboxed), **(most or {})}
        deadline = time.monotonic() + seconds
        (status,) = run_programs(
            [Program(command, environment, writing, writing)],
            place,
            limits,
            sandboxed=sandboxed,
            is_over=lambda: time.monotonic() > deadline,
        )
        survivors = holders(token)
        listener.has_ended(0.5)
    assert not place.folder.exists()
    return Ran(status, lines, survivors)


WRITES = """
for path in A["paths"]:
    try:
        with open(path, "w") as file:
            file.write("escaped")
    except OSError:
        pass
"""


def test_it_writes_nowhere_but_in_its_folder(token: str, sandboxed: bool, tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text("of the folder under test")
    paths = [tmp_path / "train_gpt.py", tmp_path / token, Path(tempfile.gettempdir(), token)]
    if sandboxed:
        paths += [
            Path(place, token)
            for place in ("/usr", "/usr/lib", "/etc", "/var/tmp", "/dev/shm", "/", REPO, sys.prefix, sys.base_prefix)
        ]
    try:
        assert run(WRITES, token, sandboxed=sandboxed, paths=list(map(str, paths))).status == 0
        escaped = [path for path in paths if path.exists() and path.read_text() == "escaped"]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    assert escaped == ([] if sandboxed else paths)


def test_it_writes_in_its_folder_and_in_memory(token: str, usable) -> None:
    source = "for place in ('.', '/tmp', '/dev/shm'): open(place + '/file', 'w').write('x')"
    assert run(source, token, sandboxed=True).status == 0


def test_it_sees_hardly_anything(token: str, usable) -> None:
    source = "print(*os.listdir('/')); print(*os.listdir(os.path.expanduser('~'))); print(*os.listdir('/etc'))"
    root, home, settings = run(source, token, sandboxed=True).lines
    prefixes = [Path(each) for each in (sys.prefix, sys.base_prefix)]
    of_python = {place.parts[1] for each in prefixes for place in (each, each.resolve())}
    known = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "sys", "tmp", "usr"}
    assert set(root.split()) <= known | of_python
    assert home.split() == ["hostile.py"]
    assert set(settings.split()) <= {"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"}


def test_it_reads_nobodys_home(token: str, sandboxed: bool, tmp_path: Path) -> None:
    secret = tmp_path / ".ssh" / "id"
    secret.parent.mkdir()
    secret.write_text("secret")
    source = "print(*os.listdir(A['home'])); print(open(A['home'] + '/.ssh/id').read())"
    ran = run(source, token, sandboxed=sandboxed, home=str(tmp_path))
    assert ("secret" in ran.lines) != sandboxed
    assert sandboxed == (ran.status != 0)


def test_it_gets_the_variables_that_it_is_given(token: str, sandboxed: bool, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "secret")
    (names,) = run("print(*sorted(os.environ))", token, sandboxed=sandboxed).lines
    assert set(names.split()) - {"PWD", "LC_CTYPE"} == {"HOME", "CUDA_VISIBLE_DEVICES"}


CALLS = """
import socket
for family, kind, address in A["addresses"]:
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as caller:
        try:
            caller.connect(tuple(address) if family == "AF_INET" else address)
            caller.send(b"x")
        except OSError:
            pass
"""


def test_it_reaches_nobody(token: str, sandboxed: bool, tmp_path: Path) -> None:
    kinds = [("AF_INET", "SOCK_STREAM", ("127.0.0.1", 0)), ("AF_INET", "SOCK_DGRAM", ("127.0.0.1", 0))]
    kinds += [("AF_UNIX", "SOCK_STREAM", str(tmp_path / "s")), ("AF_UNIX", "SOCK_STREAM", f"\0{token}")]
    listening, addresses = [], []
    for family, kind, address in kinds:
        listening.append(socket.socket(getattr(socket, family), getattr(socket, kind)))
        listening[-1].bind(address)
        addresses.append((family, kind, address if family == "AF_UNIX" else listening[-1].getsockname()))
        if kind == "SOCK_STREAM":
            listening[-1].listen()
    assert run(CALLS, token, sandboxed=sandboxed, addresses=addresses).status == 0
    assert [_was_called(each) for each in listening] == [not sandboxed] * len(kinds)


def _was_called(listening: socket.socket) -> bool:
    with listening:
        listening.setblocking(False)
        try:
            listening.accept()[0].close() if listening.type == socket.SOCK_STREAM else listening.recv(1)
        except BlockingIOError:
            return False
        return True


KILLS = """
import signal
for process in [*A["processes"], os.getppid() if A["all"] else 0, *([-1] if A["all"] else [])]:
    try:
        if process:
            os.kill(process, signal.SIGKILL)
    except OSError:
        pass
print(*(name for name in os.listdir("/proc") if name.isdecimal()))
"""


def test_it_kills_nobody(token: str, sandboxed: bool) -> None:
    """Where it sees the processes of others it is told to kill one of the test's only."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        watched = [bystander.pid, os.getpid()] if sandboxed else [bystander.pid]
        ran = run(KILLS, token, sandboxed=sandboxed, processes=watched, all=sandboxed)
        lives = bystander.poll() is None
        bystander.kill()
    assert lives == sandboxed
    if sandboxed:
        assert ran.status == 0
        assert ran.lines[0].split() == ["1", "2"]


LEAVES = """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(A["lasts"])
"""


@pytest.mark.parametrize("lasts", [0, 600], ids=["ends", "is ended"])
def test_it_leaves_no_process_behind(token: str, sandboxed: bool, lasts: int) -> None:
    ran = run(LEAVES, token, sandboxed=sandboxed, seconds=1.0 if lasts else 20.0, lasts=lasts)
    assert ran.status == (None if lasts else 0)
    assert len(ran.survivors) == (0 if sandboxed else 1)


MEMORY = 1 << 28
"""Of the machine, as these tests have it."""


def test_it_takes_no_more_memory_than_it_may(token: str, sandboxed: bool, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "machine_memory_bytes", lambda: MEMORY)
    ran = run("held = []\nwhile True: held.append(bytearray(1 << 20))", token, sandboxed=sandboxed)
    assert ran.status == 1
    assert ran.lines[-1] == "MemoryError"


@pytest.mark.skipif(bool(gpu_nodes({})), reason="needs a machine without a GPU, whose driver takes what it likes")
def test_a_start_takes_no_more_memory_than_it_may(sandboxed: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "machine_memory_bytes", lambda: MEMORY)
    (tmp_path / "program.py").write_text("held = bytearray(1 << 29)")
    assert start_alone(tmp_path / "program.py", {}, sandboxed=sandboxed)[0].endswith("exit status 1: MemoryError")


STILL = {
    "several processes hold more than one may": "import time\nos.fork()\nheld = bytearray(A['bytes'] * 2 // 3)",
    "memory that is shared is not counted": "import mmap\nmmap.mmap(-1, A['bytes'] * 2).write(bytes(A['bytes'] // 2))",
    "files are bounded one by one": "for name in 'abc': open(name, 'wb').write(bytes(1 << 20))",
}


@pytest.mark.parametrize("name", STILL)
def test_what_a_sandbox_does_not_stop(token: str, usable, monkeypatch, name: str) -> None:
    """Told in docs/legality.md."""
    monkeypatch.setattr(foreign, "machine_memory_bytes", lambda: MEMORY)
    ran = run(STILL[name], token, sandboxed=True, most={"RLIMIT_FSIZE": 1 << 20}, bytes=MEMORY)
    assert ran == Ran(0, [], [])


def test_it_computes_no_longer_than_it_may(token: str, sandboxed: bool) -> None:
    ran = run("while True: pass", token, sandboxed=sandboxed, most={"RLIMIT_CPU": 1})
    assert ran.status in (-signal.SIGKILL, -signal.SIGXCPU)
    assert not ran.survivors


def test_it_fills_no_file(token: str, sandboxed: bool) -> None:
    source = "with open('file', 'wb') as file:\n    while True: file.write(bytes(1 << 20))"
    ran = run(source, token, sandboxed=sandboxed, most={"RLIMIT_FSIZE": 1 << 22})
    assert ran.status == 1
    assert ran.lines[-1].endswith("File too large")


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_it_fills_no_memory_with_files(token: str, usable, monkeypatch, place: str) -> None:
    monkeypatch.setattr(sandbox, "LARGEST_MEMORY_FILES_BYTES", 1 << 22)
    source = f"for number in range(1 << 10): open(f'{place}/{{number}}', 'wb').write(bytes(1 << 20))"
    ran = run(source, token, sandboxed=True)
    assert ran.status == 1
    assert ran.lines[-1].endswith("No space left on device")


FORKS = """
import time
number = 0
try:
    while number < 60 and os.fork():
        number += 1
except OSError:
    pass
if number:
    print("forked", number, flush=True)
time.sleep(600)
"""


def test_it_starts_no_more_processes_than_it_may(token: str, sandboxed: bool, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "MOST_PROCESSES", 30)
    if sandboxed and os.getuid() == 0:  # whom the kernel's own limit spares
        with pytest.raises(StartError, match="more than 30 processes and threads"):
            run(FORKS, token, sandboxed=True)
    else:
        ran = run(FORKS, token, sandboxed=sandboxed, seconds=2)
        forked = max(int(line.split()[1]) for line in ran.lines if line.startswith("forked"))
        assert forked < 30 if sandboxed else forked == 60
    assert not holders(token)


def test_a_fork_bomb_ends_with_its_sandbox(token: str, usable, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "MOST_PROCESSES", 100)
    source = "import time\nfor _ in range(10):\n    try: os.fork()\n    except OSError: pass\ntime.sleep(600)"
    with contextlib.suppress(StartError):
        run(source, token, sandboxed=True, seconds=2)
    assert not holders(token)


TRACES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for path in ("/proc/1/mem", "/proc/1/fd/1"):
    try:
        os.close(os.open(path, os.O_RDWR))
        print(path)
    except OSError:
        pass
if libc.ptrace(16, 1, 0, 0) == 0:
    print("traced")
"""


def test_it_cannot_trace_the_first_process(token: str, usable) -> None:
    assert run(TRACES, token, sandboxed=True) == Ran(0, [], [])


SETTINGS = """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/self/oom_score_adj"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print(path)
    except OSError:
        pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapBnd")))
print(open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0])
"""


def test_it_changes_nothing_of_the_machine(token: str, sandboxed: bool) -> None:
    """Opens only: nothing is written."""
    *writable, capabilities, bound = run(SETTINGS, token, sandboxed=sandboxed).lines
    if sandboxed:
        assert (writable, capabilities, bound) == ([], 16 * "0", "1")
    else:
        assert "/proc/self/oom_score_adj" in writable
        assert ("/proc/sys/kernel/core_pattern" in writable) == os.access("/proc/sys/kernel/core_pattern", os.W_OK)


OWNER = """
import os, sys
from pipeline.launching.foreign import Program, resource_limits, run_programs
from pipeline.launching.workplace import workplace

STUBBORN = '''
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(1, 0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
time.sleep(600)
'''
with workplace() as place:
    nothing = os.open(os.devnull, os.O_WRONLY)
    program = Program([sys.executable, "-c", STUBBORN, sys.argv[1]], {}, nothing, nothing)
    run_programs([program], place, resource_limits({}, 60, sandboxed=True), sandboxed=True, is_over=lambda: False)
"""


def test_nothing_outlives_an_auditor_that_is_killed(token: str, usable, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    source = f"import sys\nsys.argv[1:] = [{token!r}]\n{OWNER}"  # not told the word itself, it is none of its holders
    with subprocess.Popen([sys.executable, "-c", source], cwd=REPO, env=environment) as owner:
        deadline = time.monotonic() + 30
        while len(holders(token)) < 2:
            assert time.monotonic() < deadline, "the program does not start"
            time.sleep(0.01)
        owner.kill()
    while holders(token) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, "a process or the folder is still there"
        time.sleep(0.01)


FLOOD = "tells more than 16777216 bytes"
PROGRAMS = {
    "a sound one": ("import argparse; argparse.ArgumentParser().parse_args()", "starts alone"),
    "one that imports torch": ("import torch, sys; sys.exit(not torch.ones(1).item())", "starts alone"),
    "one that fails": ("print('before')\nraise ValueError('why')", "exit status 1: ValueError: why"),
    "one that says nothing": ("import sys; sys.exit(3)", "exit status 3: no output"),
    "one that tells without end": ("import os\nwhile True: os.write(2, bytes(1 << 16))", FLOOD),
    "one of short lines": ("import os\nwhile True: os.write(2, b'\\n' * (1 << 16))", FLOOD),
    "one that lasts": ("import time; time.sleep(600)", "no end within 2 s"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_starts_or_ends_in_one_line(name: str, sandboxed: bool, tmp_path: Path, monkeypatch) -> None:
    source, evidence = PROGRAMS[name]
    if "lasts" in name:
        monkeypatch.setattr(start, "START_SECONDS", 2.0)
    (tmp_path / "program.py").write_text(source)
    began = time.monotonic()
    told, starts = start_alone(tmp_path / "program.py", {}, sandboxed=sandboxed)
    assert told == ("" if starts else "train_gpt.py --help: ") + evidence
    assert starts == (evidence == "starts alone")
    assert "tells" not in name or time.monotonic() - began < 5


def test_what_a_program_says_is_shown_as_printable_text(sandboxed: bool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os; os.write(2, b'\\xff\\n\\x1b[2J\\xff\\r\\n'); os._exit(1)")
    told, starts = start_alone(tmp_path / "program.py", {}, sandboxed=sandboxed)
    assert not starts
    assert told.isprintable()
    assert told.isascii()
    assert "[2J" in told


def test_a_process_that_outlives_its_program_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(start, "_PATIENCE_SECONDS", 0.2)
    (tmp_path / "program.py").write_text("import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(3)")
    told, starts = start_alone(tmp_path / "program.py", {}, sandboxed=False)
    assert (told, starts) == ("train_gpt.py --help: a process that it started outlives it", False)


TALKS = """
import json, os, socket, sys, time
from pathlib import Path
import numpy as np

rank, address = int(os.environ.get("RANK", 0)), ("127.0.0.1", int(os.environ.get("MASTER_PORT", 0)))
if "RANK" in os.environ:
    if rank == 0:
        with socket.create_server(address) as server:
            heard = server.accept()[0].recv(9)
    else:
        while True:
            try:
                socket.create_connection(address).send(b"rank one")
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert rank or heard == b"rank one"
EXTRA
if rank == 0 and "--ledger" in sys.argv:
    stream = np.fromfile("data/val_000000.bin", "<u2")[512:].astype(float)
    column = np.arange(len(stream) - 1)
    protocol = json.dumps({"kind": "blocks", "context_tokens": 8})
    np.savez("ledger/toy.npz", lengths=[len(column)], protocol=protocol, target=column, nats=stream[1:], bytes=column,
             group=column)
"""


def shipped(folder: Path, extra: str = "", **options: object) -> ShippedProgram:
    """Return a program of two ranks that talk to each other."""
    for name in ("model.fwy", "toy.model"):
        (folder / name).write_bytes(b"")
    (folder / "train_gpt.py").write_text(TALKS.replace("EXTRA", extra))
    files = ShippedFiles(folder / "train_gpt.py", folder / "model.fwy", folder / "toy.model", 7)
    return ShippedProgram(files, {"CUDA_VISIBLE_DEVICES": ""}, 20, lambda line: None, **options)


def test_the_ranks_of_an_audit_share_a_sandbox(usable, tmp_path: Path) -> None:
    told = []
    for sandboxed in (True, False):
        program = shipped(tmp_path, sandboxed=sandboxed)
        (ledgers,) = program([np.array([1, 5, 6])], num_processes=2)
        assert ledgers["toy"].nats.tolist() == [5.0, 6.0]
        assert program.silenced == 0
        told.append({(each.name, *(str(value).rpartition("/")[2] for value in each.values)) for each in program.events})
    assert len(told[0]) > 10
    assert {each for each in told[0] ^ told[1] if not each[0].startswith("socket")} == set()  # ports differ


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("if rank == 1: sys.exit('of rank one')", "exit status 1: of rank one"),
        ("if rank == 1: os.kill(os.getpid(), 9)", "exit status -9: no output"),
        ("time.sleep(600)", "still running after 1 s"),
        ("while True: print('x' * 10000)", "tells more than"),
    ],
)
def test_ranks_that_fail_end_as_they_do_without(sandboxed: bool, tmp_path: Path, extra: str, message: str) -> None:
    program = shipped(tmp_path, extra, sandboxed=sandboxed)
    program.timeout_seconds = 1 if "still" in message else 20
    with pytest.raises(ShippedError, match=message):
        program([np.array([1, 5, 6])], num_processes=2)


def test_without_bubblewrap_one_line_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^sandbox: got 'no bwrap', [^\n]*apt-get install bubblewrap[^\n]*--unsafe"):
        require_sandbox()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "got 'bwrap: No permissions"),
        ("exec sleep 600", "no end of a trial within 0.2 s"),
    ],
)
def test_a_bubblewrap_that_does_not_start_is_no_sandbox(monkeypatch, tmp_path: Path, script: str, message: str) -> None:
    bubblewrap = tmp_path / "bwrap"
    bubblewrap.write_text(f"#!/bin/sh\n{script}\n")
    bubblewrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "_TRIAL_SECONDS", 0.2 if "sleep" in script else 30.0)
    assert shutil.which("bwrap") == str(bubblewrap)
    with pytest.raises(ValueError, match=rf"^sandbox: [^\n]*{message}[^\n]*--unsafe"):
        require_sandbox()
