"""Which lines of a run could support a number of submission.json, and whether one does.

The one idea: every stated number is held against every line that could mean it. A key that names a protocol (`sliding`)
or the weights before quantization (`pre_quant`) asks lines of that kind alone; one that does not asks all scores of the
artifact. Bytes of an artifact are the model alone or model and code, by the challenge's own definition: what matched is
said. Clocks are read at different moments, so that times agree to the second.

Checked by: tests/verification/test_records.py.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from pipeline.verification.fields import HEADLINES, Stated, in_ms
from pipeline.verification.findings import (
    COARSEST_SCORE,
    Finding,
    Place,
    Verdict,
    agree,
    compared,
    finding,
    half_unit,
    is_cut_off,
    shown,
)
from pipeline.verification.keys import Quantity
from pipeline.verification.runs import Kind, Run, ScoreLine

CHECKS: dict[Quantity, str] = {
    "bpb": "scores",
    "loss": "scores",
    "code bytes": "code size",
    "artifact bytes": "artifact size",
    "total bytes": "total size",
    "text bytes": "implied bytes",
    "steps": "steps",
    "train ms": "times",
    "eval ms": "times",
    "step ms": "times",
    "params": "counts",
    "tokens": "counts",
    "targets": "counts",
}
"""What a number is -> the check that compares it."""
TIMES = ("train ms", "eval ms", "step ms")
_SLACK_MS = 1000
_SLACK_FRAC = 0.01
"""By how much training may exceed what its log shows: what is after the last line, and before the first. An average
over steps differs as much by the steps that it leaves out."""
_PROTOCOLS = {"sliding": "sliding", "sw": "sliding", "roundtrip": "roundtrip", "ttt": "ttt"}


class Source(NamedTuple):
    """A figure of a log that could support a stated one."""

    what: str
    """What the log calls it."""
    value: Decimal
    at: Place


def sources(run: Run, stated: Stated) -> list[Source]:
    """Return the figures of a run that could mean what is stated; those that the run ends with are last."""
    if stated.quantity in ("bpb", "loss"):
        lines = _score_lines(run, stated.words)
        return [source for line in lines if (source := _score_source(run, line, stated.quantity))]
    found = list(_figures(run, stated.quantity))
    return sorted(found, key=lambda each: int(each.at.where or 0))


def _score_source(run: Run, line: ScoreLine, quantity: Quantity) -> Source | None:
    value = line.score.val_bpb if quantity == "bpb" else line.score.val_loss
    return None if value is None else Source(line.name, value, Place(run.name, line.line, value))


def _score_lines(run: Run, words: frozenset[str]) -> list[ScoreLine]:
    lines = run.last_scores
    if is_before_quantization(words):
        return [line for line in lines if line.weights != "artifact"]
    scored = [line for line in lines if line.weights == "artifact"] or lines
    return [line for line in scored if _is_asked(line, words)] or scored


def is_before_quantization(words: frozenset[str]) -> bool:
    """Return whether a key asks for the score of the weights as they were trained."""
    return {"pre", "quant"} <= words or bool(words & {"prequant", "float", "unquantized", "ema", "swa", "train"})


def _is_asked(line: ScoreLine, words: frozenset[str]) -> bool:
    """Return whether a line is of the protocol that a key names, if it names one."""
    asked = {_PROTOCOLS[word] for word in words if word in _PROTOCOLS and "pre" not in words}
    return not asked or any(each in line.name.lower() for each in asked)


def _figures(run: Run, quantity: Quantity) -> Iterator[Source]:
    kinds: dict[Quantity, list[tuple[Kind, str]]] = {
        "artifact bytes": [("model bytes", "the model alone"), ("total bytes", "model and code")],
        "total bytes": [("total bytes", "model and code")],
        "code bytes": [("code bytes", "code")],
    }
    own: list[tuple[Kind, str]] = [] if quantity in ("bpb", "loss", "text bytes") else [(quantity, quantity)]  # type: ignore[list-item]
    for kind, title in kinds.get(quantity, own):
        is_size = kind in ("model bytes", "total bytes")
        for figure in run.coded(kind) if is_size else run.all(kind) if kind in TIMES else run.latest(kind):
            what = f"{title} ({figure.label})" if figure.label else title
            yield Source(what, figure.value, Place(run.name, figure.line, figure.value))


def supporters(run: Run, stated: Stated) -> list[Source]:
    """Return the figures of a run that agree with what is stated."""
    return [source for source in sources(run, stated) if is_supported(stated, source.value)]


def is_supported(stated: Stated, value: Decimal | float) -> bool:
    """Return whether a figure agrees with a stated number, at the digits of the one that has fewer."""
    if stated.quantity in TIMES:
        return _time_fault(stated, Decimal(value)) is None
    if stated.quantity not in ("bpb", "loss"):
        return agree(stated.value, value)
    return agree(stated.value, value, COARSEST_SCORE) or is_cut_off(stated.value, value, COARSEST_SCORE)


def _time_fault(stated: Stated, value_ms: Decimal) -> str | None:
    """Return in what a stated time differs from a log's."""
    own_ms = in_ms(stated)
    slack = _SLACK_MS + half_unit(own_ms)
    if stated.quantity == "step ms":
        slack = max(_SLACK_FRAC * float(value_ms), half_unit(own_ms), half_unit(value_ms))
    more = float(own_ms - value_ms)
    if more < -slack:
        return "less"
    late = _SLACK_FRAC * float(value_ms) if stated.quantity == "train ms" else 0.0
    return "more" if more > slack + late else None


def judged(run: Run, stated: Stated) -> Finding:
    """Return whether a run supports what is stated: the line that does, else the last that should."""
    check, found = CHECKS[stated.quantity], sources(run, stated)
    if not found:
        return finding(check, "not stated", f"{stated.place} {shown(stated.value)}: {run.name} says nothing", stated.at)
    agreeing = supporters(run, stated)
    source = (agreeing or found)[-1]
    what = f"{stated.place}, {source.what}"
    if stated.quantity in TIMES:
        return _judged_time(check, stated, source, what)
    if not agreeing and (before := _before_quantization(run, stated)):
        return before
    if not agreeing and stated.quantity == "loss" and any(line.score.val_loss is None for line in run.scores):
        said = f"{stated.place} {shown(stated.value)}: {run.name} states bpb alone"
        return finding(check, "not stated", said, stated.at)
    if not agreeing:
        said = f"{stated.place} {shown(stated.value)} stated, {run.name} line {source.at.where} ({source.what}) says "
        return finding(check, verdict_of(stated), said + shown(source.value), stated.at, source.at)
    if check == "scores" and (doubt := _doubt(run, stated, source)):
        said = f"{stated.place} {shown(stated.value)} is {run.name} line {source.at.where}: {doubt}"
        return finding(check, "warning", said, stated.at, source.at)
    return compared(check, what, stated.at, source.at)


def verdict_of(stated: Stated) -> Verdict:
    """Return what it means that nothing supports a number: doubt, where its key has words that may mean another."""
    return "contradiction" if stated.meaning.is_plain or stated.place in HEADLINES else "warning"


def _doubt(run: Run, stated: Stated, source: Source) -> str | None:
    """Return why a line that agrees may not be what is meant."""
    (line,) = (each for each in run.last_scores if each.line == source.at.where and each.name == source.what)
    if is_before_quantization(stated.words):
        return None
    if line.weights != "artifact":
        return "no score of an artifact"
    return None if _is_asked(line, stated.words) else f"{line.name}, which names no such protocol"


def _judged_time(check: str, stated: Stated, source: Source, what: str) -> Finding:
    fault = _time_fault(stated, source.value)
    name = f"{source.at.file} line {source.at.where}"
    if fault is None:
        said = f"{stated.place} {shown(stated.value)}: {name} says {shown(source.value)} ms"
        return finding(check, "agreement", said, stated.at, source.at)
    said = f"{what}: {shown(stated.value)} stated, {fault} than the {shown(source.value)} ms of {name}"
    is_firm = fault == "less" and stated.quantity != "step ms"
    return finding(check, "contradiction" if is_firm else "warning", said, stated.at, source.at)


def _before_quantization(run: Run, stated: Stated) -> Finding | None:
    """Return the finding that a score is that of the weights before quantization, or of training."""
    if stated.quantity not in ("bpb", "loss"):
        return None
    for line in run.last_scores:
        source = _score_source(run, line, stated.quantity)
        if source and line.weights != "artifact" and is_supported(stated, source.value):
            said = f"{stated.place} {shown(stated.value)} is no score of the artifact: {run.name} line {line.line}"
            return finding("scores", verdict_of(stated), f"{said} ({line.name})", stated.at, source.at)
    return None
