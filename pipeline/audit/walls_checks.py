"""Checks T8 and T9: what program and stages could touch, and whose files the record's weights come from.

One idea: an artifact is as clean as the chain that made it. Every stage's report names by digest what the stage read
and wrote; T9 follows the chain file by file from the artifact to the train shards and the tokenizer, and a report that
does not name the file that lies there is a broken link. T8 asks whether every stage on it ran with its walls up.

Source: pipeline/launching/firewall.py for the walls; pipeline/base/artifacts.py for the reports.
Checked by: tests/stages/test_audit.py.
"""

from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pipeline.audit.evaluator import Finding, failed, not_applicable, passed
from pipeline.audit.guard import CHILD_EVENTS, FILE_EVENTS
from pipeline.audit.processes import Event
from pipeline.audit.record_files import NO_RUN, Evidence, RecordFolder
from pipeline.audit.shipped import TRAIN_SHARD
from pipeline.audit.untrusted import field, one_line
from pipeline.base.artifacts import path_of
from pipeline.base.checks import counted
from pipeline.launching.firewall import is_address_local, is_host_local

_HONEST_CHILD = ["/sbin/ldconfig", "-p"]
"""How torch built for CUDA looks for its libraries when it is imported; an honest program starts nothing else."""
_SEALED = {
    "train_report": "val_shards",
    "calibrate_report": "val_shards",
    "quantize_report": "val_shards",
    "scores": "train_shards",
}
"""Report of a stage -> what must have been sealed for it."""


def check_program(events: Collection[Event], silenced: int) -> Finding:
    """T8: scoring opened no train shard, reached nobody and started nothing.

    `events`: what the program told its guard; `silenced`: its processes that stopped telling before they ended.
    """
    if silenced:
        return failed(
            f"{counted(silenced, 'process', 'es')} of the program stopped telling what they do before they ended"
        )
    faults = (fault for event in sorted(events) if (fault := event_fault(event)))
    if fault := next(faults, None):
        return failed(f"the program {fault} while it scored")
    return passed("the program opened no train shard, reached nobody and started nothing while it scored")


def check_walls(record: RecordFolder, evidence: Evidence | None, items: Collection[str]) -> Finding:
    """T8: each stage ran with its walls up, as its report says."""
    if evidence is None:
        return passed("stages: not at hand")
    for seed in record.seeds:
        for name, sealed in _SEALED.items():
            for item in items if name == "scores" else ("",):
                report = evidence.report(name, seed=seed, item=item)
                walls = field(report, f"{name} {item}", "provenance", "firewall", "sealed")
                if not isinstance(walls, list) or path_of(sealed).as_posix() not in walls:
                    return failed(f"seed {seed}: {f'{name} {item}'.strip()} ran without {path_of(sealed)} sealed")
    return passed("every stage ran with its walls up")


def check_chain(record: RecordFolder, evidence: Evidence | None, items: Collection[str]) -> Finding:
    """T9: the artifact that ships comes, link by link, from train shards and tokenizer; its scores are its own."""
    if evidence is None:
        return not_applicable(NO_RUN)
    for seed in record.seeds:
        for link in _chain(record, evidence, seed, items):
            if link.digest != evidence.digest(link.file):
                return failed(
                    f"seed {seed}: {link.stated_by} does not state the digest of {link.file.name} "
                    f"({one_line(link.digest)[:12]} instead of {evidence.digest(link.file)[:12]})"
                )
    return passed("artifact, statistics, checkpoint, shards and tokenizer form one chain of digests")


def event_fault(event: Event) -> str | None:
    """Return what a program must not have done, in words; None for an event that an honest one may cause."""
    values, shown = event.values, f"{event.name} {one_line(event.arguments)}"
    if event.name in FILE_EVENTS:
        paths = [PurePath(each).name for each in values if isinstance(each, str)]
        return f"touched a train shard ({shown})" if TRAIN_SHARD in paths else None
    if event.name in CHILD_EVENTS:
        is_honest = values[:2] in ([_HONEST_CHILD[0], _HONEST_CHILD], [_HONEST_CHILD[:1], _HONEST_CHILD])
        return None if is_honest else f"started a process ({shown})"
    if event.name in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return None if is_host_local(values[0]) else f"looked a host up ({shown})"
    address = values[0] if event.name == "socket.getnameinfo" else values[1]
    return None if is_address_local(address) else f"reached out ({shown})"


class _Link(NamedTuple):
    """One digest of the chain: who states it, of which file."""

    stated_by: str
    digest: Any
    file: Path


def _chain(record: RecordFolder, evidence: Evidence, seed: int, items: Collection[str]) -> Iterator[_Link]:
    """Yield the links from the artifact that ships back to the shards, then from its scores back to it."""
    quantize, calibrate, train = (
        (f"{stage}'s report", evidence.report(f"{stage}_report", seed=seed))
        for stage in ("quantize", "calibrate", "train")
    )
    manifest, artifact = evidence.report("manifest"), record.artifacts[seed]
    yield _Link(quantize[0], field(quantize[1], quantize[0], "artifact_sha256"), artifact)
    for (stage, report), side, name in (
        (quantize, ("provenance", "inputs_sha256"), "hessians"),
        (calibrate, ("outputs_sha256",), "hessians"),
        (quantize, ("provenance", "inputs_sha256"), "checkpoint"),
        (calibrate, ("provenance", "inputs_sha256"), "checkpoint"),
        (train, ("outputs_sha256",), "checkpoint"),
        (calibrate, ("provenance", "inputs_sha256"), "manifest"),
        (train, ("provenance", "inputs_sha256"), "manifest"),
    ):
        stated = field(report, stage, *side, path_of(name, seed=seed).as_posix())
        yield _Link(stage, stated, evidence.path(name, seed=seed))
    yield _Link("the manifest", field(manifest, "manifest", "tokenizer_sha256"), record.tokenizer)
    listed = field(manifest, "manifest", "splits", "train", "shards")
    for number, path in enumerate(evidence.shards("train")):
        yield _Link("the manifest", field(listed, "manifest: train shards", number, "sha256"), path)
    for item in items:
        scores, stage = evidence.report("scores", seed=seed, item=item), f"the report of item {item}"
        for name, file in (("model", artifact), ("manifest", evidence.path("manifest"))):
            stated = field(scores, stage, "provenance", "inputs_sha256", path_of(name, seed=seed).as_posix())
            yield _Link(stage, stated, file)
