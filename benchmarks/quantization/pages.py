"""The results of `benchmarks.quantization` as a page of tables, written together with the JSON that they show.

Checked by: tests/benchmarks/test_quantization_pages.py.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

QUANTITIES = ("gap", "divergence")


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
