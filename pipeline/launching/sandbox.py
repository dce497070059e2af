"""A sandbox for programs of strangers, by bubblewrap: one folder to write in, itself to talk to, nothing to look at.

One idea: nothing is forbidden, hardly anything is there. A program finds the system's libraries and the interpreter,
read-only, a /proc of its own processes, an empty /tmp and its workplace, the only place on a disk where it can write;
its network ends at a loopback of its own, and it has no capability. Namespaces of the kernel do it, so that it holds
for compiled code and for children as well. The program that `sandboxed` starts is the first process of its own world:
when it ends, or whoever started it, the kernel ends all that is left there.

Source: bubblewrap 0.8 or later, https://github.com/containers/bubblewrap.
Differs: /proc is read-only, because /proc/sys would be the machine's own for a program that root starts.
Checked by: tests/launching/test_sandbox.py.
"""

import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.base.checks import one_line, require_always
from pipeline.launching.workplace import workplace

LARGEST_MEMORY_FILES_BYTES = 1 << 30
"""What files may hold that lie in memory: /tmp, and again /dev/shm."""
_TRIAL_SECONDS = 30.0
_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/sys/devices/system",
)
"""The last: what kernels of torch ask of processor and caches."""
_OF_PYTHON = ("bin", "lib", "lib64", "pyvenv.cfg")
"""What an interpreter needs of its prefix, which may be anybody's home."""
_GPU_NODES = ("/dev/nvidia*", "/dev/dxg")
"""The second: of Linux within Windows."""


def require_sandbox() -> None:
    """Raise ValueError, one line, unless programs can be run in a sandbox here: one is tried."""
    remedy = "bubblewrap that starts: `apt-get install bubblewrap`, 0.8 or later, or --unsafe to run without a sandbox"
    require_always(shutil.which("bwrap") is not None, "sandbox", "no bwrap", remedy)
    with workplace() as place:
        command = sandboxed([sys.executable, "-I", "-c", ""], place.folder, {})
        try:
            trial = subprocess.run(command, env={}, capture_output=True, errors="replace", timeout=_TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            raise ValueError(f"sandbox: no end of a trial within {_TRIAL_SECONDS:g} s, expected {remedy}") from None
    require_always(trial.returncode == 0, "sandbox", one_line(trial.stderr, 100), remedy)


def sandboxed(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Return the command line that runs `command` in a sandbox, as its first process, in `folder`.

    The variables are those that bubblewrap is started with; `environment` says whether these hide the GPUs. Descriptors
    are handed on. What the command is told to open must lie in the folder, or be part of system and interpreter.
    """
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None, "require_sandbox comes first"
    own, size = str(folder), str(LARGEST_MEMORY_FILES_BYTES)
    return [
        bubblewrap,
        *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--as-pid-1"),
        *("--size", size, "--tmpfs", "/tmp"),
        *_read_only(_SYSTEM),
        *_read_only(_interpreter()),
        *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"),
        *_gpus(environment),
        *("--bind", own, own, "--chdir", own),
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"),
        "--",
        *command,
    ]


def _read_only(paths: Sequence[str]) -> list[str]:
    """Return the options that show what exists of `paths`, where it lies."""
    return [option for path in paths for option in ("--ro-bind-try", path, path)]


def _interpreter() -> list[str]:
    """Return what this Python is made of, links followed and not."""
    prefixes = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))]
    places = dict.fromkeys(place for prefix in prefixes for place in (prefix, os.path.realpath(prefix)))
    return [os.path.join(place, name) for place in places for name in _OF_PYTHON]


def gpu_nodes(environment: Mapping[str, str]) -> list[str]:
    """Return the files by which a program reaches the GPUs, NVIDIA's; none where its variables hide them."""
    if environment.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    return sorted(node for pattern in _GPU_NODES for node in glob.glob(pattern))


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the options that show the GPUs, and how they are connected."""
    nodes = gpu_nodes(environment)
    devices = [option for node in nodes for option in ("--dev-bind-try", node, node)]
    return [*_read_only(["/sys"]), *devices] if nodes else []
