"""An outlook as text: a table of stages by seeds, then a line for everything else, a word in front of each.

Checked by: tests/stages/test_status.py.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.reports.results import against_limit
from stages.shell.durations import StageName, labels_of, minutes, parse_name
from stages.shell.folding import COLUMNS, hanging
from stages.shell.outlook import Outlook, is_imported
from stages.shell.standing import SETTLED, Standing

if TYPE_CHECKING:
    from pipeline.base.config import Params

_INDENT = 9
_COLORS = {"done": "green", "imported": "green", "there": "green", "running": "cyan", "missing": "red"}


def outlook_lines(outlook: Outlook, params: "Params", results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of an outlook, at most 80 columns for three seeds but for a command that is longer."""
    rows = {"stage": [f"seed {seed}" for seed in params.seeds]}
    rows |= _states(outlook, params.seeds)
    figures = _figures(outlook.standings, params, results["seeds"])
    yield from _table({**rows, "": [], **figures} if figures else rows)
    yield ""
    for word, text in _facts(outlook, params, results):
        yield from hanging(text, word.ljust(_INDENT), " " * _INDENT)
    yield from _next(outlook.command, outlook.why)


def _next(command: str, why: str) -> Iterator[str]:
    """Yield the command to type, whole, and why: beside it, or below where that is too long; a shell takes both."""
    line = f"{'next'.ljust(_INDENT)}{command}"
    beside = f"{line}   # {why}" if why else line
    if len(beside) <= COLUMNS:
        yield beside
    else:
        yield line
        yield from hanging(why, *2 * [f"{' ' * _INDENT}# "])


def _table(rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a line per row, cells below each other, colored where a terminal shows it."""
    columns = max(map(len, rows.values()))
    widths = [max(len(row[index]) for row in rows.values() if index < len(row)) for index in range(columns)]
    for label, row in rows.items():
        padded = [_colored(cell) + " " * (width - len(cell)) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([label.ljust(max(map(len, rows))), *padded]).rstrip()


def _colored(cell: str) -> str:
    color = _COLORS.get(cell.split(" ")[0])
    return click.style(cell, fg=color) if color else cell


def _states(outlook: Outlook, seeds: Sequence[int]) -> dict[str, list[str]]:
    """Return row -> the states of a stage, one per seed where it has seeds."""
    cells = {parse_name(place.name): _cell(place, outlook.running.get(place.name, {})) for place in outlook.standings}
    return {
        name.row: [cell] if name.seed is None else [cells.get(name._replace(seed=seed), "-") for seed in seeds]
        for name, cell in cells.items()
    }


def _cell(place: Standing, progress: Mapping[str, Any]) -> str:
    if place.state == "stale" and not place.reasons:
        return f"follows {place.follows}"
    if progress.get("total"):
        return f"running {100 * progress['done'] // progress['total']}%"
    return "imported" if place.state == "done" and is_imported(place.name) else place.state


def _figures(
    standings: Sequence[Standing], params: "Params", results: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return row -> scores or bytes of the artifact, one per seed; `old` where the stage that made it is not done."""
    settled = {place.name for place in standings if place.state in SETTLED}
    makers = {f"{item}_bpb": StageName("evaluate", None, item) for item in ("float", *params.evaluate.items)}
    makers["artifact_bytes"] = StageName("quantize", None, None)
    rows = {
        key.replace("_", " "): [_figure(row[key], maker._replace(seed=row["seed"]).name in settled) for row in results]
        for key, maker in makers.items()
    }
    return {row: cells for row, cells in rows.items() if set(cells) != {"-"}}


def _figure(value: float | None, is_current: bool) -> str:
    if value is None:
        return "-"
    return (f"{value:,}" if isinstance(value, int) else f"{value:.4f}") + ("" if is_current else " old")


def _facts(outlook: Outlook, params: "Params", results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (word, what there is to say)."""
    names = [place.name for place in outlook.standings]
    if outlook.note:
        yield "dvc", f"cannot say what is out of date: {outlook.note}"
    for reason in dict.fromkeys(reason for place in outlook.standings for reason in place.reasons):
        having = [place.name for place in outlook.standings if reason in place.reasons]
        yield "why", f"{reason}: {labels_of(having, names)}"
    for name, progress in outlook.running.items():
        yield "running", f"{name}{_progress(progress)}"
    for name, snapshot in outlook.interrupted.items():
        yield "stopped", f"{name} {snapshot}"
    if outlook.queue:
        counts = ", ".join(f"{count} {state}" for state, count in outlook.queue.items())
        yield "queue", f"experiments of DVC's queue: {counts}; `dvc queue status` names them"
    yield "bytes", _bytes(params, results, {place.name for place in outlook.standings if place.state in SETTLED})
    if outlook.seconds:
        ahead = labels_of(list(outlook.seconds), names)
        yield "to run", f"{len(outlook.seconds)} of {len(names)} stages ({ahead}), {_time(outlook)}"


def _progress(progress: Mapping[str, Any]) -> str:
    """Return step, loss and time left of a stage that runs."""
    if not progress:
        return ", which says nothing of itself yet"
    done, left = (
        f"{progress['label']} {progress['done']}/{progress['total']} {progress['unit']}",
        progress["seconds_left"],
    )
    parts = [done if progress["total"] else "", progress["note"], f"{minutes(progress['elapsed_seconds'])} so far"]
    parts += [] if left is None else [f"about {minutes(left)} left"]
    return f": {', '.join(filter(None, parts))} (process {progress['pid']})"


def _bytes(params: "Params", results: Mapping[str, Any], settled: Collection[str]) -> str:
    """Return the bytes of code and artifact against the limit, those of the largest seed."""
    limit, reserve = params.budget.limit_bytes, params.budget.code_reserve_bytes
    artifacts = [row["artifact_bytes"] for row in results["seeds"] if row["artifact_bytes"]]
    if results["total_bytes"] and "package" in settled:
        total, made_of = results["total_bytes"], "code and artifact"
    elif artifacts:
        total, made_of = max(artifacts) + reserve, f"artifact and {reserve:,} reserved for code"
    else:
        return f"no artifact yet; the limit is {limit:,}"
    return f"{total:,} of {made_of}: {against_limit(total, limit)}"


def _time(outlook: Outlook) -> str:
    """Return how long the stages ahead will take, and which of them nothing is known of."""
    known = [seconds for seconds in outlook.seconds.values() if seconds is not None]
    unknown = [name for name, seconds in outlook.seconds.items() if seconds is None]
    if not known:
        return "nobody knows how long: they have not run here"
    besides = labels_of(unknown, list(outlook.seconds))
    return f"about {minutes(sum(known))}" + (f" without {besides}, which have not run here" if unknown else "")
