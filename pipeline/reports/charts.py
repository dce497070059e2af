"""The pictures of a page: lines, points and bars as static SVG, drawn by matplotlib.

The one idea: a picture is a string that lives inside the page. Text stays text, colours are names that the page gives
values by `prefers-color-scheme`, ids begin with a digest of the picture, and nothing in it tells the hour or a network:
equal facts give equal bytes. Series differ in marker and dash, too, not in colour alone.

Checked by: tests/reports/test_charts.py.
"""

import hashlib
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.reports.comparison import Divergence
from pipeline.reports.text_losses import PositionLoss

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Label -> x and y."""

_INK, _SOFT, _GRID, _PAPER = "#101112", "#606162", "#d0d1d2", "#fefdfc"
_SERIES = ("#0072b2", "#d55e01", "#008061", "#aa4499", "#7a5c01", "#33415c")
_TONES = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c")
COLOURS = {
    **dict(zip((_INK, _SOFT, _GRID, _PAPER), ("--ink", "--soft", "--grid", "--paper"), strict=True)),
    **{colour: f"--s{number}" for number, colour in enumerate(_SERIES)},
    **{colour: f"--t{number}" for number, colour in enumerate(_TONES)},
}
"""What matplotlib draws with -> the page's name for it."""

_WIDTH = 5.2  # inches, at 72 points each: text of 9 points stays readable on a telephone
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _SOFT,
    "axes.facecolor": "none",
    "axes.formatter.limits": (-6, 9),
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.prop_cycle": cycler(color=_SERIES) + cycler(linestyle=["-", "--", "-.", ":", "-", "--"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.framealpha": 0,
    "legend.fontsize": 8,
    "legend.handlelength": 3.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "fairway",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.color": _SOFT,
    "ytick.labelcolor": _INK,
}
_MARKERS = "osD^vPX*"  # more than colours: a seventh curve is no repetition


def training_curves(losses: Series, marks: Series, rates: Series, changes: Sequence[tuple[int, str]]) -> str:
    """Draw losses, and marks for losses of the finished models, over steps; below, the learning rates' scale."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _lines(upper, losses)
        for (label, (x, y)), marker in zip(marks.items(), _MARKERS, strict=False):
            upper.plot(x, y, marker, linestyle="none", color=_INK, markerfacecolor="none", label=label)
        _lines(lower, rates)
        lower.set(xlabel="step", ylabel="learning rate\n/ its peak", ylim=(0, None))
        for step, what in changes:
            lower.axvline(step, color=_SOFT, linewidth=0.8)
            lower.annotate(f" {what}", (step, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
        upper.set_ylabel("nats per token")
        upper.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        upper.xaxis.set_major_formatter(_THOUSANDS)
        upper.legend()

    return _draw(4.4, draw)


def rate_distortion(rules: Series, points: Mapping[str, Series], limits: Mapping[str, float]) -> str:
    """Draw losses over bytes: lines of the rule, points by kind and then by seed, limits as vertical lines."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for x, y in rules.values():
            axes.plot(x, y, color=_SOFT, linestyle=":", linewidth=1)
        colours = dict(zip(rules, itertools.cycle(_SERIES), strict=False))
        for (kind, series), marker in zip(points.items(), _MARKERS, strict=False):
            axes.plot([], [], marker, linestyle="none", color=_INK, markerfacecolor="none", label=kind)
            for label, (x, y) in series.items():
                axes.plot(x, y, marker, linestyle="none", color=colours[label], markerfacecolor="none")
        for label, colour in colours.items():
            axes.plot([], [], "-", color=colour, linewidth=4, label=label)
        _limits(axes, limits)
        axes.axhline(0, color=_SOFT, linewidth=0.8)
        axes.set(xlabel="bytes of the artifact", ylabel="0.001 nats per token\nabove the float model")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.legend()

    return _draw(3.4, draw)


def run_scores(runs: Mapping[str, tuple[float, float, float, float]], limits: Mapping[str, float]) -> str:
    """Draw runs, a point each: bytes, bits per byte and the ends of the interval of these; limits as vertical lines."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _limits(axes, limits)  # below the points, which lie just before them
        for (label, (x, y, low, high)), marker in zip(runs.items(), itertools.cycle(_MARKERS), strict=False):
            axes.errorbar(x, y, [[y - low], [high - y]], marker=marker, linestyle="none", capsize=4, label=label)
        axes.set(xlabel="bytes of code and artifact", ylabel="bits per byte")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.legend()

    return _draw(3.4, draw)


def byte_map(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draw a row per tensor below a row per heading: bytes, the stronger the more sensitive; predicted loss beside.

    Rows have `name`, `coded_bytes`, `predicted_nats` and `sensitivity_nats` (None: not known).
    """
    rows = [row for heading, members in groups.items() for row in ({"name": heading}, *members)]
    losses = [1000 * (row.get("predicted_nats") or 0.0) for row in rows]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2) if any(losses) else (30, 1))
        places = range(len(rows))
        left.barh(places, [row.get("coded_bytes", 0) for row in rows], color=_tones(rows))
        right.barh(places, losses, color=_SERIES[1])
        left.set_yticks(places, [row["name"] for row in rows], fontsize=8)
        left.set(xlabel="bytes", ylim=(len(rows) - 0.4, -0.6))
        right.set_xlabel("predicted loss,\n0.001 nats")
        right.set_visible(any(losses))
        for label, row in zip(left.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if "coded_bytes" in row else "bold")
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(2))
            axes.xaxis.set_major_formatter(_THOUSANDS)

    return _draw(0.9 + 0.165 * len(rows), draw)


def block_losses(predicted: Mapping[str, float], measured: Mapping[str, Divergence]) -> str:
    """Draw the predicted beside the measured loss of every block, with two standard errors of what is measured."""
    places = np.arange(len(predicted))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(places - 0.2, [1000 * nats for nats in predicted.values()], 0.36, color=_SERIES[1], label="predicted")
        found = [measured[name] for name in predicted]
        axes.barh(
            places + 0.2,
            [1000 * each.nats for each in found],
            0.36,
            xerr=[2000 * each.error for each in found],
            color=_TONES[2],
            ecolor=_INK,
            capsize=2,
            label="measured",
        )
        axes.axvline(0, color=_SOFT, linewidth=0.8)
        axes.set_yticks(places, list(predicted))
        axes.set(xlabel="0.001 nats per token above the float model", ylim=(len(places) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.legend()

    return _draw(1.0 + 0.3 * len(places), draw)


def visit_errors(labels: Sequence[str], errors: Mapping[str, Sequence[float]]) -> str:
    """Draw the relative error behind every visit, in their order, a line per seed."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _lines(axes, {label: (range(len(labels)), values) for label, values in errors.items()}, markers=True)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set(ylabel="relative error of the stream", ylim=(0, None))
        axes.legend()

    return _draw(3.4, draw)


def position_losses(what: str, series: Mapping[str, Sequence[PositionLoss]]) -> str:
    """Draw bits per byte over positions, which double from point to point."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        lines = {label: ([row.last for row in rows], [row.bpb for row in rows]) for label, rows in series.items()}
        _lines(axes, lines, markers=True)
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.set(xlabel=what, ylabel="bits per byte")
        axes.legend()

    return _draw(3.2, draw)


def document_histogram(series: Mapping[str, np.ndarray]) -> str:
    """Draw how many documents score how many bits per byte."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = np.histogram_bin_edges(np.concatenate([*series.values()]), 24).tolist()
        for number, (label, bpb_D) in enumerate(series.items()):
            dash = ("-", "--", "-.", ":")[number % 4]
            axes.hist(bpb_D, edges, histtype="step", linewidth=1.5, linestyle=dash, label=label)
        axes.set(xlabel="bits per byte of a document", ylabel="documents")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend()

    return _draw(2.8, draw)


def stage_seconds(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Draw a bar per seed of what its stages took, one after the other."""
    stages = list(dict.fromkeys(stage for each in seconds.values() for stage in each))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        ends = np.zeros(len(seconds))
        for number, stage in enumerate(stages):
            lengths = np.array([each.get(stage, 0.0) for each in seconds.values()])
            axes.barh(list(seconds), lengths, 0.6, left=ends, color=_SERIES[number], edgecolor=_PAPER, label=stage)
            ends += lengths
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper center", ncols=4)

    return _draw(1.1 + 0.3 * len(seconds), draw)


_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")


def _limits(axes: Axes, limits: Mapping[str, float]) -> None:
    """Draw upright lines, named on their right: what fits lies on their left, often very near."""
    right: dict[str, Any] = {"ha": "left", "va": "top", "xytext": (5, 0), "textcoords": "offset points"}
    for label, limit in limits.items():
        axes.axvline(limit, color=_INK, linewidth=1)
        axes.annotate(label, (limit, 0.98), xycoords=("data", "axes fraction"), rotation=90, fontsize=8, **right)


def _lines(axes: Axes, series: Series, markers: bool = False) -> None:
    for number, (label, (x, y)) in enumerate(series.items()):
        marker = _MARKERS[number % len(_MARKERS)] if markers else None
        axes.plot(x, y, linewidth=1.4, marker=marker, markersize=4, label=label)


def _tones(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tone of each row: along the logarithm of its sensitivity; the middle one where that has none."""
    values = [row.get("sensitivity_nats") or 0.0 for row in rows]  # summed over visits, one may be below 0
    logs = [math.log(value) for value in values if value > 0]
    low, high = min(logs, default=0.0), max(logs, default=0.0)
    steps = [
        len(_TONES) * (math.log(value) - low) / (high - low) if value > 0 and high > low else 2 for value in values
    ]
    return [_TONES[min(int(step), len(_TONES) - 1)] for step in steps]


def _draw(height: float, draw: Callable[[Figure], None]) -> str:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what a file of the user's says
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(file.getvalue())


def _inline(svg: str) -> str:
    """Return a picture as an element of a page: no prolog, size, fonts or colours, and ids of its own."""
    box, key = re.search(r'viewBox="([^"]*)"', svg), hashlib.sha256(svg.encode()).hexdigest()[:8]
    assert box is not None, "matplotlib sizes its pictures"
    body = svg[svg.index("</defs>") + len("</defs>") :]
    for start in (' id="', 'href="#', "url(#"):
        body = body.replace(start, f"{start}c{key}-")
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"font-family: [^;]*; ", "", body).replace("xlink:href", "href")
    return f'<svg viewBox="{box[1]}" role="img">{body.strip()}'
