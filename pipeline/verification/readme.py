"""README.md: the record's score in it, and the tables of scores that Fairway writes, against logs and submission.json.

Checked by: tests/verification/test_verify.py, tests/record/test_statements.py, tests/stages/test_audit.py.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from pipeline.base.checks import one_line
from pipeline.record.statements import headline
from pipeline.verification.fields import NAME, number_in, part_of
from pipeline.verification.findings import Finding, Place, Verdict, agree, finding, shown
from pipeline.verification.folder import README, Record
from pipeline.verification.runs import Score, stated_number

_MOST_SEARCHED = 200_000
_SCORE_ROW = re.compile(
    r"\| (\d+) \| (\S+) \| artifact \| (\d{1,6}\.\d{8}) \| (\d{1,6}\.\d{8}) \| ([\d,]+) \| ([\d,]+) \|", re.ASCII
)


class ScoreRow(NamedTuple):
    """A row of README.md's table: the artifact's score under one item."""

    seed: str
    item: str
    score: Score
    targets: Decimal
    bytes: Decimal


def score_rows(readme: str) -> list[ScoreRow]:
    """Return what README.md's table, as Fairway writes it, states of the artifacts' scores."""
    return [
        ScoreRow(seed, item, Score(stated_number(loss), stated_number(bpb)), *map(stated_number, counts))
        for seed, item, loss, bpb, *counts in _SCORE_ROW.findall(readme)
    ]


def check_readme(record: Record) -> Iterator[Finding]:
    """Yield whether README.md states the record's score, and in its tables what the logs hold."""
    bpb, loss = (number_in(record.fields.get(key)) for key in ("val_bpb", "val_loss"))
    if bpb is None or record.readme is None:
        return
    place, readme = Place(NAME, "val_bpb", bpb), Place(README, None, None)
    shown_ = next((form for digits in (8, 7, 6, 5, 4) if (form := f"{bpb:.{digits}f}") in record.readme), None)
    if shown_:
        yield finding("README", "agreement", f"{README} states {shown_}", place, readme._replace(value=Decimal(shown_)))
    else:
        beside = re.search(r"bpb[^\d\n]{0,12}(\d\.\d{3,12})(?!\d)", record.readme[:_MOST_SEARCHED], re.IGNORECASE)
        verdict: Verdict = "contradiction" if beside else "warning"
        other = f" but {beside[1]}" if beside else ""
        said = f"{README} nowhere states val_bpb {bpb:.4f} of {NAME}{other}"
        yield finding("README", verdict, said, place, readme._replace(value=Decimal(beside[1])) if beside else readme)
    if "**val_bpb " in record.readme:
        said = headline(float(loss or 0), float(bpb))
        is_once = said in record.readme and record.readme.count("**val_bpb ") == 1
        verdict = "agreement" if is_once else "contradiction"
        yield finding("README", verdict, f"{README}: {'one' if is_once else 'not one'} headline {said}", place, readme)
    yield from _tables(record, record.readme)


def _tables(record: Record, readme: str) -> Iterator[Finding]:
    """Yield whether the tables of scores that Fairway writes are the score lines of the logs."""
    rows = score_rows(readme)
    item = str(part_of(record.fields, "compliance").get("headline_item"))
    for seed, run in record.runs.items():
        own = {row.item: row for row in rows if row.seed == seed}
        if not own:
            continue
        printed = [line.score for line in run.scores]
        place = Place(README, f"table of seed {seed}", len(own))
        is_same = sorted(row.score for row in rows if row.seed == seed) == sorted(printed)
        said = f"seed {seed}: {README}'s table is{'' if is_same else ' not'} the {len(printed)} scores of {run.name}"
        yield finding("README", "agreement" if is_same else "contradiction", said, place, Place(run.name, None, None))
        is_last = item in own and printed[-1:] == [own[item].score]
        said = f"seed {seed}: headline {one_line(item)} {'ends' if is_last else 'does not end'} {run.name}"
        yield finding("README", "agreement" if is_last else "contradiction", said, place, Place(run.name, None, None))
        for row in own.values():
            for key, value in (("target_tokens", row.targets), ("eval_bytes", row.bytes)):
                stated = number_in(record.results[seed].get(key))
                if stated is not None:
                    ok = agree(stated, value)
                    said = f"seed {seed}, {row.item}: {README} states {key} {shown(value)}, {NAME} {shown(stated)}"
                    found = Place(README, f"table of seed {seed}", value)
                    at = Place(NAME, f"seed {seed} {key}", stated)
                    yield finding("README", "agreement" if ok else "contradiction", said, at, found)
