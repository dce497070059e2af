"""The audit of a record folder: all checks, one verdict, a table.

Checked by: tests/stages/test_audit.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.audit.behaviour import audit_behaviour
from pipeline.audit.evaluator import Finding
from pipeline.audit.record_checks import (
    check_alarms,
    check_implied_bytes,
    check_noise,
    check_provenance,
    check_real_ledgers,
    check_sizes_on_disk,
    check_split,
    check_timers,
    check_walls,
)
from pipeline.audit.record_files import Evidence, RecordFolder
from pipeline.audit.shipped import ShippedFiles, ShippedProgram
from pipeline.audit.streams import StreamMaker
from pipeline.data.tokenizer import load_tokenizer
from pipeline.files import files_below, folder_digest, sha256_of_file
from pipeline.progress import Log

AUDIT_VERSION = "fairway-audit-1"
TITLES = {
    "T1": "every target exactly once",
    "T2": "no score depends on what comes after it",
    "T3": "probabilities add up to one",
    "T4": "bytes are the text's",
    "T5": "declared isolation of documents",
    "T6": "order depends on nothing unscored",
    "T7": "again, on two processes, in other batches: the same",
    "T8": "val and train kept apart, no network",
    "T9": "the artifact does not depend on val",
    "T10": "split hygiene",
    "T11": "provenance: digests and numbers",
    "T12": "causality at many positions",
    "T13": "bytes on disk",
    "T14": "timers",
    "T15": "alarms",
}
"""Check -> what it shows, in the order of docs/legality.md."""


def audit_record(
    folder: Path, environment: Mapping[str, str], tolerance: float, evidence: Evidence | None, log: Log
) -> dict[str, Any]:
    """Return the audit of a record folder; the program runs with the first seed's artifact, files are checked for all.

    `environment`: variables for the program's processes; `tolerance`: nats by which two equal runs may differ, 0 on a
    CPU; `evidence`: files of the run that made the record. Raises ValueError or ShippedError when it cannot be run.
    """
    record = RecordFolder(folder)
    seed = record.seeds[0]
    maker = StreamMaker(load_tokenizer(record.tokenizer))
    program = ShippedProgram(
        ShippedFiles(record.program, record.artifact(seed), record.tokenizer, seed), environment, log
    )
    findings = audit_behaviour(program, maker, tolerance)
    assert program.first is not None
    stream, ledgers = program.first
    items = list(program.protocols)
    printed = program.printed(stream)
    findings["T1"] = both(findings["T1"], check_real_ledgers(record, evidence, items))
    findings["T4"] = both(findings["T4"], check_implied_bytes(record))
    findings["T8"] = check_walls(record, evidence, program.events)
    findings["T9"] = check_noise(record, evidence)
    findings["T10"] = check_split(record, evidence, maker.bos_id)
    findings["T11"] = check_provenance(record, evidence, items, printed, ledgers, tolerance)
    findings["T13"] = check_sizes_on_disk(record)
    findings["T14"] = check_timers(record)
    findings["T15"] = check_alarms(record)
    return {
        "version": AUDIT_VERSION,
        "verdict": "fail" if any(each.verdict == "fail" for each in findings.values()) else "pass",
        "folder_digest": folder_digest(folder),
        "files_sha256": {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files_below(folder)},
        "items": program.protocols,
        "checks": [{"id": check, "title": title, **findings[check]._asdict()} for check, title in TITLES.items()],
    }


def both(first: Finding, second: Finding) -> Finding:
    """Return one finding for two parts of a check: a failure wins, then a pass."""
    for verdict in ("fail", "pass"):
        evidence = [each.evidence for each in (first, second) if each.verdict == verdict]
        if evidence:
            return Finding(verdict, "; ".join(evidence))
    return first


def audit_table(report: Mapping[str, Any]) -> str:
    """Return the audit as Markdown, for a record's README."""
    rows = [f"| {each['id']} | {each['title']} | {each['verdict']} | {each['evidence']} |" for each in report["checks"]]
    return (
        f"## Audit\n\n{report['version']}: **{report['verdict']}**, folder digest `{report['folder_digest'][:16]}`.\n\n"
        "| check | shows | verdict | evidence |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )
