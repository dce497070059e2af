"""Does a record say what its own files say? Every number that is stated at two places, compared: the only place.

The one idea: a claim holds, fails, or cannot be compared, because a place does not state it or not as Fairway does.
`fairway verify` takes any folder of the challenge and forgives the third; `fairway audit`, which judges records that
Fairway made, does not. Numbers are compared at the digits of the one that has fewer.

Source: the log lines and fields that the challenge's records share (docs/concepts.md, "The record").
Checked by: tests/record/test_verify.py, tests/stages/test_audit.py.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from pipeline.base.checks import one_line, require
from pipeline.base.files import sha256_of_file
from pipeline.quant.config import CHALLENGE_LIMIT_BYTES
from pipeline.record.folder import Record, number_of, part_of
from pipeline.record.significance import comparison_fields
from pipeline.record.statements import BEYOND, Score, headline, score_rows

Claim = tuple[str, bool | None]
"""Evidence, and whether it holds; None when there is nothing to compare."""
CANONICAL = {151_080_362: "FineWeb val, 1,024 pieces", 151_080_891: "FineWeb val, 8,192 pieces"}
"""Text bytes of the challenge's validation set, by the tokenizers whose targets cover it."""


def agreement(what: str, values: Mapping[str, Any]) -> Iterator[Claim]:
    """Compare what several places state exactly: counts, sizes, digests. None stands for what a place leaves out."""
    stated = {where: value for where, value in values.items() if value is not None}
    shown = {where: value[:12] if isinstance(value, str) else f"{value:,}" for where, value in stated.items()}
    listing = ", ".join(f"{where} {value}" for where, value in shown.items()) or "nothing"
    if missing := [where for where in values if where not in stated]:
        yield f"{what}: {listing}; not stated by {', '.join(missing)}", None
    if len(stated) > 1:
        same = len(set(stated.values())) == 1
        yield f"{what}: {next(iter(shown.values())) if same else listing}", same


def recomputed(what: str, stated: Decimal | int | None, value: float | Decimal, source: str = "the seeds") -> Claim:
    """Compare a number as stated with what it is computed, or was copied, from."""
    if stated is None:
        return f"{what}: not stated", None
    ok = equal_as_stated(stated, Decimal(value))
    return (f"{what} {stated}" if ok else f"{what}: {stated} stated, {value:.8f} by {source}"), ok


def equal_as_stated(stated: Decimal | int, value: Decimal) -> bool:
    """Return whether two numbers agree at the digits of the one that has fewer."""
    return abs(float(Decimal(stated) - value)) <= max(half_unit(Decimal(stated)), half_unit(value)) * (1 + 1e-6)


def half_unit(value: Decimal) -> float:
    """Return half of the last digit's unit."""
    exponent = value.as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else math.nan


def implied_bytes(score: Score, targets: int | Decimal) -> tuple[float, float]:
    """Return the bytes that a score divides by, targets * loss / (ln 2 * bpb), and how far its digits fix them.

    Raises ValueError for a score without loss: it divides by nothing.
    """
    loss, bpb = map(float, score)
    require(loss > 0 and bpb > 0, "score", f"val_loss {loss:g} and val_bpb {bpb:g}", "scores above 0")
    value = float(targets) * loss / (math.log(2) * bpb)
    return value, 1 + value * (half_unit(score.val_loss) / loss + half_unit(score.val_bpb) / bpb)


def _code_size(record: Record) -> Iterator[Claim]:
    submission, size = record.submission, record.program.stat().st_size
    key = "bytes_code" if "bytes_code" in submission else "code_bytes"
    for log in record.logs.values():
        yield from agreement("code", {"on disk": size, log.name: log.last("code bytes")})
    yield from agreement("code", {"on disk": size, "submission.json": number_of(submission, key)})


def _artifact_size(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        artifact = record.artifact(seed)
        sizes = {
            "its log": log.last("artifact bytes"),
            "submission.json": number_of(record.results.get(seed, {}), "artifact_bytes"),
            "the file": artifact.stat().st_size if artifact else None,
        }
        yield from agreement(f"seed {seed}", sizes)


def _total_size(record: Record) -> Iterator[Claim]:
    stated = number_of(record.submission, "bytes_total")
    totals: list[Decimal | int] = []
    for seed, log in record.logs.items():
        code, artifact = log.last("code bytes"), log.last("artifact bytes")
        if code is not None and artifact is not None:
            totals.append(code + artifact)
            sums = {"code + artifact": totals[-1], "its log's total": log.last("total bytes")}
            yield from agreement(f"seed {seed}", sums)
    if totals:
        yield from agreement("largest", {"logs": max(totals), "submission.json": stated})
    elif stated is not None:
        totals = [stated]
    own = number_of(part_of(record.submission, "compliance"), "limit_bytes")
    limit = min(CHALLENGE_LIMIT_BYTES, own or CHALLENGE_LIMIT_BYTES)
    for total in totals:
        yield f"{total:,} bytes of {limit:,}", total <= limit


def _digests(record: Record) -> Iterator[Claim]:
    ours = [record.program, *(path for path in record.folder.glob("tokenizers/*") if path.is_file())]
    for seed, log in record.logs.items():
        artifact = record.artifact(seed)
        paths = {path.name: path for path in [*ours, *([artifact] if artifact else [])]}
        for name in dict.fromkeys([*log.digests, *paths]):
            if path := paths.get(name) or record.find(name):
                yield from agreement(name, {"the file": sha256_of_file(path), log.name: log.digests.get(name)})
        if artifact:
            stated = record.results.get(seed, {}).get("artifact_sha256")
            digests = {"the file": sha256_of_file(artifact), "submission.json": str(stated) if stated else None}
            yield from agreement(artifact.name, digests)


def _scores(record: Record) -> Iterator[Claim]:
    for seed, result in record.results.items():
        log = record.logs.get(seed)
        if log is None or not log.scores:
            yield f"seed {seed}: no log with a final score", None
            continue
        yield from ((f"{log.name} states {one_line(oddity)}", None) for oddity in log.oddities)
        for key, printed in log.scores[-1].score._asdict().items():
            yield recomputed(f"seed {seed}: {key}", number_of(result, key), printed, f"the end of {log.name}")
        if result.get("pre_quant_val_bpb") is not None:
            before, printed_before = number_of(result, "pre_quant_val_bpb"), log.float_score
            what = f"seed {seed}: bpb before quantization"
            yield recomputed(what, before, printed_before.val_bpb, log.name) if printed_before else (what, None)
        if result.get("quantized_val_bpb") is not None:
            after = number_of(result, "quantized_val_bpb")
            if after is None or not any(equal_as_stated(after, line.score.val_bpb) for line in log.scores):
                yield f"seed {seed}: bpb after quantization is in no final line of {log.name}", None


def _means(record: Record) -> Iterator[Claim]:
    seeds = record.results
    for key in Score._fields:
        values = [value for entry in seeds.values() if (value := number_of(entry, key)) is not None]
        if values:
            yield recomputed(f"mean {key}", number_of(record.submission, key), statistics.fmean(values))
        if len(values) > 1:
            yield recomputed(
                f"std of {key}", number_of(record.submission, f"{key}_std"), statistics.stdev(map(float, values))
            )
        elif record.submission.get(f"{key}_std") is not None:
            yield f"std of {key}: stated, though one seed has none", None
    if seeds:
        runs = record.submission.get("all_runs")
        runs = runs if isinstance(runs, list) else []
        named = [{**run, "seed": str(run.get("seed"))} for run in runs if isinstance(run, Mapping)]
        wanted = [{"seed": seed, **{key: entry.get(key) for key in Score._fields}} for seed, entry in seeds.items()]
        is_same = named == wanted and len(runs) == len(wanted)
        yield f"all_runs: {'' if is_same else 'not '}the seeds' results", is_same or None


def _statistics(record: Record) -> Iterator[Claim]:
    theirs = part_of(record.submission, "comparison_baseline").get("val_losses")
    ours = [number_of(entry, "val_loss") for entry in record.results.values()]
    if not isinstance(theirs, list) or not all(isinstance(loss, Decimal | int) for loss in (*ours, *theirs)):
        return
    try:
        fields = comparison_fields([float(loss) for loss in ours if loss is not None], [float(x) for x in theirs])
    except ValueError as error:
        yield str(error), False
        return
    for key, value in fields.items():
        stated = number_of(record.submission, key)
        if value is not None and stated is not None:
            # Other programs have other special functions: six digits are enough to tell a typed number.
            ok = math.isclose(value, stated, rel_tol=1e-6)
            yield (f"{key} {value:.4g}" if ok else f"{key}: {stated} stated, {value:.8g} by its losses"), ok


def _implied_bytes(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        stated, targets = number_of(record.results.get(seed, {}), "eval_bytes"), log.last("targets")
        if targets is None or not log.scores:
            yield f"seed {seed}: {log.name} does not say both targets and scores", None
            continue
        try:
            implied = [implied_bytes(line.score, targets) for line in log.scores]
        except ValueError as error:
            yield f"seed {seed}: {error}", False
            continue
        middle, spread = implied[-1]
        known = next((title for size, title in CANONICAL.items() if abs(size - middle) <= spread), None)
        about = f"seed {seed}: {targets:,} targets, {middle:,.0f} bytes" + (f" ({known})" if known else "")
        for line, (value, allowed) in zip(log.scores, implied, strict=True):
            ok = abs(value - middle) <= allowed + spread
            yield (about if ok else f"seed {seed}: {line.name} implies {value:,.0f} bytes, the last {middle:,.0f}"), ok
        is_stated = None if stated is None else abs(float(stated) - middle) <= spread
        yield (about if is_stated else f"seed {seed}: scores imply {middle:,.0f} bytes, {stated} stated"), is_stated


def _readme(record: Record) -> Iterator[Claim]:
    stated = {key: number_of(record.submission, key) for key in Score._fields}
    if (bpb := stated["val_bpb"]) is None or record.readme is None:
        yield "no val_bpb, or no README.md", None
        return
    shown = next((form for digits in (8, 6, 5, 4) if (form := f"{bpb:.{digits}f}") in record.readme), None)
    absent = f"README.md nowhere states val_bpb {bpb:.4f} of submission.json"
    yield (f"states {shown}" if shown else absent), bool(shown)
    said = headline(*(float(BEYOND if value is None else value) for value in stated.values()))
    is_once = said in record.readme and record.readme.count("**val_bpb ") == 1
    yield f"README.md: {'one' if is_once else 'not one'} headline `{said}`", is_once or None
    rows = score_rows(record.readme)
    item = str(part_of(record.submission, "compliance").get("headline_item"))
    for seed, log in record.logs.items():
        own = {row.item: row for row in rows if row.seed == seed}
        if not own:
            yield f"README.md: no table of scores of seed {seed}", None
            continue
        printed = [line.score for line in log.scores]
        is_same = sorted(row.score for row in rows if row.seed == seed) == sorted(printed)
        rows_are = "is" if is_same else "is not"
        yield f"seed {seed}: README.md's table {rows_are} the {len(printed)} score lines of {log.name}", is_same
        is_last = item in own and printed[-1:] == [own[item].score]
        yield f"seed {seed}: headline {item} {'ends' if is_last else 'does not end'} {log.name}", is_last
        for row in own.values():
            for key, value in (("target_tokens", row.targets), ("eval_bytes", row.bytes)):
                counts = {"README.md": value, "submission.json": number_of(record.results.get(seed, {}), key)}
                yield from agreement(f"seed {seed}, {row.item}: {key}", counts)


def _counts(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        for name, key in (("tokens", "val_tokens"), ("targets", "target_tokens")):
            counts = {log.name: log.last(name), "submission.json": number_of(record.results.get(seed, {}), key)}
            yield from agreement(f"seed {seed}: {name}", counts)


def _times(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        logged, steps = log.last("scoring seconds"), log.all["training ms"]
        scoring, training = (
            number_of(record.results.get(seed, {}), key) for key in ("eval_time_s", "train_wallclock_ms")
        )
        if logged is None or not steps or training is None:
            yield f"seed {seed}: {log.name} or submission.json does not say how long it took", None
            continue
        yield recomputed(f"seed {seed}: seconds of scoring", scoring, logged, log.name)
        latest = max(steps)
        yield f"seed {seed}: training took {training:,} ms, {log.name} reaches {latest:,}", latest <= training + 1000


CLAIMS: dict[str, Callable[[Record], Iterator[Claim]]] = {
    "code size": _code_size,
    "artifact size": _artifact_size,
    "total size": _total_size,
    "digests": _digests,
    "scores": _scores,
    "means": _means,
    "statistics": _statistics,
    "implied bytes": _implied_bytes,
    "README": _readme,
    "counts": _counts,
    "times": _times,
}
"""What is compared -> its claims."""
