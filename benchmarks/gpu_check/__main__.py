"""Run the parts of the check one after another; see the package.

It installs nothing; beside torch and numpy it needs click, safetensors, sentencepiece, ruamel.yaml and brotli, and for
the tests pytest, hypothesis, filelock and rich. DIR gets `gpu_check.json`, all findings with commit and hardware, and
`log.txt`, what the parts printed; nothing else is written. Exit status 1 when a part failed or found no time.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.results import ROOT
from pipeline.base.artifacts import git_commit, write_json

_LEAST_SECONDS = 5.0
"""A part is not begun with less time left than that."""


def main() -> None:
    """Run the parts and end with 1 when one did not pass."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description="What only a GPU can tell.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="what to check")
    parser.add_argument("--size", default="full", choices=("full", "small"), help="small proves that it runs")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all parts together")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="only this one; again")
    options = parser.parse_args()
    chosen = [part for part in PARTS if not options.part or part.name in options.part]

    def command_of(part: Part) -> list[str]:
        return [sys.executable, "-m", "benchmarks.gpu_check.part", part.name, options.device, options.size]

    results = run_parts(chosen, command_of, options.out, options.seconds)
    failed = [name for name, result in results.items() if result["status"] != "passed"]
    sys.exit(f"gpu-check: not passed: {', '.join(failed)}; see {options.out}" if failed else 0)


def run_parts(
    parts: Sequence[Part], command_of: Callable[[Part], Sequence[str]], out: Path, seconds: float
) -> dict[str, dict[str, Any]]:
    """Run parts in order within `seconds`; return and keep in `out` what each found: status, seconds, findings.

    A part's process prints a JSON object per finding once a line has come in on its standard input: it is started while
    the part before it still runs, so that loading its libraries takes no time of its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    with open(out / "log.txt", "w") as log:
        waiting = _start(command_of(parts[0]), log)
        try:
            for number, part in enumerate(parts):
                process = waiting
                if number + 1 < len(parts):
                    waiting = _start(command_of(parts[number + 1]), log)
                result = results[part.name] = {"status": "running", "seconds": 0.0, "findings": {}}
                log.write(f"== {part.name}\n")
                log.flush()
                _run(process, min(part.limit_seconds, end - time.monotonic()), result, lambda: _save(out, results))
                print(f"{part.name}: {result['status']} in {result['seconds']:.1f} s", flush=True)
        finally:
            _kill(waiting)
    return results


def _start(command: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, cwd=ROOT
    )


def _run(process: subprocess.Popen[str], limit: float, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Let a waiting part run for at most `limit` seconds; `result` grows with its findings and gets its status."""
    if limit < _LEAST_SECONDS:
        _kill(process)
        result["status"] = "no time left"
        save()
        return
    assert process.stdin is not None
    assert process.stdout is not None
    started, late = time.monotonic(), threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(limit, stop)
    timer.start()
    with contextlib.suppress(BrokenPipeError):  # it died while it waited: its end says so below
        process.stdin.write("go\n")
        process.stdin.close()
    for line in process.stdout:
        result["findings"].update(json.loads(line))
        result["seconds"] = time.monotonic() - started
        print(" ", line.strip()[:500], flush=True)
        save()
    code = process.wait()
    timer.cancel()
    _kill(process)  # what it started and left behind
    result["seconds"] = time.monotonic() - started
    if late.is_set():
        result["status"] = f"over its limit of {limit:.0f} s"
    elif code:
        result["status"] = f"died of signal {-code}" if code < 0 else f"died with exit status {code}"
    else:
        wrong = [name for name, finding in result["findings"].items() if finding.get("passed") is False]
        result["status"] = f"failed: {', '.join(wrong)}" if wrong else "passed"
    save()


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a part with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _save(out: Path, results: dict[str, dict[str, Any]]) -> None:
    header = {"commit": git_commit(ROOT), "python": platform.python_version()}
    write_json(out / "gpu_check.json", {**header, "parts": results})


if __name__ == "__main__":
    main()
