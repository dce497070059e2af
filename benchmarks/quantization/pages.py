"""The results of `benchmarks.quantization` as a page of tables and a picture, made from the JSON that they show.

matplotlib is imported only here, when something is drawn.

Checked by: tests/benchmarks/test_quantization_pages.py.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.quantization.arms import ADDITIONS, BASELINES, DEFAULT
from benchmarks.quantization.curves import QUANTITIES

_DOTS_PER_INCH = 90
_MARKERS = "osD^vPX<>*"
_PANELS = {"gap_mbpb": "gap over the float model, mBPB", "divergence_mbpb": "divergence from the float model, mBPB"}
"""Field of a point -> what it is."""


def result_page(title: str, command: str, measured: Mapping[str, Any]) -> str:
    """Return Markdown: rate points of every arm, all arms at equal file bytes, their bits above the bound, seconds."""
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Written by `{command}`; do not edit. Float model: {measured['float_bpb']:.5f} bpb on "
            f"{measured['targets']:,} targets of {measured['documents']} documents. A gap is "
            "mBPB over it.",
            "",
            "A divergence is KL(float model || quantized model), summed over the same targets, per byte of "
            "text, mBPB too.",
            "",
            "## Rate points",
            "",
            "Knob: file bytes, bits per quantized weight, gap, divergence; means over the draws.",
            "",
            *_point_rows(measured),
            "",
            "## At equal bytes",
            "",
            "Between points logarithms of gaps and divergences are taken as linear in bytes. Brackets hold the central "
            "95 % of paired resamples of the documents.",
            *(line for quantity in QUANTITIES for line in ("", *_comparison_rows(measured, quantity))),
            "",
            f"{DEFAULT} over the baselines, at their bytes:",
            "",
            *_ratio_rows(measured),
            "",
            "## Bits per weight above the Gaussian bound",
            "",
            "Knob: the codes alone, and everything that quantized tensors add to the file, less what a Gaussian source "
            "of these variances needs for the distortion reached (`benchmarks/quantization/bound.py`).",
            "",
            *_bound_rows(measured),
            "",
            "## Seconds of one thread",
            "",
            *_seconds_rows(measured),
            "",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _arm_names(measured: Mapping[str, Any]) -> list[str]:
    """Return the arms in the order in which they were measured, which the points keep."""
    return list(dict.fromkeys(point["arm"] for point in measured["points"]))


def _points(measured: Mapping[str, Any], arm: str) -> dict[float, list[Mapping[str, Any]]]:
    """Return an arm's points by knob."""
    by_knob: dict[float, list[Mapping[str, Any]]] = {}
    for point in measured["points"]:
        if point["arm"] == arm:
            by_knob.setdefault(point["knob"], []).append(point)
    return by_knob


def _mean(points: list[Mapping[str, Any]], key: str) -> float:
    return fmean(point[key] for point in points)


def _point_rows(measured: Mapping[str, Any]) -> list[str]:
    rows = []
    for arm in _arm_names(measured):
        cells = [
            f"{knob:g}: {_mean(points, 'file_bytes'):,.0f}, "
            + ", ".join(f"{_mean(points, key):.2f}" for key in ("bits_per_weight", "gap_mbpb", "divergence_mbpb"))
            for knob, points in _points(measured, arm).items()
        ]
        rows.append([arm, measured["arms"][arm]["title"], *cells])
    most = max(len(row) for row in rows)
    return _table(["arm", "what"] + [""] * (most - 2), [row + [""] * (most - len(row)) for row in rows])


def _comparison_rows(measured: Mapping[str, Any], quantity: str) -> list[str]:
    comparisons = [one for one in measured["comparisons"] if one["quantity"] == quantity]
    head = [f"{quantity} at the {one['file_bytes']:,.0f} bytes of {one['reference']}" for one in comparisons]
    rows = [
        [
            arm,
            *(_cell(one["arms"][arm]["mbpb"], 2) for one in comparisons),
            *(_cell(one["arms"][arm]["bytes_at_level"], 0) for one in comparisons),
        ]
        for arm in _arm_names(measured)
    ]
    return _table(["arm", *head, *(f"bytes at the {quantity} of {one['reference']}" for one in comparisons)], rows)


def _ratio_rows(measured: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{one['quantity']} at the size of {one['reference']}",
            *(_cell(one[f"{DEFAULT}_over"].get(baseline), 3) for baseline in BASELINES),
        ]
        for one in measured["comparisons"]
    ]
    return _table(["", *(f"over {baseline}" for baseline in BASELINES)], rows)


def _bound_rows(measured: Mapping[str, Any]) -> list[str]:
    rows = []
    for arm in _arm_names(measured):
        known = {
            knob: points for knob, points in _points(measured, arm).items() if points[0]["bits_above_bound"] is not None
        }
        if known:
            rows.append(
                [
                    arm,
                    *(
                        f"{knob:g}: {_mean(points, 'code_bits_above_bound'):.3f}, "
                        f"{_mean(points, 'bits_above_bound'):.3f}"
                        for knob, points in known.items()
                    ),
                ]
            )
    most = max((len(row) for row in rows), default=1)
    return _table(["arm"] + [""] * (most - 1), [row + [""] * (most - len(row)) for row in rows])


def _cell(figure: Mapping[str, float] | None, digits: int) -> str:
    if figure is None:
        return "no overlap"
    return "{value:,.{n}f} [{low:,.{n}f}, {high:,.{n}f}]".format(**figure, n=digits)


def _seconds_rows(measured: Mapping[str, Any]) -> list[str]:
    phases = ("calibrate_seconds", "quantize_seconds", "encode_seconds")
    rows = []
    for arm in _arm_names(measured):
        points = [point for draws in _points(measured, arm).values() for point in draws]
        rows.append([arm, *(f"{_mean(points, phase):.1f}" for phase in phases)])
    return _table(["arm", "calibrate", "quantize", "code"], rows)


def draw_plot(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw gap and divergence of the ladder against file bytes: means over draws, bars from least to largest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axes, field in zip(panels, _PANELS, strict=True):
        for index, arm in enumerate(name for name in _arm_names(measured) if name not in ADDITIONS):
            groups = list(_points(measured, arm).values())
            kilobytes = [_mean(points, "file_bytes") / 1000 for points in groups]
            means = [_mean(points, field) for points in groups]
            spread = [
                [mean - min(point[field] for point in points) for mean, points in zip(means, groups, strict=True)],
                [max(point[field] for point in points) - mean for mean, points in zip(means, groups, strict=True)],
            ]
            axes.errorbar(
                kilobytes,
                means,
                spread,
                label=f"{arm}  {measured['arms'][arm]['title']}",
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                color=f"C{index}",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MultipleLocator(200))
        axes.set_xlabel("file, kB")
        axes.set_ylabel(_PANELS[field])
        axes.grid(alpha=0.3, which="major")
    panels[-1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
