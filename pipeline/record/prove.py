"""Proof that a record runs alone: its program and artifact in an empty folder reproduce the scores it claims.

Checked by: tests/record/test_prove.py.
"""

import ast
import difflib
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.base.checks import FairwayError
from pipeline.base.closure import is_project
from pipeline.base.progress import Log
from pipeline.launching.workplace import Workplace, kill_group, workplace
from pipeline.record.ship import unwrap

_DIGEST = "sha256 "


class ProofError(FairwayError):
    """The shipped program does not reproduce the scores that the record claims."""


def prove(
    folder: Path,
    data_dir: Path,
    tokenizer: Path,
    artifact: str,
    expected_lines: Sequence[str],
    *,
    seed: int,
    environment: Mapping[str, str],
    log: Log,
    timeout_seconds: float | None = None,
) -> None:
    """Rescore `folder/artifact` with `folder/train_gpt.py --evaluate-only` in a fresh process in an empty folder.

    The process gets those two files, paths of data and tokenizer, the seed, and `environment` only. Its output goes to
    `log` line by line; by default it may take as long as it needs.
    Raises ProofError, in one line, when it fails, takes too long or does not print every expected line.
    """
    program = folder / "train_gpt.py"
    if borrowed := project_imports(unwrap(program.read_bytes())):
        raise ProofError(f"train_gpt.py: imports {', '.join(borrowed)}, which a judge does not have")
    with workplace() as place:
        shutil.copyfile(program, place.folder / "train_gpt.py")
        shutil.copyfile(folder / artifact, place.folder / artifact)
        command = [sys.executable, "-I", "train_gpt.py", "--evaluate-only", artifact]
        command += ["--seed", str(seed), "--data", str(data_dir.resolve()), "--tokenizer", str(tokenizer.resolve())]
        home = str(place.folder)
        printed = _run_lines(command, place, {"HOME": home, "TMPDIR": home, **environment}, timeout_seconds, log)
    for line in expected_lines:
        if line not in printed:
            nearest = _nearest_line(line, printed)
            raise ProofError(f"train_gpt.py --evaluate-only: expected `{line}`, got {nearest}; {_remedy_for(line)}")


def project_imports(source: str) -> list[str]:
    """Return the project's own modules that `source` imports at any depth, sorted; a program has none."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if is_project(alias.name))
        elif isinstance(node, ast.ImportFrom) and (node.level or is_project(node.module)):
            names.add("." * node.level + (node.module or ""))
    return sorted(names)


def _run_lines(
    command: list[str], place: Workplace, environment: Mapping[str, str], seconds: float | None, log: Log
) -> list[str]:
    """Run a command and return the lines of its output and errors."""
    expired = threading.Event()
    lines: list[str] = []
    with place.start(
        command, env=dict(environment), text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:

        def stop() -> None:
            expired.set()
            kill_group(process)

        timer = threading.Timer(seconds or 0, stop)
        if seconds is not None:
            timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\r\n"))
                log(lines[-1])
        except BaseException:
            kill_group(process)
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
    label = _label(line)
    same_name = [other for other in printed if _label(other) == label]
    nearest = same_name or difflib.get_close_matches(line, printed, n=1)
    return f"`{nearest[-1]}`" if nearest else "nothing like it"


def _label(line: str) -> str:
    """Return what a line is about: the name after a digest, else its first word."""
    return line.split(" ", 2)[-1] if line.startswith(_DIGEST) else line.split(" ")[0]


def _remedy_for(line: str) -> str:
    if line.startswith(_DIGEST):
        return "an input changed since the stages ran: run `dvc repro`"
    return "scores come from another machine or thread count? run `dvc repro -sf evaluate` here"
