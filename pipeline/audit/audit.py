"""The audit of a record folder: all checks, one verdict, a table.

Checked by: tests/stages/test_audit.py.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.audit.behaviour import audit_behaviour
from pipeline.audit.evaluator import Finding, Ledgers, judged
from pipeline.audit.number_checks import (
    check_alarms,
    check_claims,
    check_provenance,
    check_real_bytes,
    check_real_ledgers,
    check_timers,
)
from pipeline.audit.processes import Event, ShippedError
from pipeline.audit.record_files import Evidence, RecordFolder
from pipeline.audit.shipped import ShippedFiles, ShippedProgram
from pipeline.audit.split_checks import check_split
from pipeline.audit.streams import StreamMaker
from pipeline.audit.untrusted import one_line
from pipeline.audit.walls_checks import check_chain, check_program, check_walls
from pipeline.base.checks import FairwayError, require
from pipeline.base.files import atomic_folder, files_below, folder_digest, require_plain_files, sha256_of_file
from pipeline.base.progress import Log
from pipeline.data.tokenizer import load_tokenizer

AUDIT_VERSION = "fairway-audit-4"
_LONGEST_EVIDENCE = 500
TITLES = {
    "T1": "every target exactly once",
    "T2": "no score depends on what comes after it",
    "T3": "probabilities add up to one",
    "T4": "bytes are the text's",
    "T5": "declared isolation of documents",
    "T6": "order depends on nothing unscored",
    "T7": "again, on several processes, in other batches: the same",
    "T8": "val and train kept apart, no network",
    "T9": "the artifact comes from train shards and tokenizer",
    "T10": "split hygiene",
    "T11": "provenance: digests and numbers",
    "T12": "causality at many positions",
    "T13": "bytes on disk",
    "T14": "timers",
    "T15": "alarms",
}
"""Check -> what it shows, in the order of docs/legality.md."""


class Machine(NamedTuple):
    """What the auditor's machine lends to the program."""

    environment: Mapping[str, str]
    """Variables for the program's processes."""
    num_processes: int
    """Of the run that T7 compares with one process."""
    tolerance: float
    """Nats by which two equal runs may differ: 0 on a CPU."""
    timeout_seconds: float
    """How long one start of the program may take."""
    sandboxed: bool
    """Whether the program runs in the sandbox, where `require_sandbox` has found one; its scores are the same."""
    side_by_side: int = 1
    """One-process programs that run at a time."""


def audit_record(folder: Path, machine: Machine, evidence: Evidence | None, log: Log) -> dict[str, Any]:
    """Return the audit of a record folder; the program runs with the first seed's artifact, files are checked for all.

    `evidence`: files of the run that made the record. Raises ValueError or ShippedError, one line, when the folder is
    no record or its program cannot be run; whatever else is damaged fails the check that looks at it.
    """
    record = RecordFolder(folder)
    seed = record.seeds[0]
    files = ShippedFiles(record.program, record.artifacts[seed], record.tokenizer, seed)
    program = ShippedProgram(
        files, machine.environment, machine.timeout_seconds, log, machine.side_by_side, sandboxed=machine.sandboxed
    )
    try:
        maker = StreamMaker(load_tokenizer(record.tokenizer))
        findings = audit_behaviour(program, maker, machine.tolerance, machine.num_processes)
    except FairwayError:
        raise
    except Exception as error:  # whatever a foreign tokenizer or ledger makes of our questions
        raise ShippedError(
            f"{folder}: its program cannot be asked: {type(error).__name__}: {one_line(error)}"
        ) from None
    assert program.first is not None
    stream, ledgers = program.first
    seen = Seen(program.protocols, program.printed(stream), ledgers, program.events, program.silenced)
    for check, found in file_findings(record, evidence, seen, maker.bos_id, machine.tolerance, log).items():
        findings[check] = merged(findings[check], found) if check in findings else found
    tidy = {
        check: each._replace(evidence=one_line(each.evidence, _LONGEST_EVIDENCE)) for check, each in findings.items()
    }
    code_bytes = record.program.stat().st_size
    return {
        "version": AUDIT_VERSION,
        "verdict": "fail" if any(each.verdict == "fail" for each in tidy.values()) else "pass",
        "tolerance_nats": machine.tolerance,
        "code_bytes": code_bytes,
        "total_bytes": code_bytes + max(artifact.stat().st_size for artifact in record.artifacts.values()),
        "folder_digest": folder_digest(folder),
        "files_sha256": {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files_below(folder)},
        "items": program.protocols,
        "checks": [{"id": check, "title": title, **tidy[check]._asdict()} for check, title in TITLES.items()],
    }


class Seen(NamedTuple):
    """What was seen of the program besides its scores of the streams."""

    protocols: Mapping[str, Mapping[str, Any]]
    """Item -> the protocol that the program declares."""
    printed: Sequence[str]
    """Its lines for one stream when no ledger was asked for."""
    ledgers: Ledgers
    """Its ledgers of that stream."""
    events: Collection[Event]
    silenced: int
    """Processes that stopped telling of events before they ended."""


def file_findings(
    record: RecordFolder, evidence: Evidence | None, seen: Seen, bos_id: int, tolerance: float, log: Log
) -> dict[str, Finding]:
    """Return what files, logs and digests show, by check: T8 to T11, T13 to T15, and parts of T1 and T4."""
    items = seen.protocols
    judges: list[tuple[str, Callable[[], Finding]]] = [
        ("T1", lambda: check_real_ledgers(record, evidence, items)),
        ("T4", lambda: check_claims(record, "implied bytes")),
        ("T4", lambda: check_real_bytes(record, evidence, items)),
        ("T8", lambda: check_program(seen.events, seen.silenced)),
        ("T8", lambda: check_walls(record, evidence, list(items))),
        ("T9", lambda: check_chain(record, evidence, list(items))),
        ("T10", lambda: check_split(record, evidence, bos_id)),
        ("T11", lambda: check_claims(record, "digests", "scores", "means", "statistics", "counts", "README")),
        ("T11", lambda: check_provenance(record, evidence, items, seen.printed, seen.ledgers, tolerance)),
        ("T13", lambda: check_claims(record, "code size", "artifact size", "total size")),
        ("T14", lambda: check_timers(record, evidence, list(items))),
        ("T15", lambda: check_alarms(record, evidence)),
    ]
    findings: dict[str, Finding] = {}
    for check, judge in judges:
        if check not in findings:
            log(f"{check}, {TITLES[check]}")
        found = judged(judge)
        findings[check] = merged(findings[check], found) if check in findings else found
    return findings


def merged(*findings: Finding) -> Finding:
    """Return one finding for the parts of a check: a failure wins, then a pass."""
    for verdict in ("fail", "pass"):
        evidence = [each.evidence for each in findings if each.verdict == verdict]
        if evidence:
            return Finding(verdict, "; ".join(evidence))
    return findings[0]


def audit_table(report: Mapping[str, Any]) -> str:
    """Return the audit as Markdown, for a record's README."""
    rows = [f"| {each['id']} | {each['title']} | {each['verdict']} | {each['evidence']} |" for each in report["checks"]]
    return (
        f"## Audit\n\n{report['version']}: **{report['verdict']}**, folder digest `{report['folder_digest'][:16]}`.\n\n"
        "| check | shows | verdict | evidence |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


def audit_metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the few figures of an audit that runs are compared by."""
    verdicts = [check["verdict"] for check in report["checks"]]
    counts = {"failed_checks": verdicts.count("fail"), "alarms": verdicts.count("alarm")}
    return {key: report[key] for key in ("verdict", "code_bytes", "total_bytes")} | counts


def state_audit(folder: Path, report: Mapping[str, Any], target: Path) -> None:
    """Write a copy of an audited record folder to `target`, with its audit stated; an older copy is replaced.

    A folder cannot state its own digest, so the audit names the folder as it was audited, and what is added afterwards
    is the audit alone: audit.json, a table at the end of README.md, the verdicts in submission.json.
    `report`: what `audit_record` returned for `folder`. Raises ValueError when the folder has changed since.
    """
    verdicts = [{"id": check["id"], "verdict": check["verdict"]} for check in report["checks"]]
    require_plain_files(folder)
    with atomic_folder(target) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, symlinks=True)
        digest, audited = folder_digest(partial), report["folder_digest"]
        require(digest == audited, str(folder), f"digest {digest[:16]}", f"{audited[:16]}, as audited: audit it again")
        submission = json.loads((partial / "submission.json").read_text("utf-8"))
        submission["audit"] = {"version": report["version"], "checks": verdicts}
        for name, content in (("submission.json", submission), ("audit.json", report)):
            (partial / name).write_bytes((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        with open(partial / "README.md", "ab") as readme:
            readme.write(f"\n{audit_table(report)}".encode())
