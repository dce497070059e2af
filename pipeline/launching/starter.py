"""Starts a stranger's programs side by side and tells how they ended: the first process of a sandbox, or a plain one.

One idea: somebody of ours is in there. In a sandbox the kernel ends everything when its first process ends, which is
this one and not the stranger's; and nobody without capabilities can trace it, so that none of the programs can make it
stay, or undo that it ends with whoever started it. Standard library only: its text is handed to
`python -c TEXT REQUEST`, where no file of ours is to be seen.

Checked by: tests/launching/test_sandbox.py.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import Any

_SET_DUMPABLE = 4
"""Of prctl: whether others may trace this process and open its descriptors."""
_POLL_SECONDS = 0.02


def run_side_by_side(request: dict[str, Any]) -> list[int | None]:
    """Run programs within limits until all have ended or one has failed; return their exit statuses, None if running.

    `request`: `limits`, most by name of the resource, for this process and all that it starts; `programs`, a list of
    `pipeline.launching.foreign.Program` as plain data.
    """
    for name, most in request["limits"].items():
        limit(name, most)
    started = [
        subprocess.Popen(
            each["command"],
            env=each["environment"],
            stdout=each["stdout"],
            stderr=each["stderr"],
            pass_fds=each["descriptors"],
        )
        for each in request["programs"]
    ]
    statuses: list[int | None] = [None] * len(started)
    running = {process.pid: number for number, process in enumerate(started)}
    while running and not any(statuses):
        ended, status = os.waitpid(-1, os.WNOHANG)  # the first process of a sandbox is handed orphans, too
        if ended in running:
            statuses[running.pop(ended)] = os.waitstatus_to_exitcode(status)
        elif not ended:
            require_few(request["limits"].get("RLIMIT_NPROC"))
            time.sleep(_POLL_SECONDS)
    return statuses


def require_few(most: int | None) -> None:
    """Exit when more processes and threads than `most` are to be seen: in a sandbox, its own.

    The limit of the same name does not hold for root.
    """
    if most is None:
        return
    seen = 0
    for process in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            seen += len(os.listdir(f"/proc/{process}/task"))
        if seen > most:
            sys.exit(f"more than {most} processes and threads")


def limit(name: str, most: int) -> None:
    """Set a limit of this process and of all that it starts for good, to `most` or to what is allowed already."""
    kind = getattr(resource, name)
    _, allowed = resource.getrlimit(kind)
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what the kernel spares the first process of a sandbox
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    print(json.dumps(run_side_by_side(json.loads(sys.argv[1]))), flush=True)
