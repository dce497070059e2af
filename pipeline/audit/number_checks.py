"""Checks T1, T4, T11, T13 to T15 of the real run: every number that a record states, against rows, files, reports.

One idea: the truth is the ledgers' rows and the val shards. Score lines, submission.json and README are only what is
said of them. That these agree with each other and with the folder's files is for `pipeline.verification` to say; a
record of ours leaves none of it unsaid.

Source: the table of checks in docs/legality.md.
Checked by: tests/stages/test_audit.py.
"""

import itertools
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, failed, not_applicable, passed
from pipeline.audit.record_files import ANY_VOCABULARY, NO_RUN, Evidence, RecordFolder
from pipeline.audit.untrusted import field, one_line, read_foreign_object, read_foreign_text, stated_number
from pipeline.data.byte_count import byte_table, count_bytes
from pipeline.data.shards import open_shard
from pipeline.data.tokenizer import load_tokenizer
from pipeline.record.ship import is_wrapped, shipped_program
from pipeline.record.statements import digest_line
from pipeline.verification.claims import CLAIMS, LIMIT_SECONDS
from pipeline.verification.findings import agree
from pipeline.verification.reading import read_log
from pipeline.verification.readme import score_rows
from pipeline.verification.runs import Score

PRINTED = 1e-8
"""Resolution of the numbers in a log."""
LOWEST_BPB, LARGEST_STD = 0.95, 0.005
_REPORT_SECONDS = 0.1
"""By how much stated seconds may differ from those of reports."""

Claim = tuple[str, bool]
"""Evidence, and whether it holds."""
Protocols = Mapping[str, Mapping[str, Any]]
"""Item -> the protocol that the program declares."""


def check_real_ledgers(record: RecordFolder, evidence: Evidence | None, items: Protocols) -> Finding:
    """T1: the ledgers of the real run hold every target of the manifest once, with nats that are a probability's."""
    if evidence is None:
        return not_applicable(NO_RUN)
    num_targets = stated_number(evidence.report("manifest"), "manifest", "splits", "val", "targets")
    for seed in record.seeds:
        for item in items:
            rows = evidence.ledger(seed, item).rows
            if len(rows.target) != num_targets:
                return failed(f"seed {seed}, {item}: {len(rows.target)} rows of {num_targets} targets")
            if fault := rows.coverage_fault(len(rows.target)):
                return failed(f"seed {seed}, {item}: {fault}")
    return passed(f"real run: {num_targets} targets once")


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
            if fault := evidence.ledger(seed, item).rows.bytes_fault(expected_N):
                return failed(f"seed {seed}, {item}: {fault}")
    return passed(f"real run: {counted['bytes']} bytes, target by target those of the val shards")


def check_claims(record: RecordFolder, *names: str) -> Finding:
    """T4, T11, T13: what the record states under these names of `CLAIMS` holds, and nothing of it is left out."""
    found = (each for name in names for each in CLAIMS[name](record.record, record.program_read))
    claims = ((each.message, each.verdict in ("agreement", "warning")) for each in found)
    return _all_hold(claims, f"{', '.join(names)} agree")


def _all_hold(claims: Iterable[Claim], evidence: str) -> Finding:
    broken = next((what for what, holds in claims if not holds), None)
    return failed(broken) if broken else passed(evidence)


def check_provenance(
    record: RecordFolder,
    evidence: Evidence | None,
    items: Protocols,
    printed: Sequence[str],
    first: Ledgers,
    tolerance: float,
) -> Finding:
    """T11: what README states of each item is its ledger's, and the program prints what its own ledger holds.

    `printed`: what the program printed for a stream when no ledger was asked for; `first`: its ledgers.
    """

    def claims() -> Iterator[Claim]:
        for run in record.record.runs.values():
            yield from ((f"{run.name} states {oddity}", False) for oddity in run.oddities)
        rows = {(row.seed, row.item): row.score for row in score_rows(record.record.readme or "")}
        for seed in record.seeds:
            stated = [item for row_seed, item in rows if row_seed == str(seed)]
            yield f"README.md: its table states {stated} of seed {seed}", sorted(stated) == sorted(items)
            if evidence is None:
                continue
            for item, protocol in items.items():
                yield from _ledger_claims(record, evidence, seed, item, protocol, rows[str(seed), item])
            line = record.log(seed).float_score
            if line and evidence.path("ledger", seed=seed, item="float").is_file():
                held = evidence.ledger(seed, "float").rows.score
                yield _recomputed(f"seed {seed}: bpb before quantization", line.val_bpb, held[1])
        yield from _program_claims(record, printed, first, tolerance)

    return _all_hold(claims(), "scores are those of the ledgers; the program prints what its ledger holds")


def _ledger_claims(
    record: RecordFolder, evidence: Evidence, seed: int, item: str, protocol: Mapping[str, Any], stated: Score
) -> Iterator[Claim]:
    ledger, split = evidence.ledger(seed, item), field(evidence.report("manifest"), "manifest", "splits", "val")
    where = f"seed {seed}, {item}"
    yield f"{where}: the protocol of its ledger is not the one that the program declares", ledger.protocol == protocol
    for name, number, score in zip(stated._fields, stated, ledger.rows.score, strict=True):
        yield _recomputed(f"{where}: {name}", number, score)
    targets, num_bytes = len(ledger.rows.target), int(ledger.rows.bytes.sum())
    for name, key, held in (
        ("bytes", "eval_bytes", num_bytes),
        ("targets", "target_tokens", targets),
        ("tokens", "val_tokens", targets + 1),
    ):
        in_manifest = stated_number(split, "manifest: val", name)
        counts = {"submission.json": record.of_seed(seed, key), "the manifest": in_manifest, "its ledger": held}
        listing = ", ".join(f"{place} {value:,}" for place, value in counts.items())
        yield f"{where}: {name}: {listing}", len(set(counts.values())) == 1


def _recomputed(what: str, stated: Decimal | None, value: float) -> Claim:
    return f"{what}: {stated} stated, {value:.8f} by its ledger", stated is not None and agree(stated, value)


def _program_claims(record: RecordFolder, printed: Sequence[str], first: Ledgers, tolerance: float) -> Iterator[Claim]:
    """Compare what the program prints with the first seed's log and with its own ledgers."""
    stated, said = record.log(record.seeds[0]), read_log("train_gpt.py", "\n".join(printed).encode()).runs[0]
    config = digest_line(stated.digests.get("config", "nothing"), "config")
    yield f"{stated.name}: its config digest is not the program's", config in printed
    yield from ((f"train_gpt.py prints {one_line(oddity)}", False) for oddity in said.oddities)
    found = sorted((float(line.score.val_loss or 0), float(line.score.val_bpb)) for line in said.scores)
    wanted = sorted(rows.score for rows in first.values())
    yield f"the program prints {len(found)} scores for {len(wanted)} items", len(found) == len(wanted)
    for held, shown in zip(wanted, found, strict=True):
        is_close = all(abs(a - b) <= PRINTED + tolerance for a, b in zip(held, shown, strict=True))
        yield f"the program prints (nats, bpb) {shown}; its ledger holds {held}", is_close


def check_timers(record: RecordFolder, evidence: Evidence | None, items: Collection[str]) -> Finding:
    """T14: training and scoring took at most ten minutes each, by the timers of logs and reports, which agree."""
    agreed = check_claims(record, "times")
    if agreed.verdict == "fail":
        return agreed
    hardware, over, untimed = one_line(record.record.fields.get("hardware")), [], []
    for seed in record.seeds:
        scoring, training = record.of_seed(seed, "eval_time_s"), record.of_seed(seed, "train_wallclock_ms") / 1000
        if evidence and (fault := _report_fault(evidence, items, seed, scoring, training)):
            return failed(f"seed {seed}: {fault}")
        latest = float(record.log(seed).last("train ms") or 0) / 1000
        timed = {"training": max(training, latest), "scoring": scoring}
        untimed += [f"seed {seed} {name}" for name, seconds in timed.items() if not seconds > 0]
        over += [f"seed {seed} {name} {seconds:.0f} s" for name, seconds in timed.items() if seconds > LIMIT_SECONDS]
    if over and "H100" in hardware:
        return failed(f"{', '.join(over)}: above {LIMIT_SECONDS:g} s on {hardware}")
    if over:
        return not_applicable(f"{', '.join(over)} on {hardware}, where the limit of 8xH100 does not hold")
    if untimed:
        return not_applicable(f"{', '.join(untimed)}: no time was taken (imported weights are not trained here)")
    return passed(f"training and scoring within {LIMIT_SECONDS:g} s on {hardware}, as the logs say")


def _report_fault(evidence: Evidence, items: Collection[str], seed: int, scoring: float, training: float) -> str | None:
    """Return the stated seconds that are not those of the stages' reports."""
    reports = [(item, evidence.report("scores", seed=seed, item=item)) for item in items]
    spent = sum(stated_number(report, f"{item}'s report", "seconds", "total") for item, report in reports)
    trained = stated_number(evidence.report("train_report", seed=seed), "train's report", "seconds")
    for name, stated, held in (("scoring", scoring, spent), ("training", training, trained)):
        if not abs(stated - held) <= _REPORT_SECONDS:
            return f"{name} took {stated:.1f} s, the stages' reports say {held:.1f}"
    return None


def check_alarms(record: RecordFolder, evidence: Evidence | None = None) -> Finding:
    """T15: what is too good to be true, and a source for people that is not the program's.

    Too good: a bpb below any known model's, a quantizer that improves by what the record states or the run's reports
    say, seeds far apart.
    """
    alarms, bpbs = [], [record.of_seed(seed, "val_bpb") for seed in record.seeds]
    gap = "no quantization gap stated"
    for seed, bpb in zip(record.seeds, bpbs, strict=True):
        if not bpb >= LOWEST_BPB:
            alarms.append(f"seed {seed}: {bpb:.4f} bpb is below {LOWEST_BPB}")
        for cost in _quantization_gaps(record, evidence, seed):
            gap = "quantization gap"
            if not cost >= 0:
                alarms.append(f"seed {seed}: quantization gains {-cost:.6f} bpb")
    std = statistics.stdev(bpbs) if len(bpbs) > 1 else 0.0
    if not std <= LARGEST_STD:
        alarms.append(f"seeds spread by {std:.4f} bpb, more than {LARGEST_STD}")
    if not _is_built_from(record.program.read_bytes(), read_foreign_text(record.path / "train_gpt_human.py")):
        alarms.append(
            "train_gpt.py is not what this Fairway builds from train_gpt_human.py: reading the latter shows little"
        )
    plausible = f"bpb, spread and {gap} are plausible; train_gpt_human.py is what train_gpt.py was built from"
    return Finding("alarm", "; ".join(alarms)) if alarms else passed(plausible)


def _quantization_gaps(record: RecordFolder, evidence: Evidence | None, seed: int) -> Iterator[float]:
    """Yield what quantization costs in bpb: as stated, else by the reports of items scored like the float weights."""
    result = record.record.results[str(seed)]
    if None not in (result.get("quantized_val_bpb"), result.get("pre_quant_val_bpb")):
        yield record.of_seed(seed, "quantized_val_bpb") - record.of_seed(seed, "pre_quant_val_bpb")
    elif evidence is not None:
        folder = evidence.path("scores", seed=seed, item="float").parent
        reports = [read_foreign_object(path) for path in sorted(folder.glob("scores-*.json"))]
        for before, after in itertools.product(reports, repeat=2):
            weights = before.get("weights"), after.get("weights")
            if weights == ("float", "artifact") and before.get("protocol") == after.get("protocol"):
                before_bpb, after_bpb = (stated_number(each, "scores", "val_bpb") for each in (before, after))
                yield after_bpb - before_bpb


def _is_built_from(code: bytes, source: str) -> bool:
    """Return whether `code`, the bytes of a train_gpt.py, is what `shipped_program` makes of `source`."""
    try:
        return code == shipped_program(source, readable=not is_wrapped(code))
    except Exception:  # whatever a text that is no program of ours makes of the analysis
        return False
