"""Does a record say what its own files say? The table of all comparisons, and those of scores, runs, times and README.

The one idea: a number that is stated at two places must be one number. `fairway verify` takes any folder of the
challenge and lets pass what is not stated; `fairway audit`, which judges records that Fairway made, does not.

Source: the log lines and fields that the challenge's records share (docs/verifying.md).
Checked by: tests/verification/test_verify.py, tests/verification/test_records.py, tests/stages/test_audit.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from pipeline.record.significance import comparison_fields
from pipeline.verification.denominators import check_denominators
from pipeline.verification.fields import NAME, Stated, number_in, part_of
from pipeline.verification.findings import Finding, Place, Verdict, finding, shown
from pipeline.verification.folder import Record, filed_seed, named_seed
from pipeline.verification.keys import Quantity
from pipeline.verification.program import ShippedCode
from pipeline.verification.readme import check_readme
from pipeline.verification.runs import Run, Score
from pipeline.verification.series import judged_in_all
from pipeline.verification.sizes import check_artifact_size, check_code_size, check_digests, check_total_size
from pipeline.verification.support import CHECKS, judged

LIMIT_SECONDS = 600
_LIMIT_SLACK_MS = 1000
"""A step that begins in time ends in it."""
_LIMIT = Place("the challenge's limit", None, LIMIT_SECONDS * 1000)


def _stated(record: Record, *quantities: Quantity, of_seeds: bool) -> Iterator[Stated]:
    for stated in record.submission.stated:
        if stated.quantity in quantities and (stated.seed is not None) == of_seeds:
            yield stated


def _of_seeds(record: Record, *quantities: Quantity) -> Iterator[Finding]:
    """Yield whether each seed's run supports what the seed's entry states."""
    for stated in _stated(record, *quantities, of_seeds=True):
        run = record.runs.get(str(stated.seed))
        if run is None:
            said = f"{stated.place} {shown(stated.value)}: no log of seed {stated.seed}"
            yield finding(CHECKS[stated.quantity], "not stated", said, stated.at)
        else:
            yield judged(run, stated)


def _in_all(record: Record, *quantities: Quantity) -> Iterator[Finding]:
    for stated in _stated(record, *quantities, of_seeds=False):
        yield judged_in_all(record, stated)


def _artifact_size(record: Record, program: ShippedCode) -> Iterator[Finding]:
    yield from check_artifact_size(record)
    yield from _of_seeds(record, "artifact bytes")
    yield from _in_all(record, "artifact bytes")


def _total_size(record: Record, program: ShippedCode) -> Iterator[Finding]:
    yield from check_total_size(record, program)
    yield from _of_seeds(record, "total bytes")
    yield from _in_all(record, "total bytes")


def _scores(record: Record, program: ShippedCode) -> Iterator[Finding]:
    yield from _of_seeds(record, "bpb", "loss")


def _means(record: Record, program: ShippedCode) -> Iterator[Finding]:
    scored = next((run for run in record.all_runs if run.scores), None)
    is_stated = any(each.quantity in ("bpb", "loss") for each in record.submission.stated)
    if scored and not is_stated:
        last = scored.scores[-1]
        found = Place(scored.name, last.line, last.score.val_bpb)
        said = f"{NAME} states no score, {found.file} line {last.line} {last.score.val_bpb}"
        yield finding("means", "contradiction", said, None, found)
    yield from _in_all(record, "bpb", "loss")
    yield from _all_runs(record)


def _all_runs(record: Record) -> Iterator[Finding]:
    """Yield whether the runs that are all listed are the seeds' results."""
    listed = record.fields.get("all_runs")
    if not isinstance(listed, list) or not any(run.digests for run in record.runs.values()):
        return  # others list runs of other seeds too
    named = [{**run, "seed": str(run.get("seed"))} for run in listed if isinstance(run, Mapping)]
    results = {seed: entry for seed, entry in record.results.items() if entry}
    wanted = [{"seed": seed, **{key: entry.get(key) for key in Score._fields}} for seed, entry in results.items()]
    is_same = named == wanted and len(listed) == len(wanted)
    said = f"all_runs: {'' if is_same else 'not '}the seeds' results"
    places = Place(NAME, "all_runs", len(listed)), Place(NAME, None, len(wanted))
    yield finding("means", "agreement" if is_same else "contradiction", said, *places)


def _statistics(record: Record, program: ShippedCode) -> Iterator[Finding]:
    theirs = part_of(record.fields, "comparison_baseline").get("val_losses")
    ours = [number_in(entry.get("val_loss")) for entry in record.results.values()]
    if not isinstance(theirs, list) or None in (*ours, *map(number_in, theirs)):
        return
    try:
        computed = comparison_fields([float(loss) for loss in ours if loss is not None], [float(x) for x in theirs])
    except (ValueError, ArithmeticError) as error:
        said = f"comparison_baseline: no test of its losses ({type(error).__name__}: {error})"
        yield finding("statistics", "contradiction", said, Place(NAME, "comparison_baseline", None))
        return
    for key, value in computed.items():
        stated = number_in(record.fields.get(key))
        if value is not None and stated is not None:
            # Other programs have other special functions: six digits are enough to tell a typed number.
            ok = math.isclose(value, stated, rel_tol=1e-6)
            said = f"{key} {value:.4g}" if ok else f"{key}: {shown(stated)} stated, {value:.8g} by its losses"
            place = Place(NAME, key, stated)
            yield finding("statistics", "agreement" if ok else "contradiction", said, place, Place(NAME, None, value))


def _counts(record: Record, program: ShippedCode) -> Iterator[Finding]:
    yield from _of_seeds(record, "tokens", "targets", "params", "steps")
    yield from _in_all(record, "tokens", "targets", "params", "steps")


def _times(record: Record, program: ShippedCode) -> Iterator[Finding]:
    yield from _of_seeds(record, "train ms", "eval ms", "step ms")
    yield from _in_all(record, "train ms", "eval ms", "step ms")
    for run in record.stated_runs:
        for kind, what in (("train ms", "training"), ("eval ms", "scoring")):
            if figures := run.all(kind):  # type: ignore[arg-type]
                longest = max(figures, key=lambda figure: figure.value)
                yield _within_limit(record, run, what, longest.line, longest.value)


def _within_limit(record: Record, run: Run, what: str, line: int, value_ms: Decimal) -> Finding:
    said = f"{run.name} line {line}: {what} took {float(value_ms) / 1000:,.1f} s of {LIMIT_SECONDS}"
    place = Place(run.name, line, value_ms)
    if value_ms <= LIMIT_SECONDS * 1000 + _LIMIT_SLACK_MS:
        return finding("time limit", "agreement", said, place, _LIMIT)
    if fault := _why_no_limit(record):
        return finding("time limit", "warning", f"{said}, {fault}", place, _LIMIT)
    return finding("time limit", "contradiction", said, place, _LIMIT)


def _why_no_limit(record: Record) -> str | None:
    """Return why the ten minutes of the challenge's record track do not bind this folder."""
    track, hardware = str(record.fields.get("track", "")), str(record.fields.get("hardware", ""))
    if record.fields.get("non_record") is True or "non" in track.lower() or "unlimited" in track.lower():
        return "which is stated to be no record"
    return "on other hardware than the challenge's" if hardware and "H100" not in hardware else None


def _runs(record: Record, program: ShippedCode) -> Iterator[Finding]:
    """Yield logs with one content, logs of another seed, runs that nothing states, and sources that differ."""
    first: dict[str, str] = {}
    for log in record.logs:
        other = first.setdefault(log.digest, log.name)
        if other != log.name:
            filed = {
                filed_seed(run, record.seeds)
                for each in record.logs
                if each.name in (other, log.name)
                for run in each.runs
            }
            verdict: Verdict = "contradiction" if len(filed) > 1 else "warning"
            said = f"{log.name} has the content of {other}: one run under two names"
            yield finding("runs", verdict, said, Place(log.name, None, None), Place(other, None, None))
        for digest in log.sources:
            same = digest in program.digests
            said = f"{log.name} prints {'the source of' if same else 'another source than'} train_gpt.py"
            if program.digests:
                yield finding("runs", "agreement" if same else "contradiction", said, Place(log.name, None, None))
    stated = record.stated_runs
    for run in record.all_runs:
        yield from _seed_of(record, run)
        if run not in stated and run.scores:
            said = f"{run.name}: another run{_of_seed(run)}, which {NAME} does not state"
            yield finding("runs", "not stated", said)
    if record.missing_seeds and record.all_runs:
        yield finding("runs", "warning", f"no log of seed {', '.join(record.missing_seeds)}, which {NAME} states")


def _of_seed(run: Run) -> str:
    return f" of seed {run.seed.value}" if run.seed else ""


def _seed_of(record: Record, run: Run) -> Iterator[Finding]:
    filed = named_seed(run, record.seeds)
    if run.seed is None or filed is None:
        return
    stated, found = Place(run.name, None, int(filed)), Place(run.name, run.seed.line, int(run.seed.value))
    if int(filed) == int(run.seed.value):
        yield finding("runs", "agreement", f"{run.name} is of seed {filed}", stated, found)
    else:
        said = f"{run.name} is filed under seed {filed}, its line {run.seed.line} says seed {run.seed.value}"
        yield finding("runs", "contradiction", said, stated, found)


CLAIMS: dict[str, Callable[[Record, ShippedCode], Iterator[Finding]]] = {
    "scores": _scores,
    "means": _means,
    "statistics": _statistics,
    "code size": check_code_size,
    "artifact size": _artifact_size,
    "total size": _total_size,
    "digests": lambda record, program: check_digests(record),
    "counts": _counts,
    "times": _times,
    "implied bytes": lambda record, program: check_denominators(record),
    "runs": _runs,
    "README": lambda record, program: check_readme(record),
}
"""What is compared -> its findings."""
