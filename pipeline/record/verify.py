"""Does a record folder say what its own files say? Sizes, digests, numbers, implied bytes, a program that starts.

The one idea: every number of a record is stated at several places; where two of them are present they must agree, and
what is stated nowhere is reported as such, not as passed. Nothing is trusted and nothing but `train_gpt.py --help` is
run, so that it works on any folder of the challenge, ours or not. What the audit proves is not repeated here.

Source: the log lines and fields that the challenge's records share (docs/concepts.md, "The record").
Checked by: tests/record/test_verify.py.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.base.checks import require
from pipeline.base.files import require_plain_files, sha256_of_file
from pipeline.launching.workplace import kill_group, workplace
from pipeline.quant.config import CHALLENGE_LIMIT_BYTES
from pipeline.record.claims import Claim, agreement, equal_as_stated, number_of, recomputed, stated_number
from pipeline.record.minify import unwrap
from pipeline.record.seed_log import SeedLog, implied_bytes, record_text
from pipeline.record.significance import comparison_fields

CANONICAL = {151_080_362: "FineWeb val, 1,024 pieces", 151_080_891: "FineWeb val, 8,192 pieces"}
"""Text bytes of the challenge's validation set, by the tokenizers whose targets cover it."""
START_SECONDS = 120.0
"""Time that `train_gpt.py --help` may take."""

Verdict = Literal["ok", "FAIL", "not stated"]


class Check(NamedTuple):
    """One line of the table."""

    name: str
    verdict: Verdict
    evidence: str


class Record(NamedTuple):
    """What there is of a record folder."""

    folder: Path
    submission: Mapping[str, Any]
    """submission.json with every number as a Decimal, which keeps the digits that were stated."""
    logs: Mapping[str, SeedLog]
    """By seed, or by file name where no seed is known."""

    @property
    def program(self) -> Path:
        """The file that is counted and run."""
        return self.folder / "train_gpt.py"

    def seed_results(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield every seed with its entry, as far as entries are objects."""
        results = self.submission.get("seed_results", {})
        for seed, entry in results.items() if isinstance(results, Mapping) else ():
            if isinstance(entry, Mapping):
                yield str(seed), entry

    def result(self, seed: str) -> Mapping[str, Any]:
        """Return the entry of a seed, empty where there is none."""
        return dict(self.seed_results()).get(seed, {})


def verify_folder(folder: Path, environment: Mapping[str, str]) -> list[Check]:
    """Return all checks of a record folder; `environment`: variables for the program's process.

    Raises ValueError when the folder holds no train_gpt.py, or anything but files and folders.
    """
    return [*check_statements(folder), _check("program", list(_program(folder / "train_gpt.py", environment)))]


def check_statements(folder: Path) -> list[Check]:
    """Return the checks that run nothing; raises ValueError when the folder holds no train_gpt.py."""
    record = read_record(folder)
    parts: dict[str, Callable[[Record], Iterator[Claim]]] = {
        "code size": _code_size,
        "artifact size": _artifact_size,
        "total size": _total_size,
        "digests": _digests,
        "scores": _scores,
        "means": _means,
        "statistics": _statistics,
        "implied bytes": _implied_bytes,
        "README": _readme,
    }
    return [_check(name, list(claims(record))) for name, claims in parts.items()]


def verify_table(checks: list[Check]) -> str:
    """Return the checks as aligned text, one line each."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:{width}}  {check.verdict:10}  {check.evidence:.2000}" for check in checks)


def read_record(folder: Path) -> Record:
    """Read what a folder holds; raises ValueError, naming the file, without train_gpt.py or for texts that are none."""
    require((folder / "train_gpt.py").is_file(), f"{folder}/train_gpt.py", "no such file", "a record folder")
    require_plain_files(folder)
    path = folder / "submission.json"
    try:
        text = record_text(path) if path.is_file() else "{}"
        submission = json.loads(text, parse_float=stated_number, parse_int=lambda digits: int(stated_number(digits)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({str(error)[:120]})") from None
    require(isinstance(submission, dict), str(path), type(submission).__name__, "an object")
    named = submission.get("seed_results") or submission.get("seeds")
    seeds = [str(seed) for seed in named] if isinstance(named, list | dict) else []
    paths = sorted(path for pattern in ("*.log", "train*.txt", "logs/*") for path in folder.glob(pattern))
    logs = {}
    for path in (path for path in paths if path.is_file()):
        log = SeedLog(path.name, record_text(path))
        logs[log.seed_among(seeds) or path.name] = log
    return Record(folder, submission, logs)


def _check(name: str, claims: list[Claim]) -> Check:
    """Return one line: the first claim that fails, else all that hold."""
    for evidence, holds in claims:
        if holds is False:
            return Check(name, "FAIL", evidence)
    held = list(dict.fromkeys(evidence for evidence, holds in claims if holds))
    if held:
        return Check(name, "ok", "; ".join(held))
    unstated = "; ".join(dict.fromkeys(evidence for evidence, _ in claims))
    return Check(name, "not stated", unstated or "nothing to compare")


def _code_size(record: Record) -> Iterator[Claim]:
    size = record.program.stat().st_size
    stated: list[tuple[str, Any]] = [(log.name, log.code_bytes) for log in record.logs.values()]
    stated += [("submission.json", number_of(record.submission, key)) for key in ("bytes_code", "code_bytes")]
    for where, value in stated:
        if value is not None:
            ok = value == size
            yield (f"{size:,} bytes on disk" if ok else f"{size:,} bytes on disk, {where} states {value:,}"), ok


def _artifact_size(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        sizes = {"its log": log.artifact_bytes, "submission.json": number_of(record.result(seed), "artifact_bytes")}
        if artifact := _artifact(record, seed):
            sizes["the file"] = artifact.stat().st_size
        yield agreement(f"seed {seed}", sizes)


def _total_size(record: Record) -> Iterator[Claim]:
    totals: list[Any] = []
    for seed, log in record.logs.items():
        if None not in (log.code_bytes, log.artifact_bytes):
            totals.append(int(log.code_bytes or 0) + int(log.artifact_bytes or 0))
            yield agreement(f"seed {seed}", {"code + artifact": totals[-1], "its log's total": log.total_bytes})
    stated = number_of(record.submission, "bytes_total")
    if totals:
        yield agreement("largest", {"logs": max(totals), "submission.json": stated})
    elif stated is not None:
        totals = [stated]
    for total in totals:
        yield f"{total:,} bytes of {CHALLENGE_LIMIT_BYTES:,}", total <= CHALLENGE_LIMIT_BYTES


def _digests(record: Record) -> Iterator[Claim]:
    for seed, log in record.logs.items():
        for name, digest in log.digests.items():
            path = next(
                (path for path in (record.folder / name, record.folder / "tokenizers" / name) if os.path.isfile(path)),
                None,
            )
            if path is not None:
                ok = sha256_of_file(path) == digest
                yield (name if ok else f"{name}: not the file whose digest {log.name} states"), ok
        stated = record.result(seed).get("artifact_sha256")
        artifact = _artifact(record, seed)
        if stated and artifact:
            ok = sha256_of_file(artifact) == stated
            yield (artifact.name if ok else f"{artifact.name}: not the file whose digest submission.json states"), ok


def _scores(record: Record) -> Iterator[Claim]:
    for seed, result in record.seed_results():
        log = record.logs.get(seed)
        if log is None or not log.scores:
            yield f"seed {seed}: no log with a final score", None
            continue
        last = log.scores[-1]
        for key, printed in (("val_loss", last.val_loss), ("val_bpb", last.val_bpb)):
            if (stated := number_of(result, key)) is not None:
                ok = equal_as_stated(stated, printed)
                wrong = f"seed {seed}: submission.json states {key} {stated}, {log.name} ends at {printed}"
                yield (f"seed {seed}: {key} {printed}" if ok else wrong), ok


def _means(record: Record) -> Iterator[Claim]:
    for key in ("val_loss", "val_bpb"):
        values = [value for _, entry in record.seed_results() if (value := number_of(entry, key)) is not None]
        stated, std = number_of(record.submission, key), number_of(record.submission, f"{key}_std")
        if values and stated is not None:
            yield recomputed(f"mean {key}", stated, statistics.fmean(values))
        if len(values) > 1 and std is not None:
            yield recomputed(f"std of {key}", std, statistics.stdev(map(float, values)))


def _statistics(record: Record) -> Iterator[Claim]:
    baseline = record.submission.get("comparison_baseline")
    theirs = baseline.get("val_losses") if isinstance(baseline, Mapping) else None
    ours = [number_of(entry, "val_loss") for _, entry in record.seed_results()]
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
        stated, targets = number_of(record.result(seed), "eval_bytes"), log.target_tokens
        if targets is None or not log.scores:
            continue
        try:
            implied = [implied_bytes(line, targets) for line in log.scores]
        except ValueError as error:
            yield f"seed {seed}: {error}", False
            continue
        middle, spread = implied[-1]
        known = next((title for size, title in CANONICAL.items() if abs(size - middle) <= spread), None)
        about = f"seed {seed}: {targets:,} targets, {middle:,.0f} bytes" + (f" ({known})" if known else "")
        yield about, None
        for line, (value, allowed) in zip(log.scores, implied, strict=True):
            ok = abs(value - middle) <= allowed + spread
            yield (about if ok else f"seed {seed}: {line.name} implies {value:,.0f} bytes, the last {middle:,.0f}"), ok
        if stated is not None:
            ok = abs(float(stated) - middle) <= spread
            yield (about if ok else f"seed {seed}: scores imply {middle:,.0f} bytes, {stated:,} stated"), ok


def _readme(record: Record) -> Iterator[Claim]:
    stated, path = number_of(record.submission, "val_bpb"), record.folder / "README.md"
    if stated is None or not path.is_file():
        return
    text = record_text(path)
    shown = next((form for digits in (8, 6, 5, 4) if (form := f"{stated:.{digits}f}") in text), None)
    absent = f"README.md nowhere states val_bpb {stated:.4f} of submission.json"
    yield (f"states {shown}" if shown else absent), bool(shown)


def _program(program: Path, environment: Mapping[str, str]) -> Iterator[Claim]:
    try:
        source = unwrap(program.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "train_gpt.py", "exec")
    except Exception as error:  # any failure of foreign code to be read is the finding
        yield f"train_gpt.py does not compile: {type(error).__name__}: {str(error)[:100]}", False
        return
    if "ArgumentParser" not in source:
        yield "compiles; has no command line to try", True
        return
    yield _start(program, environment)


def _start(program: Path, environment: Mapping[str, str]) -> Claim:
    """Return whether `train_gpt.py --help` works alone in an empty folder."""
    with workplace() as place:
        (place.folder / "train_gpt.py").write_bytes(program.read_bytes())
        home = {"HOME": str(place.folder), "TMPDIR": str(place.folder)}
        with place.start(
            [sys.executable, "-I", "train_gpt.py", "--help"],
            env={**home, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            errors="replace",
        ) as process:
            try:
                _, said = process.communicate(timeout=START_SECONDS)
            except subprocess.TimeoutExpired:
                return f"train_gpt.py --help: no end within {START_SECONDS:g} s", False
            finally:
                kill_group(process)
    last = (said.strip().splitlines() or ["no output"])[-1][:120]
    return ("starts alone" if process.returncode == 0 else f"train_gpt.py --help: {last}"), process.returncode == 0


def _artifact(record: Record, seed: str) -> Path | None:
    """Return the artifact of a seed, where the folder holds one."""
    names = (f"model_seed{seed}.fwy", *(["model.fwy"] if len(record.logs) == 1 else []))
    return next((record.folder / name for name in names if os.path.isfile(record.folder / name)), None)
