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

from pipeline.verification.fields import HEADLINES, NAME, Stated
from pipeline.verification.findings import Finding, Place, agree, finding, half_unit, is_cut_off, shown
from pipeline.verification.folder import Record
from pipeline.verification.support import CHECKS, TIMES, is_supported, judged, sources

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
    check = "means" if stated.quantity in ("bpb", "loss") else CHECKS[stated.quantity]
    run = record.headline_run
    if run is not None and not stated.statistic:
        alone = judged(run, stated)
        is_all = len(record.seeds) <= 1 and not (record.seeds and run not in record.runs.values())
        if alone.verdict == "agreement" or is_all:
            return alone._replace(check=check)
    candidates = list(_candidates(record, stated))
    for candidate in candidates:
        if _is_near(stated, candidate):
            return _supported(record, check, stated, candidate)
    return _unsupported(record, check, stated, candidates)


def _is_near(stated: Stated, candidate: Candidate) -> bool:
    value, slack = candidate.found.value, candidate.half_unit
    if stated.quantity in TIMES:
        return is_supported(stated, Decimal(value))
    near = abs(float(stated.value) - float(value)) <= (half_unit(stated.value) + slack) * (1 + 1e-6)
    return near or (check_is_score(stated) and is_cut_off(stated.value, value))


def check_is_score(stated: Stated) -> bool:
    """Return whether a number is a score."""
    return stated.quantity in ("bpb", "loss")


def _supported(record: Record, check: str, stated: Stated, candidate: Candidate) -> Finding:
    said = f"{stated.place} {shown(stated.value)}: {candidate.what}"
    missing = [seed for seed in record.seeds if seed not in record.runs]
    if candidate.found.file == NAME and missing:
        said += f", as stated; no log of seed {', '.join(missing)}"
        return finding(check, "warning", said, stated.at, candidate.found)
    return finding(check, "agreement", said, stated.at, candidate.found)


def _unsupported(record: Record, check: str, stated: Stated, candidates: Sequence[Candidate]) -> Finding:
    missing = [seed for seed in record.seeds if seed not in record.runs]
    is_headline = stated.place in HEADLINES
    what = f"{stated.place} {shown(stated.value)}"
    if not record.all_runs or (missing and not is_headline) or not (candidates or is_headline):
        return finding(check, "not stated", f"{what}: nothing to compare it with", stated.at)
    logs = f"; no log of seed {', '.join(missing)}" if missing else ""
    if not candidates:
        return finding(check, "contradiction", f"{what}: no log supports it{logs}", stated.at, _logs_place(record))
    nearest = min(candidates, key=lambda each: abs(float(stated.value) - float(each.found.value)))
    said = f"{what} is supported by nothing; nearest: {shown(nearest.found.value)}, {nearest.what}{logs}"
    return finding(check, "contradiction", said + _hint(record, stated), stated.at, nearest.found)


def _logs_place(record: Record) -> Place:
    return Place(", ".join(run.name for run in record.all_runs[:4]), None, None)


def _hint(record: Record, stated: Stated) -> str:
    """Return of what else a number of bytes is the mean: a total that leaves out the code."""
    if stated.quantity != "total bytes":
        return ""
    for series in _logged(record, stated._replace(quantity="artifact bytes")):
        if agree(stated.value, round(statistics.fmean(map(float, series.values)))):
            return f"; it is the mean of {series.what}"
    return ""


def _candidates(record: Record, stated: Stated) -> Iterator[Candidate]:
    """Yield what could support a number, the likeliest first."""
    every = [*_entered(record, stated), *_logged(record, stated)]
    kinds = [stated.statistic] if stated.statistic else (["mean"] if check_is_score(stated) else ["max"])
    for kind in kinds:
        for series in every:
            if len(series.values) > 1 or kind != "std":
                for name, compute in _OF_SEEDS[kind]:
                    value = compute(list(map(float, series.values)))
                    is_taken = kind in ("max", "min")
                    exact = max(map(half_unit, series.values)) if not is_taken else 0.0
                    yield Candidate(f"{name} of {series.what}", Place(series.file, None, value), exact)
    if not stated.statistic:
        yield from _of_one_run(record, stated)


def _of_one_run(record: Record, stated: Stated) -> Iterator[Candidate]:
    runs = record.runs or {run.name: run for run in record.all_runs}
    for seed, run in runs.items():
        for source in sources(run, stated):
            what = f"{source.what} of {f'seed {seed}' if seed.isdigit() else seed}"
            yield Candidate(what, source.at, half_unit(source.value))


def _entered(record: Record, stated: Stated) -> Iterator[Series]:
    """Yield series of the seeds' own entries, one for each key that says the same."""
    asked = stated.words - {"mean", "avg", "average", "std", "stdev", "max", "min", "stddev", "sd", "exact"}
    keys: dict[str, dict[str, Decimal]] = {}
    for each in record.submission.stated:
        if each.seed is not None and each.quantity == stated.quantity and not each.statistic:
            keys.setdefault(each.place.rpartition(".")[2], {})[each.seed] = each.value
    complete = [seed for seed, entry in record.results.items() if entry]
    names = sorted(keys, key=lambda key: (set(key.split("_")) - {"exact"} != asked, "exact" not in key, key))
    for key in names:
        if list(keys[key]) == complete:
            yield Series(f"the seeds' {key}", NAME, list(keys[key].values()))


def _logged(record: Record, stated: Stated) -> Iterator[Series]:
    """Yield series of the seeds' logs, one for each line that all of them have."""
    runs = list(record.runs.values())
    if not runs or len(runs) < len(record.seeds):
        return
    found = [{source.what: source.value for source in sources(run, stated)} for run in runs]
    files = ", ".join(dict.fromkeys(run.name for run in runs[:4]))
    for what in reversed(found[0]):
        if all(what in each for each in found):
            yield Series(f"{what} in the logs", files, [each[what] for each in found])
