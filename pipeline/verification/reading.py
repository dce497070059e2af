"""What a log states, ours or anybody's: the only reader of log lines, which verify, package and audit share.

The one idea: people's lines differ in prefix, spacing and digits, not in the words that carry the figures. So a line is
searched for those words, whatever stands around them, and every figure keeps its line number and what the line calls
it. A log may hold several runs, which begin where another seed is named; of two lines with one name the later counts.
Source that a log prints is no statement. Lines are cut at a length that no statement has, so that time is linear.

Source: the lines that the challenge's records share (docs/verifying.md).
Checked by: tests/verification/test_reading.py, tests/record/test_statements.py.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal

from pipeline.record.statements import is_score_as_written
from pipeline.verification.runs import MOST_FIGURES, Figure, Kind, Log, Run, Score, ScoreLine, stated_number

MOST_LOG_BYTES, MOST_LOG_LINES, MOST_RUNS = 8_000_000, 40_000, 64
_LONGEST_LINE = 2000
_SEPARATOR = b"=" * 100
"""What programs of the challenge print before and after their own source."""
_WORTH_READING = re.compile(rb"[bB][pP][bB]|final_|bytes|size|step|_time|seed|SEED|tokens|params|sha256|fineweb")
_STAMP = re.compile(r"^(?:\[?\d[\d:.,TZ/-]*\]?\s+)+")
"""A time stamp, or several words of one."""


def read_log(name: str, content: bytes) -> Log:
    """Return what a log states; ValueError for one with too many lines or runs."""
    lines = content.split(b"\n", MOST_LOG_LINES)
    if len(lines) > MOST_LOG_LINES:
        raise ValueError(f"{name}: got more than {MOST_LOG_LINES:,} lines, expected a log")
    printed = list(_printed_sources(lines))
    source_lines = set().union(*printed)
    runs = [Run(name)]
    pending: list[tuple[int, str]] = []
    for number, raw in enumerate(lines, 1):
        if not _WORTH_READING.search(raw, 0, _LONGEST_LINE) or number in source_lines:
            continue
        text = _text_of(raw)
        if seed := _seed_of(text, number):
            _begin(runs, seed, pending, is_alone=bool(_SEED_ALONE.fullmatch(_STAMP.sub("", text))))
        pending.append((number, text))
        if _read_line(runs[-1], number, text):
            pending.clear()
    for run in runs:
        _count_oddities(run, len(runs))
    sources = [source_digest(b"\n".join(lines[span.start - 1 : span.stop - 1])) for span in printed]
    return Log(name, runs, hashlib.sha256(content).hexdigest(), sources)


def source_digest(source: bytes) -> str:
    """Return the hex sha256 of a source text without white space at its ends."""
    return hashlib.sha256(source.strip()).hexdigest()


def _text_of(raw: bytes) -> str:
    return raw[:_LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")


def _printed_sources(lines: Sequence[bytes]) -> Iterator[range]:
    """Yield the line numbers, from 1, of sections that are a program's source."""
    ends = [index for index, line in enumerate(lines) if line.strip() == _SEPARATOR]
    for start, end in zip([-1, *ends], ends, strict=False):
        section = lines[start + 1 : end]
        starts = {line.split(b" ", 1)[0] for line in section}
        if starts & {b"import", b"from"} and starts & {b"def", b"class"}:
            yield range(start + 2, end + 1)


def _begin(runs: list[Run], seed: Figure, pending: list[tuple[int, str]], is_alone: bool) -> None:
    """Begin another run when a line names another seed and nothing else; what came since the last result is its."""
    run = runs[-1]
    if run.seed is None or run.seed.value == seed.value or not is_alone:
        run.seed = run.seed or seed
        return
    if len(runs) == MOST_RUNS:
        raise ValueError(f"{run.name}: got runs of more than {MOST_RUNS} seeds, expected a log")
    runs.append(Run(run.name))
    runs[-1].seed = seed
    for number, text in pending:
        _read_line(runs[-1], number, text)
    pending.clear()


def _read_line(run: Run, number: int, text: str) -> bool:
    """Keep what a line states; return whether it is a result, which no line of a later run precedes."""
    if ("val_bpb" in text or "final_" in text) and not is_score_as_written(text):
        run.odd(text)
    run.is_fineweb |= "fineweb" in text
    if text.startswith("sha256 ") and (found := re.match(r"sha256 (\S+) (.+)", text)):
        if run.digests.get(found[2], found[1]) != found[1]:
            run.odd(f"{found[2]:.60} in several ways")
        run.digests[found[2]] = found[1]
        return True
    is_score = _read_score(run, number, text)
    is_size = _read_sizes(run, number, text)
    is_time = _read_counts(run, number, text)
    return is_score or is_size or is_time


_LOSS = re.compile(r"(?:val|eval)[_ ]loss\w{0,20}[\"']?\s{0,3}[:= ]\s{0,3}(\d+\.\d+)", re.IGNORECASE)
_BPB = re.compile(r"(?<![A-Za-z])(?:val[_ ])?bpb\w{0,20}[\"']?\s{0,3}[:= ]\s{0,3}(\d+\.\d+)", re.IGNORECASE)
_TRAINING = re.compile(r"^(?:step|iter|epoch)|^\S*(?:chunk|batch)|\[\s{0,4}\d+/\d+", re.IGNORECASE)
"""Names of scores on the way: of training, or of a text that is half scored."""
_BEFORE = re.compile(r"(?:pre|before).?quant|unquantized", re.IGNORECASE)
_FLOAT = re.compile(
    r"\bfloat|\bfp(?:16|32)|\bbf16|\braw\b|(?<![a-z])(?:ema|swa)(?![a-z])|full.?precision", re.IGNORECASE
)
_CODED = re.compile(r"int\d|quantized", re.IGNORECASE)


def _read_score(run: Run, number: int, text: str) -> bool:
    bpb = _BPB.search(text)
    if not bpb:
        return False
    loss = _LOSS.search(text)
    start = min(bpb.start(), loss.start()) if loss else bpb.start()
    name = _STAMP.sub("", text[:start]).strip(" :-|,({\"'")
    score = Score(stated_number(loss[1]) if loss else None, stated_number(bpb[1]))
    weights = _weights_of(name)
    if weights == "training":
        run.lines = [line for line in run.lines if line.weights != "training"]
        run.lines.append(ScoreLine("training", score, number, weights))
    elif len(run.lines) < MOST_FIGURES:
        run.lines.append(ScoreLine(name, score, number, weights))
    return weights != "training"


def _weights_of(name: str) -> Literal["artifact", "float", "training"]:
    """Return what was scored, by what a line calls it."""
    if _TRAINING.search(name):
        return "training"
    is_float = _BEFORE.search(name) or (_FLOAT.search(name) and not _CODED.search(name))
    return "float" if is_float else "artifact"


_SIZES: dict[Kind, tuple[str, re.Pattern[str]]] = {
    "code bytes": (
        "Code size",
        re.compile(r"\bCode size(?:\s*\((?P<label>[^)]{1,40})\)|\s(?P<word>\w{1,40}))?\s*:\s*(\d[\d,_]*+)(?!\.\d)"),
    ),
    "model bytes": (
        " model",
        re.compile(
            r"\b(?:Serialized model(?:\s(?P<label>\S{1,40}))?|(?P<word>Compressed) model)\s*:\s*(\d[\d,_]*+)(?!\.\d)"
        ),
    ),
    "total bytes": (
        "Total submission size",
        re.compile(r"\bTotal submission size(?:\s(?P<label>\S{1,40}))?\s*:\s*(?P<word>)(\d[\d,_]*+)(?!\.\d)"),
    ),
}
"""Kind -> words that a line must hold, for speed, and what reads it."""
_PIPED = re.compile(r"(\S{1,80}):\s*(\d[\d,_]*) bytes\s*\|\s*code:\s*(\d[\d,_]*)[^|]{0,20}\|\s*total:\s*(\d[\d,_]*)")


def _read_sizes(run: Run, number: int, text: str) -> bool:
    if "| total:" in text and (piped := _PIPED.search(text)):
        kinds: tuple[Kind, ...] = ("model bytes", "code bytes", "total bytes")
        for kind, value in zip(kinds, piped.groups()[1:], strict=True):
            run.note(kind, Figure(stated_number(value), number, "" if kind == "code bytes" else piped[1]))
        return True
    for kind, (words, pattern) in _SIZES.items():
        if words in text and (found := pattern.search(text)):
            label = (found["label"] or found["word"] or "").rstrip(":")
            run.note(kind, Figure(stated_number(found[3]), number, label))
            return True
    return False


_COUNTS: list[tuple[Kind, str, re.Pattern[str]]] = [
    ("tokens", "val_tokens", re.compile(r"\bval_tokens\s*[:=]\s*(\d[\d,_]*)")),
    ("targets", "target_tokens", re.compile(r"\btarget_tokens\s*[:=]\s*(\d[\d,_]*)")),
    ("targets", "val_loader:", re.compile(r"\bval_loader:.{0,400}?\btokens:(\d[\d,_]*)")),
    ("params", "model_params", re.compile(r"\bmodel_params\s*[:=]\s*(\d[\d,_]*)")),
    ("steps", "step:", re.compile(r"\bstep:\s*(\d+)(?!\d)")),
]
_TIMES: list[tuple[Kind, str, re.Pattern[str]]] = [
    ("train ms", "train_time", re.compile(r"\btrain_time\s*[:=]\s*(\d+(?:\.\d+)?)\s*(ms|s|m)?\b")),
    ("step ms", "step_avg", re.compile(r"\bstep_avg\s*[:=]\s*(\d+(?:\.\d+)?)\s*(ms|s)?\b")),
    ("eval ms", "eval_time", re.compile(r"\b(?:total_)?eval_time\s*[:=]\s*(\d+(?:\.\d+)?)\s*(ms|s)\b")),
]
_MS = {"s": Decimal("1E3"), "m": Decimal("6E4"), "ms": Decimal(1), None: Decimal(1)}


def _read_counts(run: Run, number: int, text: str) -> bool:
    """Keep counts and times of a line; return whether it states how long scoring took."""
    for kind, word, pattern in _COUNTS:
        is_asked = word in text and (kind != "steps" or _is_of_training(text))
        if is_asked and (found := pattern.search(text)):
            run.note(kind, Figure(stated_number(found[1]), number))
    is_result = False
    for kind, word, pattern in _TIMES:
        if word in text and (found := pattern.search(text)):
            label = "in all" if found[0].startswith("total_") else ""
            run.note(kind, Figure(stated_number(found[1]) * _MS[found[2]], number, label))
            is_result |= kind == "eval ms"
    return is_result


def _is_of_training(text: str) -> bool:
    """Return whether a line that states a step is of training, where adaptation has steps too."""
    return "train_" in text or "val_" in text or _STAMP.sub("", text).startswith("step:")


_SEED = re.compile(r"(?<![\w.])['\"]?(?:seed|SEED)['\"]?\s{0,3}[:=]\s{0,3}(\d+)\b")
_SEED_ALONE = re.compile(r"\s*['\"]?(?:seed|SEED)['\"]?\s*[:=]\s*\d+\s*,?\s*")


def _seed_of(text: str, number: int) -> Figure | None:
    found = ("seed" in text or "SEED" in text) and _SEED.search(text)
    return Figure(stated_number(found[1]), number) if found else None


def _count_oddities(run: Run, num_runs: int) -> None:
    """Keep as odd what a log of a single run of ours states once."""
    if num_runs > 1:
        run.odd("several runs")
    once: tuple[Kind, ...] = ("tokens", "targets", "params", "eval ms")
    stated = Counter(str(kind) for kind in once for _ in run.all(kind))
    stated.update(f"{kind} {figure.label}" for kind in _SIZES for figure in run.all(kind))
    floats = {line.score for line in run.lines if line.weights == "float"}
    stated["pre_quant"] = len(floats)
    for what, count in stated.items():
        if count > 1:
            run.odd(f"{what.strip()} in several ways")
