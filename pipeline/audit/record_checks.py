"""Checks T13 to T15: bytes on disk, timers, and what is too good to be true.

Source: the table of checks in docs/legality.md.
Checked by: tests/stages/test_audit.py.
"""

import statistics
from collections.abc import Collection

from pipeline.audit.evaluator import Finding, failed, not_applicable, passed
from pipeline.audit.record_files import Evidence, RecordFolder
from pipeline.audit.untrusted import field, one_line, read_foreign_text, stated_number
from pipeline.quant.config import CHALLENGE_LIMIT_BYTES
from pipeline.record.ship import is_built_from

LIMIT_SECONDS = 600.0
LOWEST_BPB, LARGEST_STD = 0.95, 0.005
_LOG_SECONDS = 0.1
"""Resolution of a log's seconds, with room for rounding."""


def check_sizes_on_disk(record: RecordFolder) -> Finding:
    """T13: the bytes on disk are those stated, and within the limit."""
    code = record.program.stat().st_size
    total = code + max(record.artifact(seed).stat().st_size for seed in record.seeds)
    stated = record.stated("bytes_code"), record.stated("bytes_total")
    if (code, total) != stated:
        return failed(
            f"{code} bytes of code, {total} in all on disk; submission.json states {stated[0]} and {stated[1]}"
        )
    limit = min(CHALLENGE_LIMIT_BYTES, record.stated("compliance", "limit_bytes"))
    if not total <= limit:
        return failed(f"{total} bytes, {total - limit} above the limit of {limit}")
    return passed(f"code {code} + largest artifact {total - code} = {total} bytes of {limit}")


def check_timers(record: RecordFolder, evidence: Evidence | None, items: Collection[str]) -> Finding:
    """T14: training and scoring took at most ten minutes each, by the timers of logs and reports, which agree."""
    hardware, over, untimed = one_line(record.submission.get("hardware")), [], []
    for seed in record.seeds:
        scoring, training = record.of_seed(seed, "eval_time_s"), record.of_seed(seed, "train_wallclock_ms") / 1000
        if fault := _timer_fault(record, evidence, items, seed):
            return failed(f"seed {seed}: {fault}")
        timed = {
            "training": max([training, *(ms / 1000 for ms in record.numbers(seed, "train_time:"))]),
            "scoring": scoring,
        }
        untimed += [f"seed {seed} {name}" for name, seconds in timed.items() if not seconds > 0]
        over += [f"seed {seed} {name} {seconds:.0f} s" for name, seconds in timed.items() if seconds > LIMIT_SECONDS]
    if over and "H100" in hardware:
        return failed(f"{', '.join(over)}: above {LIMIT_SECONDS:g} s on {hardware}")
    if over:
        return not_applicable(f"{', '.join(over)} on {hardware}, where the limit of 8xH100 does not hold")
    if untimed:
        return not_applicable(f"{', '.join(untimed)}: no time was taken (imported weights are not trained here)")
    return passed(f"training and scoring within {LIMIT_SECONDS:g} s on {hardware}, as the logs say")


def _timer_fault(record: RecordFolder, evidence: Evidence | None, items: Collection[str], seed: int) -> str | None:
    """Return a timer that is missing from a seed's log, or that log, submission.json and reports state differently."""
    scoring, training = record.of_seed(seed, "eval_time_s"), record.of_seed(seed, "train_wallclock_ms") / 1000
    logged, steps = record.numbers(seed, "total_eval_time:"), record.numbers(seed, "train_time:")
    if not logged or not all(abs(each - scoring) <= _LOG_SECONDS for each in logged):
        return f"scoring took {scoring:.1f} s, its log says {logged or 'nothing'}"
    if not steps:
        return f"training took {training:.1f} s, its log holds no train_time"
    if not max(steps) / 1000 <= training + 1:
        return f"training took {training:.1f} s, its log says {max(steps) / 1000:.1f}"
    if evidence is None:
        return None
    reports = [(item, evidence.report("scores", seed=seed, item=item)) for item in items]
    spent = sum(stated_number(report, f"{item}'s report", "seconds", "total") for item, report in reports)
    trained = stated_number(evidence.report("train_report", seed=seed), "train's report", "seconds")
    for name, stated, held in (("scoring", scoring, spent), ("training", training, trained)):
        if not abs(stated - held) <= _LOG_SECONDS:
            return f"{name} took {stated:.1f} s, the stages' reports say {held:.1f}"
    return None


def check_alarms(record: RecordFolder) -> Finding:
    """T15: what is too good to be true, and a source for people that is not the program's.

    Too good: a bpb below any known model's, a quantizer that improves, seeds far apart.
    """
    alarms, bpbs = [], [record.of_seed(seed, "val_bpb") for seed in record.seeds]
    for seed, bpb in zip(record.seeds, bpbs, strict=True):
        if not bpb >= LOWEST_BPB:
            alarms.append(f"seed {seed}: {bpb:.4f} bpb is below {LOWEST_BPB}")
        result = field(record.submission, "submission.json", "seed_results", str(seed))
        if None not in (result.get("quantized_val_bpb"), result.get("pre_quant_val_bpb")):
            gap = record.of_seed(seed, "quantized_val_bpb") - record.of_seed(seed, "pre_quant_val_bpb")
            if not gap >= 0:
                alarms.append(f"seed {seed}: quantization gains {-gap:.6f} bpb")
    std = statistics.stdev(bpbs) if len(bpbs) > 1 else 0.0
    if not std <= LARGEST_STD:
        alarms.append(f"seeds spread by {std:.4f} bpb, more than {LARGEST_STD}")
    if not is_built_from(record.program.read_bytes(), read_foreign_text(record.readable_program)):
        alarms.append(
            "train_gpt.py is not what this Fairway builds from train_gpt_human.py: reading the latter shows little"
        )
    return (
        Finding("alarm", "; ".join(alarms))
        if alarms
        else passed(
            "bpb, quantization gap and spread are plausible; train_gpt_human.py is what train_gpt.py was built from"
        )
    )
