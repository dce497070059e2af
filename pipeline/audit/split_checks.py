"""Check T10: shards and tokenizer are those that the record states, and val was not trained on.

Checked by: tests/stages/test_audit.py; the search for val text among train shards by tests/data/test_overlap.py.
"""

from typing import Literal

from pipeline.audit.evaluator import Finding, failed, not_applicable, passed
from pipeline.audit.record_files import NO_RUN, Evidence, RecordFolder
from pipeline.audit.untrusted import field, one_line
from pipeline.base.checks import require
from pipeline.data.manifest import fingerprint
from pipeline.data.overlap import RUN_TOKENS, find_overlap, overlap_limit, overlap_line
from pipeline.data.tokenizer import load_tokenizer


def check_split(record: RecordFolder, evidence: Evidence | None, bos_id: int) -> Finding:
    """T10: shards and tokenizer are those of manifest, logs and submission; val was not trained on."""
    if evidence is None:
        return not_applicable(NO_RUN)
    manifest = evidence.report("manifest")
    fault = (
        _digest_fault(record, evidence, manifest)
        or _fingerprint_fault(record, evidence, "val")
        or _fingerprint_fault(record, evidence, "train")
    )
    if fault:
        return failed(fault)
    overlap = find_overlap(evidence.shards("val"), evidence.shards("train"), bos_id)
    require(overlap.documents > 0, "val shards", "no document", f"documents of at least {RUN_TOKENS} tokens")
    summary = overlap.summary(load_tokenizer(record.tokenizer))
    line = overlap_line(summary)
    if limit := overlap_limit(summary):
        return failed(f"{line}; {limit}")
    return passed(f"digests and fingerprints of the splits agree; {line}")


def _digest_fault(record: RecordFolder, evidence: Evidence, manifest: object) -> str | None:
    """Return which val shard, or whether the tokenizer, has one digest on disk and another in manifest or logs."""
    listed = field(manifest, "manifest", "splits", "val", "shards")
    shards = evidence.shards("val")
    if not isinstance(listed, list) or len(listed) != len(shards):
        return f"{len(shards)} val shards, the manifest lists {one_line(len(listed))}"
    wanted = {path.name: field(entry, "manifest: shard", "sha256") for path, entry in zip(shards, listed, strict=True)}
    wanted[record.tokenizer.name] = field(manifest, "manifest", "tokenizer_sha256")
    for path in (*shards, record.tokenizer):
        found = {"file": evidence.digest(path), "manifest": wanted[path.name]}
        found |= {f"log of seed {seed}": record.log(seed).digests.get(path.name) for seed in record.seeds}
        if len({*found.values()}) > 1:
            said = ", ".join(f"{place} {one_line(digest, 16)}" for place, digest in found.items())
            return f"{path.name}: file, manifest and logs do not state one digest ({said})"
    return None


def _fingerprint_fault(record: RecordFolder, evidence: Evidence, split: Literal["train", "val"]) -> str | None:
    """Return how a split's fingerprint differs from what submission.json states; a record may state none."""
    stated = record.record.fields.get("data_fingerprints")
    if stated is None:
        return None
    wanted = field(stated, "submission.json: data_fingerprints", split)
    got = fingerprint(evidence.digest(path) for path in evidence.shards(split))
    if got == wanted:
        return None
    return f"{split} shards: got fingerprint {got}, submission.json states {one_line(wanted, 64)}"
