"""Checks T1, T4 and T11 of the real run: every number that a record states, recomputed from rows and files.

One idea: the truth is the ledgers' rows and the val shards. Score lines, submission.json and README are only what is
said of them, and a line more than there are scores is as wrong as a wrong one.

Checked by: tests/stages/test_audit.py.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, failed, not_applicable, passed
from pipeline.audit.record_files import Evidence, RealLedger, RecordFolder, Score, scores_in
from pipeline.audit.split_checks import ANY_VOCABULARY, NO_RUN
from pipeline.audit.untrusted import field, one_line, stated_number
from pipeline.base.files import sha256_of_file
from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.data.shards import open_shard
from pipeline.data.tokenizer import load_tokenizer

PRINTED = 1e-8
"""Resolution of the numbers in a log."""

Protocols = Mapping[str, Mapping[str, Any]]
"""Item -> the protocol that the program declares."""


def check_real_ledgers(record: RecordFolder, evidence: Evidence | None, items: Protocols) -> Finding:
    """T1: the ledgers of the real run hold every target of the manifest once, with nats that are a probability's."""
    if evidence is None:
        return not_applicable(NO_RUN)
    num_targets = stated_number(evidence.report("manifest"), "manifest", "splits", "val", "targets")
    for seed in record.seeds:
        for item in items:
            ledger, where = evidence.ledger(seed, item), f"seed {seed}, {item}"
            is_all = len(ledger.targets) == num_targets
            if not is_all or not np.array_equal(np.sort(ledger.targets), np.arange(len(ledger.targets))):
                return failed(f"{where}: {len(ledger.targets)} rows are not the {num_targets} targets, each once")
            if ledger.unsound:
                return failed(f"{where}: {ledger.unsound} rows with nats that are negative or no finite number")
    return passed(f"real run: {num_targets} targets once")


def check_implied_bytes(record: RecordFolder) -> Finding:
    """T4: every score line of a log implies the bytes that the record states."""
    for seed in record.seeds:
        stated = record.of_seed(seed, "eval_bytes")
        for score in record.scores(seed):
            loss, bpb = float(score.val_loss), float(score.val_bpb)
            if not (loss > 0 and bpb > 0):
                return failed(f"seed {seed}: a score line states {loss} nats and {bpb} bpb, which imply no bytes")
            implied = record.of_seed(seed, "target_tokens") * loss / (math.log(2) * bpb)
            allowed = 1 + 2 * implied * PRINTED / min(loss, bpb)
            if not abs(implied - stated) <= allowed:
                return failed(f"seed {seed}: a score line implies {implied:.0f} bytes, stated are {stated}")
    return passed("the logs' score lines imply the stated bytes")


def check_real_bytes(record: RecordFolder, evidence: Evidence | None, items: Protocols) -> Finding:
    """T4: each row of the real ledgers holds the bytes of its target in the val shards; their sum is the manifest's."""
    if evidence is None:
        return not_applicable(NO_RUN)
    table = byte_table(load_tokenizer(record.tokenizer))
    tokens_M = np.concatenate([open_shard(path, ANY_VOCABULARY, check_ids=False) for path in evidence.shards("val")])
    expected_N = count_bytes(tokens_M, table)
    split = field(evidence.report("manifest"), "manifest", "splits", "val")
    counted = {"targets": len(expected_N), "tokens": len(tokens_M), "bytes": int(expected_N.sum())}
    for key, value in counted.items():
        if stated_number(split, "manifest: val", key) != value:
            return failed(f"the val shards hold {value} {key}, the manifest states {one_line(split[key])}")
    for seed in record.seeds:
        for item in items:
            ledger = evidence.ledger(seed, item)
            inside = (ledger.targets >= 0) & (ledger.targets < len(expected_N))
            wrong = ledger.bytes_by_row[inside] != expected_N[ledger.targets[inside]]
            if wrong.any():
                return failed(
                    f"seed {seed}, {item}: {int(wrong.sum())} rows with other bytes than their targets stand "
                    f"for, first target {ledger.targets[inside][wrong][0]}"
                )
    return passed(f"real run: {counted['bytes']} bytes, target by target those of the val shards")


def check_provenance(
    record: RecordFolder,
    evidence: Evidence | None,
    items: Protocols,
    printed: Sequence[str],
    first: Ledgers,
    tolerance: float,
) -> Finding:
    """T11: digests in the logs are the files'; numbers in logs, submission.json and README are the ledgers'.

    `printed`: what the program printed for a stream when no ledger was asked for; `first`: its ledgers.
    """
    faults = [
        fault
        for seed in record.seeds
        for fault in (
            _digest_fault(record, seed),
            _log_fault(record, seed, list(items)),
            _ledger_fault(record, evidence, seed, items) if evidence else None,
        )
    ]
    faults += [_summary_fault(record), _program_fault(record, printed, first, tolerance)]
    found = next((fault for fault in faults if fault), None)
    return (
        failed(found)
        if found
        else passed(
            "digests, scores and README are those of files, logs and ledgers; the program prints what its ledger holds"
        )
    )


def _digest_fault(record: RecordFolder, seed: int) -> str | None:
    """Return which file's digest the log does not state."""
    digests = record.digests(seed)
    for path in (record.program, record.artifact(seed), record.tokenizer):
        if digests.get(path.name) != sha256_of_file(path):
            return f"train_seed{seed}.log: the digest of {path.name} is not the file's"
    return None


def _log_fault(record: RecordFolder, seed: int, items: Sequence[str]) -> str | None:
    """Return in what log, submission.json and README differ, or what a log states besides one score per item."""
    scores, log = record.scores(seed), f"train_seed{seed}.log"
    in_readme = {item: stated for (stated_seed, item), stated in record.readme_items.items() if stated_seed == seed}
    if set(in_readme) != set(items):
        return f"README.md: its table states {one_line(sorted(in_readme))} of seed {seed}, the items are {items}"
    if sorted(scores) != sorted(stated.score for stated in in_readme.values()):
        return f"{log}: {len(scores)} score lines, which are not those of README.md, one for each of {len(items)} items"
    if record.headline not in items or in_readme[record.headline].score != scores[-1]:
        return f"{log}: its last score is not that of the headline {one_line(record.headline)}"
    headline = Score(*(f"{record.of_seed(seed, key):.8f}" for key in Score._fields))
    if headline != scores[-1]:
        return f"submission.json, seed {seed}: {headline.val_bpb} bpb, its log ends at {scores[-1].val_bpb}"
    for key, label in (("val_tokens", "val_tokens:"), ("target_tokens", "target_tokens:")):
        if set(record.numbers(seed, label)) != {record.of_seed(seed, key)}:
            return f"{log}: {label} {record.numbers(seed, label)}, submission.json states {record.of_seed(seed, key)}"
    for item, stated in in_readme.items():
        if (stated.targets, stated.bytes) != (
            record.of_seed(seed, "target_tokens"),
            record.of_seed(seed, "eval_bytes"),
        ):
            return f"README.md, seed {seed}, {item}: {stated.targets} targets and {stated.bytes} bytes are not stated"
    return _gap_fault(record, seed, scores)


def _gap_fault(record: RecordFolder, seed: int, scores: Sequence[Score]) -> str | None:
    """Return a fault in what submission.json states of the model before and after quantization."""
    results = field(record.submission, "submission.json", "seed_results", str(seed))
    before, after = (field(results, f"seed {seed}", f"{name}_val_bpb") for name in ("pre_quant", "quantized"))
    line = record.float_score(seed)
    if before is not None and (line is None or f"{record.of_seed(seed, 'pre_quant_val_bpb'):.8f}" != line.val_bpb):
        return f"submission.json, seed {seed}: pre_quant_val_bpb {one_line(before)} is not that of its log"
    known = {score.val_bpb for score in scores}
    if after is not None and f"{record.of_seed(seed, 'quantized_val_bpb'):.8f}" not in known:
        return f"submission.json, seed {seed}: quantized_val_bpb {one_line(after)} is no score of its log"
    return None


def _ledger_fault(record: RecordFolder, evidence: Evidence, seed: int, items: Protocols) -> str | None:
    """Return which stated number is not that of the run's ledgers and manifest."""
    split = field(evidence.report("manifest"), "manifest", "splits", "val")
    for item, protocol in items.items():
        ledger, stated = evidence.ledger(seed, item), record.readme_items[seed, item]
        if ledger.protocol != protocol:
            return f"seed {seed}, {item}: the ledger's protocol is not the one that the program declares"
        if not _equal(ledger.score, stated.score):
            return f"seed {seed}, {item}: stated {stated.score.val_bpb} bpb, its ledger holds {ledger.score.val_bpb}"
        if fault := _count_fault(record, seed, ledger, split):
            return f"seed {seed}, {item}: {fault}"
    path = evidence.path("ledger", seed=seed, item="float")
    line = record.float_score(seed)
    if line and path.is_file() and not _equal(evidence.ledger(seed, "float").score, line):
        return f"train_seed{seed}.log: the float model's {line.val_bpb} bpb are not those of its ledger"
    return None


def _equal(first: Score, second: Score) -> bool:
    """Return whether scores agree to the last digit that is printed, but for its rounding."""
    return all(abs(float(a) - float(b)) <= 1.5 * PRINTED for a, b in zip(first, second, strict=True))


def _count_fault(record: RecordFolder, seed: int, ledger: RealLedger, split: Any) -> str | None:
    """Return which count differs between ledger, manifest and submission.json."""
    counts = {
        "eval_bytes": ("bytes", ledger.bytes),
        "target_tokens": ("targets", len(ledger.targets)),
        "val_tokens": ("tokens", len(ledger.targets) + 1),
    }
    for key, (name, held) in counts.items():
        stated, in_manifest = record.of_seed(seed, key), stated_number(split, "manifest: val", name)
        if not stated == in_manifest == held:
            return f"{key}: submission.json states {stated}, the manifest {in_manifest}, the ledger holds {held}"
    return None


def _summary_fault(record: RecordFolder) -> str | None:
    """Return which number over all seeds is not computed from the seeds' own."""
    for key in ("val_loss", "val_bpb"):
        values = [record.of_seed(seed, key) for seed in record.seeds]
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        if not abs(record.stated(key) - mean) <= PRINTED:
            return f"submission.json: {key} {record.stated(key)} is not the seeds' mean of {mean:.8f}"
        stated_std = field(record.submission, "submission.json", f"{key}_std")
        if (stated_std is None) != (std is None) or (std and not abs(record.stated(f"{key}_std") - std) <= PRINTED):
            return f"submission.json: {key}_std {one_line(stated_std)} is not the seeds' {std}"
        if not any(f"{word}{mean:.8f}" in record.readme for word in (f"**{key} ", f"({key} ")):
            return f"README.md: does not state the seeds' mean {key} of {mean:.8f}"
    if record.readme.count("**val_bpb ") != 1:
        return "README.md: states more than one val_bpb as its headline"
    listed = field(record.submission, "submission.json", "all_runs")
    wanted = [
        {"seed": seed, **{key: record.of_seed(seed, key) for key in ("val_loss", "val_bpb")}} for seed in record.seeds
    ]
    return None if listed == wanted else "submission.json: all_runs are not the seeds' results"


def _program_fault(record: RecordFolder, printed: Sequence[str], first: Ledgers, tolerance: float) -> str | None:
    """Return a fault when the program prints another configuration or other scores than log and ledger."""
    config = record.digests(record.seeds[0]).get("config")
    if f"sha256 {config} config" not in printed:
        return f"train_seed{record.seeds[0]}.log: its config digest is not the program's"
    found = sorted((float(score.val_loss), float(score.val_bpb)) for score in scores_in(printed, "train_gpt.py"))
    wanted = sorted(_mean_and_bits(rows.nats, rows.bytes) for rows in first.values())
    if len(found) != len(wanted):
        return f"the program prints {len(found)} scores for {len(wanted)} items"
    for pair in zip(wanted, found, strict=True):
        if not all(abs(a - b) <= PRINTED + tolerance for a, b in zip(*pair, strict=True)):
            (held, held_bpb), (loss, bpb) = pair
            return f"the program prints {loss:.8f} nats, {bpb:.8f} bpb; its ledger holds {held:.8f}, {held_bpb:.8f}"
    return None


def _mean_and_bits(nats: np.ndarray, num_bytes: np.ndarray) -> tuple[float, float]:
    total = math.fsum(nats)
    return total / len(nats), total / (math.log(2) * int(num_bytes.sum()))
