"""Proof that a record runs alone: its program and artifact in an empty folder reproduce the scores it claims.

Checked by: tests/submission/test_prove.py.
"""

import difflib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.checks import FairwayError
from pipeline.progress import Log
from pipeline.submission.bundle import project_imports
from pipeline.submission.minify import unwrap


class ProofError(FairwayError):
    """The shipped program does not reproduce the scores that the record claims."""


def prove(
    folder: Path,
    data_dir: Path,
    tokenizer: Path,
    artifact: str,
    expected_lines: Sequence[str],
    *,
    timeout_seconds: float,
    environment: Mapping[str, str],
    log: Log,
) -> None:
    """Rescore `folder/artifact` with `folder/train_gpt.py --evaluate-only` in a fresh process in an empty folder.

    The process gets those two files, paths of data and tokenizer, and `environment` only. Its output goes to `log` line
    by line. Raises ProofError, in one line, when it fails, takes too long or does not print every expected line.
    """
    program = folder / "train_gpt.py"
    if borrowed := project_imports(unwrap(program.read_bytes())):
        raise ProofError(f"train_gpt.py: imports {', '.join(borrowed)}, which a judge does not have")
    with tempfile.TemporaryDirectory() as empty:
        shutil.copyfile(program, Path(empty, "train_gpt.py"))
        shutil.copyfile(folder / artifact, Path(empty, artifact))
        command = [sys.executable, "-I", "train_gpt.py", "--evaluate-only", artifact]
        command += ["--data", str(data_dir.resolve()), "--tokenizer", str(tokenizer.resolve())]
        printed = _run_lines(command, empty, {"HOME": empty, "TMPDIR": empty, **environment}, timeout_seconds, log)
    for line in expected_lines:
        if line not in printed:
            raise ProofError(f"train_gpt.py --evaluate-only: expected `{line}`, got {_nearest_line(line, printed)}")


def _run_lines(command: list[str], cwd: str, environment: Mapping[str, str], seconds: float, log: Log) -> list[str]:
    """Run a command and return the lines of its output and errors."""
    expired = threading.Event()
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=cwd, env=dict(environment), text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip

        def stop() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\r\n"))
                log(lines[-1])
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    if expired.is_set():
        raise ProofError(f"train_gpt.py --evaluate-only: still running after {seconds:g} s; allow it more time")
    if process.returncode:
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise ProofError(f"train_gpt.py --evaluate-only: exit status {process.returncode}: {last}")
    return lines


def _nearest_line(line: str, printed: Sequence[str]) -> str:
    same_name = [other for other in printed if other.split(" ")[0] == line.split(" ")[0]]
    nearest = same_name or difflib.get_close_matches(line, printed, n=1)
    return f"`{nearest[-1]}`" if nearest else "nothing like it"
