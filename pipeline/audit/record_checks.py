"""Checks T8 to T11, T13 to T15, and the parts of T1 and T4 that look at the real run: files, logs and digests.

One idea: a number in a record is worth what it can be recomputed from. What needs the run's own files (ledgers, shards,
stage reports) says `not applicable` when they are not at hand, instead of passing.

Source: the table of checks in docs/legality.md.
Checked by: tests/stages/test_audit.py.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, failed, not_applicable, passed
from pipeline.audit.record_files import Evidence, RecordFolder, document_digests, scores_in
from pipeline.files import sha256_of_file

LIMIT_BYTES = 16_000_000
LIMIT_SECONDS = 600.0
LOWEST_BPB, LARGEST_STD = 0.95, 0.005
RECURRING_FRAC = 1e-3
"""T10: share of val documents that may also be train documents: crawls hold a few texts twice."""
SHORTEST_DOCUMENT = 16
"""T10: tokens below which equal documents mean nothing."""
PRINTED = 1e-8
"""Resolution of the numbers in a log."""
_NO_RUN = "the run's own files are not at hand (--evidence)"


def check_real_ledgers(record: RecordFolder, evidence: Evidence | None, items: Sequence[str]) -> Finding:
    """T1: the ledgers of the real run hold every target of the manifest once, and its bytes."""
    if evidence is None:
        return not_applicable(_NO_RUN)
    split = evidence.report("manifest")["splits"]["val"]
    for seed in record.seeds:
        for item in items:
            with np.load(evidence.path("ledger", seed=seed, item=item), allow_pickle=False) as rows:
                target, num_bytes = rows["target"], int(rows["bytes"].sum(dtype=np.int64))
            if not np.array_equal(np.sort(target), np.arange(split["targets"])):
                return failed(
                    f"seed {seed}, {item}: {len(target)} rows are not the {split['targets']} targets, each once"
                )
            if num_bytes != split["bytes"]:
                return failed(f"seed {seed}, {item}: {num_bytes} bytes, the manifest has {split['bytes']}")
    return passed(f"real run: {split['targets']} targets once, {split['bytes']} bytes as in the manifest")


def check_implied_bytes(record: RecordFolder) -> Finding:
    """T4: every score line of a log implies the bytes that the record states."""
    for seed in record.seeds:
        result = record.submission["seed_results"][str(seed)]
        for score in record.scores(seed):
            implied = result["target_tokens"] * score.val_loss / (math.log(2) * score.val_bpb)
            allowed = 1 + 2 * implied * PRINTED / min(score.val_loss, score.val_bpb)
            if abs(implied - result["eval_bytes"]) > allowed:
                return failed(f"seed {seed}, {score.name}: implies {implied:.0f} bytes, stated {result['eval_bytes']}")
    return passed("the logs' score lines imply the stated bytes")


def check_walls(record: RecordFolder, evidence: Evidence | None, events: set[str]) -> Finding:
    """T8: scoring opened no train shard and no connection; the stages ran with val, or train, sealed."""
    for event in sorted(events):
        name, _, subject = event.partition(" ")
        if name == "open" and subject.startswith("data/train"):
            return failed(f"the program opened {subject} while it scored")
        if name.startswith("socket.") and not any(word in subject for word in ("127.0.0.1", "localhost", "::1")):
            return failed(f"the program reached out while it scored: {event}")
    if evidence is None:
        return passed("the program opened no train shard and no connection while it scored; stages: not at hand")
    for seed in record.seeds:
        for name, folder in (("train_report", "data/val"), ("calibrate_report", "data/val"),
                             ("quantize_report", "data/val")):  # fmt: skip
            if finding := _unsealed(evidence.report(name, seed=seed), folder, f"{name}, seed {seed}"):
                return finding
    return passed("the program opened no train shard and no connection; train, calibrate, quantize ran with val sealed")


def check_noise(record: RecordFolder, evidence: Evidence | None) -> Finding:
    """T9: the artifact that ships is the one that was calibrated and quantized with val sealed."""
    if evidence is None:
        return not_applicable(_NO_RUN)
    for seed in record.seeds:
        for name in ("calibrate_report", "quantize_report"):
            if finding := _unsealed(evidence.report(name, seed=seed), "data/val", f"{name}, seed {seed}"):
                return finding
        made = evidence.report("quantize_report", seed=seed)["artifact_sha256"]
        if made != sha256_of_file(record.artifact(seed)):
            return failed(f"{record.artifact(seed).name}: not the file that quantize made ({made[:12]})")
    return passed("calibrate and quantize could not read val, and the artifact is theirs: noise would give the same")


def check_split(record: RecordFolder, evidence: Evidence | None, bos_id: int) -> Finding:
    """T10: val shards and tokenizer are those of the manifest and the logs; no val document was trained on."""
    if evidence is None:
        return not_applicable(_NO_RUN)
    manifest = evidence.report("manifest")
    wanted = {path.name: entry["sha256"] for path, entry in
              zip(evidence.shards("val"), manifest["splits"]["val"]["shards"], strict=True)}  # fmt: skip
    wanted[record.tokenizer.name] = manifest["tokenizer_sha256"]
    for path in (*evidence.shards("val"), record.tokenizer):
        stated = [record.digests(seed).get(path.name) for seed in record.seeds]
        if {sha256_of_file(path), *stated} != {wanted[path.name]}:
            return failed(f"{path.name}: file, manifest and logs do not state one digest")
    val = np.concatenate([*document_digests(evidence.shards("val"), bos_id, SHORTEST_DOCUMENT), np.empty(0, np.uint64)])
    seen = set()
    for train in document_digests(evidence.shards("train"), bos_id, SHORTEST_DOCUMENT):
        seen.update(np.intersect1d(val, train).tolist())
    if len(seen) > RECURRING_FRAC * len(val):
        return failed(f"{len(seen)} of {len(val)} val documents are in the train shards")
    return passed(
        f"digests of val shards and tokenizer agree; {len(seen)} of {len(val)} val documents in the train shards"
    )


def check_provenance(
    record: RecordFolder,
    evidence: Evidence | None,
    items: Sequence[str],
    printed: Sequence[str],
    first: Ledgers,
    tolerance: float,
) -> Finding:
    """T11: digests in the logs are the files'; numbers in submission.json and README are the logs'.

    `printed`: what the program printed for a stream when no ledger was asked for; `first`: its ledgers.
    """
    for seed in record.seeds:
        digests = record.digests(seed)
        for path in (record.program, record.artifact(seed), record.tokenizer):
            if digests.get(path.name) != sha256_of_file(path):
                return failed(f"train_seed{seed}.log: the digest of {path.name} is not the file's")
        stated, score = record.submission["seed_results"][str(seed)], record.scores(seed)[-1]
        if (f"{stated['val_loss']:.8f}", f"{stated['val_bpb']:.8f}") != (
            f"{score.val_loss:.8f}",
            f"{score.val_bpb:.8f}",
        ):
            return failed(
                f"submission.json, seed {seed}: {stated['val_bpb']:.8f} bpb, its log ends at {score.val_bpb:.8f}"
            )
        absent = [score.name for score in record.scores(seed) if f"{score.val_bpb:.8f}" not in record.readme]
        if absent:
            return failed(f"README.md: does not state the bpb of {absent[0]} in train_seed{seed}.log")
    mean = statistics.fmean(entry["val_bpb"] for entry in record.submission["seed_results"].values())
    if abs(mean - record.submission["val_bpb"]) > PRINTED or f"**val_bpb {mean:.8f}**" not in record.readme:
        return failed(f"submission.json and README.md do not state the seeds' mean of {mean:.8f} bpb")
    output = _check_program_output(record, printed, first, tolerance)
    return output or _check_run_ledgers(record, evidence, items) or passed(
        "digests, scores and README are those of files, logs and ledgers; the program prints what its ledger holds"
    )  # fmt: skip


def _check_program_output(
    record: RecordFolder, printed: Sequence[str], first: Ledgers, tolerance: float
) -> Finding | None:
    """Return a failure when the program prints another configuration or other scores than log and ledger."""
    config = record.digests(record.seeds[0]).get("config")
    if f"sha256 {config} config" not in printed:
        return failed(f"train_seed{record.seeds[0]}.log: its config digest is not the program's")
    losses = sorted(score.val_loss for score in scores_in(list(printed)))
    wanted = sorted(math.fsum(rows.nats) / len(rows.nats) for rows in first.values())
    if len(losses) != len(wanted):
        return failed(f"the program prints {len(losses)} scores for {len(wanted)} items")
    differing = [pair for pair in zip(wanted, losses, strict=True) if abs(pair[0] - pair[1]) > PRINTED + tolerance]
    if differing:
        return failed(f"the program prints a loss of {differing[0][1]:.8f}, its ledger holds {differing[0][0]:.8f}")
    return None


def _check_run_ledgers(record: RecordFolder, evidence: Evidence | None, items: Sequence[str]) -> Finding | None:
    """Return a failure when a log's score lines are not those of the run's ledgers."""
    for seed in record.seeds if evidence else []:
        assert evidence is not None
        losses = {f"{score.val_loss:.8f}" for score in record.scores(seed)}
        for item in items:
            with np.load(evidence.path("ledger", seed=seed, item=item), allow_pickle=False) as rows:
                loss = math.fsum(rows["nats"]) / len(rows["nats"])
            if f"{loss:.8f}" not in losses:
                return failed(f"train_seed{seed}.log: no score line states {loss:.8f}, the loss of ledger {item}")
    return None


def check_sizes_on_disk(record: RecordFolder) -> Finding:
    """T13: the bytes on disk are those stated, and within the limit."""
    code = record.program.stat().st_size
    total = code + max(record.artifact(seed).stat().st_size for seed in record.seeds)
    if (code, total) != (record.submission["bytes_code"], record.submission["bytes_total"]):
        return failed(f"{code} bytes of code, {total} in all on disk; submission.json states "
                      f"{record.submission['bytes_code']} and {record.submission['bytes_total']}")  # fmt: skip
    limit = min(LIMIT_BYTES, record.submission["compliance"]["limit_bytes"])
    if total > limit:
        return failed(f"{total} bytes, {total - limit} above the limit of {limit}")
    return passed(f"code {code} + largest artifact {total - code} = {total} bytes of {limit}")


def check_timers(record: RecordFolder) -> Finding:
    """T14: training and scoring took at most ten minutes each, by the logs' own timers."""
    hardware, over = record.submission["hardware"], []
    for seed in record.seeds:
        stated = record.submission["seed_results"][str(seed)]
        scoring = record.number(seed, "total_eval_time:")
        if scoring is None or abs(scoring - stated["eval_time_s"]) > 0.1:
            return failed(f"seed {seed}: scoring took {stated['eval_time_s']:.1f} s, its log says {scoring}")
        training = stated["train_wallclock_ms"] / 1000
        logged = record.number(seed, "train_time:")
        if logged is not None and logged / 1000 > training + 1:
            return failed(f"seed {seed}: training took {training:.1f} s, its log says {logged / 1000:.1f}")
        timed = (("training", training), ("scoring", scoring))
        over += [f"seed {seed} {name} {seconds:.0f} s" for name, seconds in timed if seconds > LIMIT_SECONDS]
    if over and "H100" in hardware:
        return failed(f"{', '.join(over)}: above {LIMIT_SECONDS:g} s on {hardware}")
    if over:
        return not_applicable(f"{', '.join(over)} on {hardware}, where the limit of 8xH100 does not hold")
    return passed(f"training and scoring within {LIMIT_SECONDS:g} s on {hardware}, as the logs say")


def check_alarms(record: RecordFolder) -> Finding:
    """T15: what is too good to be true: a bpb below any known model's, a quantizer that improves, seeds far apart."""
    alarms, std = [], record.submission["val_bpb_std"]
    for seed, result in record.submission["seed_results"].items():
        if result["val_bpb"] < LOWEST_BPB:
            alarms.append(f"seed {seed}: {result['val_bpb']:.4f} bpb is below {LOWEST_BPB}")
        if None not in (gap := (result["quantized_val_bpb"], result["pre_quant_val_bpb"])) and gap[0] < gap[1]:
            alarms.append(f"seed {seed}: quantization gains {gap[1] - gap[0]:.6f} bpb")
    if std is not None and std > LARGEST_STD:
        alarms.append(f"seeds spread by {std:.4f} bpb, more than {LARGEST_STD}")
    return Finding("alarm", "; ".join(alarms)) if alarms else passed("bpb, quantization gap and spread are plausible")


def _unsealed(report: Mapping, folder: str, where: str) -> Finding | None:
    sealed = report.get("provenance", {}).get("firewall", {}).get("sealed", [])
    return None if any(each.endswith(folder) for each in sealed) else failed(f"{where}: {folder} was not sealed")
