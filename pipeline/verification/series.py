"""Numbers of the record as a whole: what a mean, a deviation, a largest value, or one seed's figure supports.

The one idea: a series holds one value for each seed, taken from the seeds' own entries or from their logs. A headline
may be a mean, or the figure of one run; which it is, is said. What only the entries support is worth what their logs
are: where logs are missing it is a warning.

Checked by: tests/verification/test_records.py.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from pipeline.verification.fields import HEADLINES, NAME, Stated, in_ms
from pipeline.verification.findings import COARSEST_SCORE, Finding, Place, agree, finding, half_unit, is_cut_off, shown
from pipeline.verification.folder import Record
from pipeline.verification.support import (
    CHECKS,
    TIMES,
    is_before_quantization,
    is_supported,
    judged,
    sources,
    verdict_of,
)

_OF_SEEDS: dict[str, list[tuple[str, Callable[[Sequence[float]], float]]]] = {
    "mean": [("mean", statistics.fmean)],
    "std": [("sample deviation", statistics.stdev), ("population deviation", statistics.pstdev)],
    "max": [("largest", max)],
    "min": [("smallest", min)],
}


class Series(NamedTuple):
    """One value for each seed."""

    what: str
    file: str
    values: list[Decimal]


class Candidate(NamedTuple):
    """What could support a number of the record as a whole."""

    what: str
    found: Place
    half_unit: float
    """By how much the digits that it was computed from leave it open."""


def judged_in_all(record: Record, stated: Stated) -> Finding:
    """Return whether seeds, or a run, support a number of the record as a whole."""
    check = "means" if _is_score(stated) else CHECKS[stated.quantity]
    run = record.headline_run
    if run is not None and not stated.statistic:
        alone = judged(run, stated)
        if alone.verdict == "agreement" or (len(record.own_runs) == 1 and not record.missing_seeds):
            return alone._replace(check=check)
    candidates = list(_candidates(record, stated))
    for candidate in candidates:
        if _is_near(stated, candidate):
            return _supported(record, check, stated, candidate)
    return _unsupported(record, check, stated, candidates)


def _is_score(stated: Stated) -> bool:
    return stated.quantity in ("bpb", "loss")


def _is_near(stated: Stated, candidate: Candidate) -> bool:
    value, slack = candidate.found.value, candidate.half_unit
    if stated.quantity in TIMES:
        return is_supported(stated, Decimal(value))
    own = min(half_unit(stated.value), COARSEST_SCORE) if _is_score(stated) else half_unit(stated.value)
    near = abs(float(stated.value) - float(value)) <= (own + slack) * (1 + 1e-6)
    return near or _is_cut_off(stated, candidate)


def _is_cut_off(stated: Stated, candidate: Candidate) -> bool:
    return _is_score(stated) and is_cut_off(stated.value, candidate.found.value, COARSEST_SCORE)


def _supported(record: Record, check: str, stated: Stated, candidate: Candidate) -> Finding:
    said = f"{stated.place} {shown(stated.value)}: {candidate.what}"
    if candidate.found.file == NAME and record.missing_seeds:
        said += f", as stated; no log of seed {', '.join(record.missing_seeds)}"
        is_false = stated.place in HEADLINES and record.all_runs
        return finding(check, "contradiction" if is_false else "warning", said, stated.at, candidate.found)
    value, slack = candidate.found.value, candidate.half_unit
    if _is_cut_off(stated, candidate) and abs(float(stated.value) - float(value)) > half_unit(stated.value) + slack:
        return finding(check, "warning", f"{said}, cut off and not rounded", stated.at, candidate.found)
    return finding(check, "agreement", said, stated.at, candidate.found)


def _unsupported(record: Record, check: str, stated: Stated, candidates: Sequence[Candidate]) -> Finding:
    missing, is_headline = record.missing_seeds, stated.place in HEADLINES
    what = f"{stated.place} {shown(stated.value)}"
    if not record.all_runs or (missing and not is_headline) or not (candidates or is_headline):
        return finding(check, "not stated", f"{what}: nothing to compare it with", stated.at)
    logs = f"; no log of seed {', '.join(missing)}" if missing else ""
    if not candidates:
        return finding(check, "contradiction", f"{what}: no log supports it{logs}", stated.at, _logs_place(record))
    nearest = min(candidates, key=lambda each: abs(float(stated.value) - float(each.found.value)))
    said = f"{what} is supported by nothing; nearest: {shown(nearest.found.value)}, {nearest.what}{logs}"
    is_longer = stated.quantity in TIMES and all(in_ms(stated) > Decimal(each.found.value) for each in candidates)
    verdict = "warning" if is_longer else verdict_of(stated)
    return finding(check, verdict, said + _hint(record, stated), stated.at, nearest.found)


def _logs_place(record: Record) -> Place:
    return Place(", ".join(run.name for run in record.all_runs[:4]), None, None)


def _hint(record: Record, stated: Stated) -> str:
    """Return of what else a number of bytes is the mean: a total that leaves out the code."""
    if stated.quantity != "total bytes":
        return ""
    for series in _logged(record, stated._replace(meaning=stated.meaning._replace(quantity="artifact bytes"))):
        if agree(stated.value, round(statistics.fmean(map(float, series.values)))):
            return f"; it is the mean of {series.what}"
    return ""


def _candidates(record: Record, stated: Stated) -> Iterator[Candidate]:
    """Yield what could support a number, the likeliest first."""
    is_size = stated.quantity.endswith("bytes")
    kind = stated.statistic or ("max" if is_size else "mean")
    for series in [*_entered(record, stated), *_logged(record, stated)]:
        for name, compute in _OF_SEEDS[kind]:
            if len(series.values) > 1 or stated.statistic != "std":
                value = compute(list(map(float, series.values)))
                slack = 0.0 if kind in ("max", "min") else max(map(half_unit, series.values))
                yield Candidate(f"{name} of {series.what}", Place(series.file, None, value), slack)
    if not stated.statistic:
        yield from _of_one_run(record, stated)


def _of_one_run(record: Record, stated: Stated) -> Iterator[Candidate]:
    for run in record.own_runs:
        for source in sources(run, stated):
            what = f"{source.what} of {f'seed {run.seed.value}' if run.seed else run.name}"
            yield Candidate(what, source.at, half_unit(source.value))


def _entered(record: Record, stated: Stated) -> Iterator[Series]:
    """Yield series of the seeds' own entries, one for each key that says the same."""
    asked = stated.words - {"mean", "avg", "average", "std", "stdev", "max", "min", "stddev", "sd", "exact"}
    keys: dict[str, dict[str, Decimal]] = {}
    for each in record.submission.stated:
        if each.seed is not None and each.quantity == stated.quantity and not each.statistic and _is_kin(each, stated):
            value = in_ms(each) if each.quantity in TIMES else each.value
            keys.setdefault(each.place.rpartition(".")[2], {})[each.seed] = value
    complete = {seed for seed, entry in record.results.items() if entry}
    names = sorted(keys, key=lambda key: (set(key.split("_")) - {"exact"} != asked, "exact" not in key, key))
    for key in names:
        if keys[key].keys() == complete:
            yield Series(f"the seeds' {key}", NAME, list(keys[key].values()))


def _is_kin(each: Stated, stated: Stated) -> bool:
    """Return whether two keys mean scores of the same weights."""
    return is_before_quantization(each.words) == is_before_quantization(stated.words)


def _logged(record: Record, stated: Stated) -> Iterator[Series]:
    """Yield series of the seeds' logs, one for each line that all of them have."""
    runs = record.own_runs
    if not runs or record.missing_seeds:
        return
    found = [{source.what: source.value for source in sources(run, stated)} for run in runs]
    files = ", ".join(dict.fromkeys(run.name for run in runs[:4]))
    for what in reversed(found[0]):
        if all(what in each for each in found):
            yield Series(f"{what} in the logs", files, [each[what] for each in found])
