"""The text that a score divides by: every pair of loss and bpb implies its bytes, whatever the record says of them.

A score of N targets with mean loss L nats and B bits per byte divides by N * L / (ln 2 * B) bytes. The challenge has
one validation text, so that any other number needs a reason. One reason is honest: sliding windows that score the last
windows again count 31 windows of 64 targets twice, which moves the mean loss and the mean bytes a little.

Source: the challenge's validation shards; N of a log (`target_tokens`, `val_loader ... tokens`, `val_tokens`).
Checked by: tests/verification/test_denominators.py.
"""

import math
from collections.abc import Iterator
from decimal import Decimal

from pipeline.base.checks import require
from pipeline.verification.fields import NAME, Stated, number_in
from pipeline.verification.findings import Finding, Place, finding, half_unit
from pipeline.verification.folder import Record
from pipeline.verification.runs import Run, Score

CHECK = "implied bytes"
CANONICAL = {
    151_080_362: (62_021_632, "FineWeb val, 1,024 pieces"),
    151_080_891: (40_540_802, "FineWeb val, 8,192 pieces"),
}
"""Text bytes of the challenge's validation set -> targets, tokenizer."""
_RESCORED_TARGETS = 31 * 64
_NEAR_FRAC = 1e-4
"""Scores of one text may differ so far in what they imply: targets cut to whole sequences, documents, a tail twice,
exports that move the bytes of case marks."""
_SAME_TEXT_FRAC = 0.05
"""Beyond this a denominator is no edition of the challenge's text."""


def implied_bytes(score: Score, targets: int | Decimal) -> tuple[float, float]:
    """Return the bytes that a score divides by, targets * loss / (ln 2 * bpb), and how far its digits fix them.

    Raises ValueError for a loss or bpb that is not above 0: it divides by nothing.
    """
    assert score.val_loss is not None
    loss, bpb = map(float, (score.val_loss, score.val_bpb))
    require(loss > 0 and bpb > 0, "score", f"val_loss {loss:g} and val_bpb {bpb:g}", "scores above 0")
    value = float(targets) * loss / (math.log(2) * bpb)
    return value, 1 + value * (half_unit(score.val_loss) / loss + half_unit(score.val_bpb) / bpb)


def check_denominators(record: Record) -> Iterator[Finding]:
    """Yield whether all scores of a run divide by one text, and whether that is the text it should be."""
    for seed, run in _runs(record).items():
        targets = targets_of(run)
        if targets is None or not run.scores or run.scores[-1].score.val_loss is None:
            yield finding(CHECK, "not stated", f"{run.name} does not state both targets and a score of the artifact")
            continue
        try:
            yield from _of_run(record, seed, run, targets)
        except ValueError as error:
            yield finding(CHECK, "contradiction", f"{run.name}: {error}", None, Place(run.name, None, None))


def _runs(record: Record) -> dict[str, Run]:
    if record.headline_run is not None and not record.runs:
        return {"": record.headline_run}
    return record.runs or {run.name: run for run in record.own_runs}


def targets_of(run: Run) -> Decimal | None:
    """Return how many targets a run scored."""
    counts = run.all("targets") or run.all("tokens")
    return counts[-1].value if counts else None


def _of_run(record: Record, seed: str, run: Run, targets: Decimal) -> Iterator[Finding]:
    last = run.scores[-1]
    middle, spread = implied_bytes(last.score, targets)
    others = {
        line: implied_bytes(line.score, targets) for line in run.last_scores if line is not last and line.score.val_loss
    }
    for line, (value, allowed) in others.items():
        if abs(value - middle) > allowed + spread + _NEAR_FRAC * middle:
            said = f"{run.name} line {line.line} ({line.name}) implies {value:,.0f} bytes of text, line {last.line} "
            stated, found = Place(run.name, line.line, round(value)), Place(run.name, last.line, round(middle))
            yield finding(CHECK, "contradiction", f"{said}{middle:,.0f}", stated, found)
    place = Place(run.name, last.line, round(middle))
    for stated, score in _stated_scores(record, seed, with_headline=run is next(iter(_runs(record).values()))):
        value, allowed = implied_bytes(score, targets)
        if abs(value - middle) > allowed + spread + _NEAR_FRAC * middle:
            said = f"{stated.file} {stated.where} implies {value:,.0f} bytes of text, {run.name} {middle:,.0f}"
            yield finding(CHECK, "contradiction", said, stated._replace(value=round(value)), place)
    eval_bytes = next((each for each in record.submission.stated if _is_eval_bytes(each, seed)), None)
    if eval_bytes:
        is_same = abs(float(eval_bytes.value) - middle) <= spread
        said = f"{eval_bytes.place} {int(eval_bytes.value):,}: {run.name} line {last.line} implies {middle:,.0f}"
        yield finding(CHECK, "agreement" if is_same else "contradiction", said, eval_bytes.at, place)
    if not eval_bytes or run.is_fineweb:
        unslid = [implied for line, implied in others.items() if "slid" not in line.name and line.weights == "artifact"]
        yield _canonical(run, (middle, spread), targets, unslid)


def _is_eval_bytes(stated: Stated, seed: str) -> bool:
    return stated.quantity == "text bytes" and (stated.seed or "") == seed


def _stated_scores(record: Record, seed: str, with_headline: bool) -> Iterator[tuple[Place, Score]]:
    """Yield the pairs of loss and bpb that submission.json states: of a seed, and of the record as a whole."""
    headline = {"headline": record.fields} if with_headline else {}
    for where, entry in {f"seed {seed}": record.results.get(seed, {}), **headline}.items():
        loss, bpb = number_in(entry.get("val_loss")), number_in(entry.get("val_bpb"))
        if loss is not None and bpb is not None:
            yield Place(NAME, where, None), Score(loss, bpb)


def _canonical(run: Run, last: tuple[float, float], targets: Decimal, unslid: list[tuple[float, float]]) -> Finding:
    """Return whether the bytes that a run divides by are those of the challenge's text.

    `unslid`: what its scores without sliding windows imply, which score nothing twice.
    """
    middle, spread = last
    size = min(CANONICAL, key=lambda size: (abs(CANONICAL[size][0] - targets) > targets // 100, abs(size - middle)))
    title = CANONICAL[size][1] if abs(CANONICAL[size][0] - targets) <= targets // 100 else "FineWeb val, other pieces"
    excess = middle - size
    stated = Place(run.name, run.scores[-1].line, round(middle))
    found = Place("the challenge's text", None, size)
    said = f"{run.name}: its {len(run.last_scores)} scores divide by {middle:,.0f} bytes"
    if abs(excess) <= spread:
        return finding(CHECK, "agreement", f"{said}: {title}", stated, found)
    if abs(excess) <= _NEAR_FRAC * size:
        return finding(
            CHECK,
            "agreement",
            f"{said}: {title}, {excess:+,.0f}{_reason(excess, size, targets, unslid)}",
            stated,
            found,
        )
    said += f", {100 * excess / size:+.1f} % of {size:,} ({title}): another text"
    is_more = excess > _SAME_TEXT_FRAC * size
    return finding(CHECK, "contradiction" if is_more else "warning", said, stated, found)


def _reason(excess: float, size: int, targets: Decimal, unslid: list[tuple[float, float]]) -> str:
    """Return why a score may imply a few bytes more or less than the text has."""
    num_targets = CANONICAL[size][0]
    twice = excess + size * _RESCORED_TARGETS / float(targets)
    is_exact_unslid = any(abs(value - size) <= spread for value, spread in unslid)
    if is_exact_unslid and 0 < twice < 2 * size * _RESCORED_TARGETS / float(targets):
        return f": 31 windows x 64 targets scored twice, {twice:,.0f} bytes of them"
    is_cut = 0 < abs(targets - num_targets) <= targets // 100
    return f": {targets:,} targets, not {num_targets:,}" if is_cut else ""
