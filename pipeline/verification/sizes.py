"""Bytes: what logs and submission.json count, what lies on disk, and what counts against the limit.

The one idea: a size that no file has was not shipped. Code is train_gpt.py and every file of the folder that it imports
or opens; the artifact of the challenge is code and model, so that the code on disk and the model of each run must fit,
whatever wrapper a log has counted.

Checked by: tests/verification/test_program.py.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath

from pipeline.quant.config import CHALLENGE_LIMIT_BYTES
from pipeline.verification.fields import NAME, number_in, part_of
from pipeline.verification.findings import Finding, Place, Verdict, finding, same, shown
from pipeline.verification.folder import MOST_DIGESTED_BYTES, PROGRAM, Record
from pipeline.verification.program import ShippedCode
from pipeline.verification.runs import Figure, Run
from pipeline.verification.support import supporters


def check_code_size(record: Record, program: ShippedCode) -> Iterator[Finding]:
    """Yield whether the code that logs and submission.json count is the code on disk."""
    if not program.sizes:
        return
    for stated in record.submission.stated:
        if stated.quantity == "code bytes" and not stated.statistic:
            yield _code_finding(program, stated.place, [Figure(stated.value, 0)], NAME)
    for run in record.stated_runs or record.all_runs:
        if figures := run.latest("code bytes"):
            yield _code_finding(program, run.name, figures, run.name)


def _code_finding(program: ShippedCode, where: str, figures: list[Figure], file: str) -> Finding:
    known = program.known_sizes
    held = next((figure for figure in figures if int(figure.value) in known), None)
    figure = held or min(figures, key=lambda each: abs(int(each.value) - sum(program.sizes.values())))
    stated = Place(file, figure.line or where, figure.value)
    label = f" ({figure.label})" if figure.label else ""
    if held:
        name = known[int(held.value)]
        found = Place(name, None, int(held.value))
        return finding("code size", "agreement", f"{where}: {shown(held.value)}{label} bytes, {name}", stated, found)
    sizes = ", ".join(f"{name} has {size:,}" for name, size in program.sizes.items())
    said = f"{where} states {shown(figure.value)} bytes of code{label}; {sizes}"
    return finding("code size", "contradiction", said, stated, Place(PROGRAM, None, program.sizes.get(PROGRAM)))


def check_artifact_size(record: Record) -> Iterator[Finding]:
    """Yield whether each artifact in the folder has the size that its log and submission.json state."""
    for seed, run in record.runs.items():
        if artifact := artifact_of(record, seed):
            found = Place(artifact.name, None, artifact.stat().st_size)
            for figure in run.latest("model bytes")[-1:]:
                yield same("artifact size", f"seed {seed}", Place(run.name, figure.line, int(figure.value)), found)
            stated = number_in(record.results[seed].get("artifact_bytes"))
            if stated is not None:
                place = Place(NAME, f"seed {seed} artifact_bytes", int(stated))
                yield same("artifact size", f"seed {seed}", place, found)


def artifact_of(record: Record, seed: str) -> Path | None:
    """Return the artifact of a seed, where the folder holds one."""
    names = [f"model_seed{seed}.fwy", *(["model.fwy"] if len(record.seeds) == 1 else [])]
    return next((record.folder / name for name in names if name in record.listing.sizes), None)


def check_total_size(record: Record, program: ShippedCode) -> Iterator[Finding]:
    """Yield whether each run's totals add up, and keep the limit, as logged and as shipped."""
    own = number_in(part_of(record.fields, "compliance").get("limit_bytes"))
    limit = min(CHALLENGE_LIMIT_BYTES, int(own)) if own else CHALLENGE_LIMIT_BYTES
    for run in record.stated_runs or record.all_runs:
        yield from _sums(run)
        model = _model_of(record, run)
        total = _total_of(run, model)
        if total:
            yield _within("total size", f"{run.name} line {total.line} counts", total, run, limit)
        if model and program.sizes:
            yield _shipped(run, model, total, program, limit)
        elif not model:
            yield finding("shipped size", "not stated", f"{run.name} states no size of a model")
    for stated in record.submission.stated:
        if stated.quantity == "total bytes" and not stated.statistic:
            figure = Figure(stated.value, 0)
            if stated.value > limit:
                yield _within("total size", f"{NAME} {stated.place}:", figure, None, limit)


def _within(check: str, what: str, figure: Figure, run: Run | None, limit: int) -> Finding:
    stated = Place(run.name if run else NAME, figure.line or None, figure.value)
    verdict: Verdict = "agreement" if figure.value <= limit else "contradiction"
    said = f"{what} {shown(figure.value)} bytes of {limit:,}"
    return finding(check, verdict, said, stated, Place("the limit", None, limit))


def _sums(run: Run) -> Iterator[Finding]:
    """Yield whether each total of a run is a model and a code of it."""
    models, codes = run.latest("model bytes"), run.latest("code bytes")
    if not models or not codes:
        return
    for total in run.coded("total bytes"):
        sums = {model.value + code.value: (model, code) for model in models for code in codes}
        same_label = [model.value + code.value for model, code in sums.values() if model.label == total.label]
        place = Place(run.name, total.line, total.value)
        if total.value in sums:
            model, code = sums[total.value]
            said = f"{run.name} line {total.line}: {shown(total.value)} = {shown(model.value)} + {shown(code.value)}"
            yield finding("total size", "agreement", said, place, Place(run.name, model.line, total.value))
        elif same_label:
            sum_ = max(same_label)
            said = f"{run.name} line {total.line}: total {shown(total.value)}, its model and code {shown(sum_)}"
            verdict: Verdict = "contradiction" if total.value < sum_ else "warning"
            yield finding("total size", verdict, said, place, Place(run.name, total.line, sum_))


def _model_of(record: Record, run: Run) -> Figure | None:
    """Return the model that a run ships: the one that a stated size means, else the last coded one."""
    models = run.latest("model bytes")
    if any(figure.label for figure in [*models, *run.latest("total bytes")]):
        models = [figure for figure in models if figure.label]
    seed = next((seed for seed, each in record.runs.items() if each is run), None)
    for stated in record.submission.stated:
        if stated.quantity in ("artifact bytes", "total bytes") and stated.seed == seed:
            labels = {source.what.partition("(")[2].rstrip(")") for source in supporters(run, stated)}
            if meant := [model for model in models if model.label in labels]:
                return meant[-1]
    return models[-1] if models else None


def _total_of(run: Run, model: Figure | None) -> Figure | None:
    totals = run.coded("total bytes")
    own = [total for total in totals if model and total.label == model.label]
    return next(reversed(own or totals), None)


def _shipped(run: Run, model: Figure, total: Figure | None, program: ShippedCode, limit: int) -> Finding:
    """Return whether the code on disk and the model of a run keep the limit."""
    code = sum(program.sizes.values())
    whole = code + int(model.value)
    names = " + ".join(f"{name} {size:,}" for name, size in program.sizes.items())
    said = f"{run.name}: {names} + model {shown(model.value)} = {whole:,} of {limit:,} bytes as shipped"
    stated = Place(run.name, (total or model).line, (total or model).value)
    found = Place(PROGRAM, None, whole)
    counted = total.value - model.value if total else Decimal(code)
    is_counted = int(counted) in program.known_sizes
    if not is_counted:
        said += f"; the log counts {shown(counted)} bytes of code, the size of no file here"
    if whole > limit:
        return finding("shipped size", "contradiction", said, stated, found)
    if whole + sum(program.others.values()) > limit:
        said += f"; more, should it need {', '.join(program.others)}"
        return finding("shipped size", "warning", said, stated, found)
    return finding("shipped size", "agreement" if is_counted else "warning", said, stated, found)


def check_digests(record: Record) -> Iterator[Finding]:
    """Yield whether files have the digests that logs and submission.json state."""
    ours = [PROGRAM, *(name for name in record.listing.sizes if name.startswith("tokenizers/"))]
    for seed, run in record.runs.items():
        artifact = artifact_of(record, seed)
        names = {PurePosixPath(name).name: name for name in [*ours, *([artifact.name] if artifact else [])]}
        for name in dict.fromkeys([*run.digests, *(names if run.digests else {})]):
            yield from _digest(record, names.get(name, name), Place(run.name, None, run.digests.get(name)))
        stated = record.results.get(seed, {}).get("artifact_sha256")
        if artifact and stated is not None:
            yield from _digest(record, artifact.name, Place(NAME, f"seed {seed} artifact_sha256", str(stated)))


def _digest(record: Record, name: str, stated: Place) -> Iterator[Finding]:
    if name not in record.listing.sizes:
        return
    if stated.value is None:
        yield finding("digests", "not stated", f"{name}: no digest in {stated.file}", stated)
    elif (digest := record.digest(name)) is None:
        size = record.listing.sizes[name]
        said = f"{name}: {size:,} bytes, with the other files more than {MOST_DIGESTED_BYTES:,}: no digest is computed"
        yield finding("digests", "contradiction", said, stated)
    else:
        yield same("digests", name, stated, Place(name, None, digest))
