"""Does a record folder say what its own files say? Every finding, worst first, and how much was compared.

The one idea: every number of a record is stated at several places; where two of them are present they must agree, and
what is stated once is reported as such, not as passed. Nothing is trusted and nothing is run unasked, so that it works
on any folder of the challenge, ours or not. What is compared with what: `pipeline.verification.claims`.

Checked by: tests/verification/test_verify.py.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.checks import counted
from pipeline.record.prove import ProofError
from pipeline.verification.claims import CLAIMS
from pipeline.verification.fields import NAME
from pipeline.verification.findings import Finding, finding, worst_first
from pipeline.verification.folder import Record, read_record
from pipeline.verification.program import ShippedCode, read_program


def verify_folder(folder: Path, start: Callable[[Path, ShippedCode], Finding] | None = None) -> list[Finding]:
    """Return every finding of a record folder, worst first; ValueError when it is no folder.

    `start`: tries whether the program starts; without it nothing is run.
    """
    record = read_record(folder)
    program = read_program(record)
    found = [each for claims in CLAIMS.values() for each in claims(record, program)]
    if start:
        found.append(start(record.program, program))
    return worst_first([*record.findings, *_missing(record), *program.findings, *found])


def _missing(record: Record) -> Iterator[Finding]:
    if NAME not in record.listing.sizes and not any(each.message.startswith(NAME) for each in record.findings):
        is_scored = any(run.scores for run in record.all_runs)
        said = f"{NAME}: not there, though logs state scores" if is_scored else f"{NAME}: not there"
        yield finding("files", "contradiction" if is_scored else "not stated", said)


def counts_of(findings: Sequence[Finding]) -> tuple[int, int, int]:
    """Return how many statements were compared with something, how many there are, and how many are contradicted."""
    stated = [each for each in findings if each.stated is not None]
    compared = [each for each in stated if each.found is not None]
    return len(compared), len(stated), sum(each.verdict == "contradiction" for each in findings)


def exit_code_of(findings: Sequence[Finding]) -> int:
    """Return 0 when something was compared and nothing contradicts, 1 for contradictions, 3 for nothing compared."""
    compared, _, contradictions = counts_of(findings)
    return 1 if contradictions else 0 if compared else 3


def verify_table(findings: Sequence[Finding]) -> str:
    """Return the findings as aligned text, one line each, and a last line that counts."""
    compared, stated, contradictions = counts_of(findings)
    width = max((len(each.check) for each in findings), default=0)
    lines = [f"{each.verdict:13}  {each.check:{width}}  {each.message}" for each in findings]
    return "\n".join(
        [*lines, f"compared {compared} of {stated} statements, {counted(contradictions, 'contradiction')}"]
    )


def verify_report(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as plain data for JSON."""
    compared, stated, _ = counts_of(findings)
    return {"findings": [each.plain() for each in findings], "compared": compared, "stated": stated}


def require_agreement(folder: Path) -> None:
    """Raise ProofError for the first contradiction of a folder that was just made."""
    for each in verify_folder(folder):
        if each.verdict == "contradiction":
            raise ProofError(f"{each.check}: {each.message}; run `dvc repro`")
