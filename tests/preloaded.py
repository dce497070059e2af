"""A Python that has loaded torch already: stage processes of tests are forks of it, and start in a tenth of the time.

The server loads libraries only, none of the project's modules: a fork runs `python -m stages.cli` in the folder, with
the variables and the descriptors of whoever asked, on the code that lies there. One process per connection forks the
command and waits for it, so that the server itself never does anything but fork.

    python -m tests.preloaded SOCKET    the server, until it is terminated
    SHIM -m stages.cli ...              hands over to it; anything else runs in the real Python

Checked by: tests/stages/test_preloaded.py.
"""

import contextlib
import json
import os
import runpy
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = (
    "torch",
    "numpy",
    "sentencepiece",
    "safetensors.torch",
    "click",
    "ruamel.yaml",
    "brotli",
    "rich.progress",
    "python_minifier",
    "torch.nn.attention.bias",
    "torch.distributed",
)
STAGES = ["-m", "stages.cli"]
_SHIM = """#!/bin/sh
exec {python} -IS {client} "$@"
"""
_CLIENT = """
import json, os, socket, sys
command = sys.argv[1:]
if command[:2] != {stages!r}:
    os.execv({python!r}, [{python!r}, *command])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps({{"command": command, "folder": os.getcwd(), "variables": dict(os.environ)}}).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
"""


@contextlib.contextmanager
def preloaded_python() -> Iterator[Path]:
    """Start a server for the block; yield a folder whose `python` runs stages as its forks."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as place:  # a socket's path must be short
        address, client, shim = f"{place}/socket", Path(place, "client.py"), Path(place, "bin", "python")
        client.write_text(_CLIENT.format(python=sys.executable, stages=STAGES, address=address))
        shim.parent.mkdir()
        # By way of a shell: the path behind `#!` may neither be long nor hold spaces.
        shim.write_text(_SHIM.format(python=shlex.quote(sys.executable), client=shlex.quote(str(client))))
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        with subprocess.Popen([sys.executable, "-m", "tests.preloaded", address], cwd=root) as server:
            while not Path(address).exists():
                assert server.poll() is None, "the server of preloaded Pythons did not start"
                time.sleep(0.02)
            try:
                yield shim.parent
            finally:
                server.terminate()


def serve(address: str) -> None:
    """Load the libraries, then answer every connection in a process of its own, until terminated."""
    for library in LIBRARIES:
        __import__(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        os.rename(f"{address}.new", address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Fork the command that a connection asks for, tell its exit status, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    size, text = int.from_bytes(length, "big"), b""
    while len(text) < size:
        text += connection.recv(size - len(text))
    child = os.fork()
    if child == 0:
        connection.close()
        _run(descriptors, **json.loads(text))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(descriptors: list[int], command: list[str], folder: str, variables: dict[str, str]) -> None:
    """Become `python -m stages.cli` in a folder."""
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.argv, sys.path[0] = command[1:], folder
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
