"""Does a record folder say what its own files say? Sizes, digests, numbers, implied bytes, a program that starts.

The one idea: every number of a record is stated at several places; where two of them are present they must agree, and
what is stated nowhere is reported as such, not as passed. Nothing is trusted and nothing but `train_gpt.py --help` is
run, so that it works on any folder of the challenge, ours or not. What is compared with what: `pipeline.record.claims`.

Checked by: tests/record/test_verify.py.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.launching.workplace import kill_group, workplace
from pipeline.record.claims import CLAIMS, Claim
from pipeline.record.folder import read_record
from pipeline.record.ship import unwrap

START_SECONDS = 120.0
"""Time that `train_gpt.py --help` may take."""

Verdict = Literal["ok", "FAIL", "not stated"]


class Check(NamedTuple):
    """One line of the table."""

    name: str
    verdict: Verdict
    evidence: str


def verify_folder(folder: Path, environment: Mapping[str, str]) -> list[Check]:
    """Return all checks of a record folder; `environment`: variables for the program's process.

    Raises ValueError when the folder holds no train_gpt.py, or anything but files and folders.
    """
    return [*check_statements(folder), _check("program", list(_program(folder / "train_gpt.py", environment)))]


def check_statements(folder: Path) -> list[Check]:
    """Return the checks that run nothing; raises ValueError when the folder holds no train_gpt.py."""
    record = read_record(folder)
    return [_check(name, list(claims(record))) for name, claims in CLAIMS.items()]


def verify_table(checks: list[Check]) -> str:
    """Return the checks as aligned text, one line each."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:{width}}  {check.verdict:10}  {check.evidence:.2000}" for check in checks)


def _check(name: str, claims: list[Claim]) -> Check:
    """Return one line: the first claim that fails, else all that hold."""
    for evidence, holds in claims:
        if holds is False:
            return Check(name, "FAIL", evidence)
    held = list(dict.fromkeys(evidence for evidence, holds in claims if holds))
    if held:
        return Check(name, "ok", "; ".join(held))
    return Check(name, "not stated", claims[0][0] if claims else "nothing to compare")


def _program(program: Path, environment: Mapping[str, str]) -> Iterator[Claim]:
    try:
        source = unwrap(program.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "train_gpt.py", "exec")
    except Exception as error:  # any failure of foreign code to be read is the finding
        yield f"train_gpt.py does not compile: {type(error).__name__}: {str(error)[:100]}", False
        return
    if "ArgumentParser" not in source:
        yield "compiles; has no command line to try", True
        return
    yield _start(program, environment)


def _start(program: Path, environment: Mapping[str, str]) -> Claim:
    """Return whether `train_gpt.py --help` works alone in an empty folder."""
    with workplace() as place:
        (place.folder / "train_gpt.py").write_bytes(program.read_bytes())
        home = {"HOME": str(place.folder), "TMPDIR": str(place.folder)}
        with place.start(
            [sys.executable, "-I", "train_gpt.py", "--help"],
            env={**home, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            errors="replace",
        ) as process:
            try:
                _, said = process.communicate(timeout=START_SECONDS)
            except subprocess.TimeoutExpired:
                return f"train_gpt.py --help: no end within {START_SECONDS:g} s", False
            finally:
                kill_group(process)
    last = (said.strip().splitlines() or ["no output"])[-1][:120]
    return ("starts alone" if process.returncode == 0 else f"train_gpt.py --help: {last}"), process.returncode == 0
