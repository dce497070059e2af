"""Gap (or divergence) against bytes: interpolation at equal bytes or equal gap, with a bootstrap over documents.

The one idea: the whole comparison is repeated on resampled documents, the same resamples for every arm, so that what
all arms share cancels and an interval says how far *differences* depend on the choice of documents. Between rate points
the logarithm of the gap is linear in bytes; beyond them nothing is said. An arm's figure is the mean over its seeds.

Axes: S seeds, P rate points, D documents, B resamples (the first is the sample itself).
Checked by: tests/benchmarks/test_quantization.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quantization.arms import BASELINES, DEFAULT, REFERENCES
from benchmarks.quantization.runs import Point

QUANTITIES = ("gap", "divergence")
RESAMPLES = 2000
_BOOTSTRAP_SEED = 1
_LEAST_GAP = 1e-3
"""mBPB: a resample in which an arm beats the float model counts as this."""


class Curve(NamedTuple):
    """One arm's rate points, by ascending bytes within a seed."""

    bytes_SP: np.ndarray
    gap_SPB: np.ndarray
    """mBPB over the float model, or from it, by resample."""


def resample_documents(num_documents: int) -> np.ndarray:
    """Return how often each document counts in each resample, (B, D); the first counts every document once."""
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    counts_BD = generator.multinomial(num_documents, np.full(num_documents, 1 / num_documents), RESAMPLES)
    return np.concatenate([np.ones((1, num_documents)), counts_BD])


def make_curve(bytes_SP: np.ndarray, excess_SPD: np.ndarray, text_bytes_D: np.ndarray, counts_BD: np.ndarray) -> Curve:
    """Return the curve of an arm from file bytes, and excess nats (or divergence) and bytes of each document."""
    gap_SPB = excess_SPD @ counts_BD.T / (text_bytes_D @ counts_BD.T) * 1000 / math.log(2)
    order_SP = np.argsort(bytes_SP, axis=1)
    return Curve(np.take_along_axis(bytes_SP, order_SP, 1), np.take_along_axis(gap_SPB, order_SP[:, :, None], 1))


def gap_at(curve: Curve, num_bytes: float) -> np.ndarray | None:
    """Return the gap at a file size, (B,); None where a seed has no rate points on both sides."""
    gaps = []
    for bytes_P, gap_PB in zip(curve.bytes_SP, curve.gap_SPB, strict=True):
        if not bytes_P[0] <= num_bytes <= bytes_P[-1]:
            return None
        right = max(1, int(np.searchsorted(bytes_P, num_bytes)))
        share = (num_bytes - bytes_P[right - 1]) / (bytes_P[right] - bytes_P[right - 1])
        log_PB = np.log(np.maximum(gap_PB, _LEAST_GAP))
        gaps.append(np.exp((1 - share) * log_PB[right - 1] + share * log_PB[right]))
    return np.mean(gaps, axis=0)


def bytes_at(curve: Curve, gap_B: np.ndarray) -> np.ndarray | None:
    """Return the file size with a gap, (B,), NaN in resamples beyond the points; None when the sample itself is."""
    sizes = []
    for bytes_P, gap_PB in zip(curve.bytes_SP, curve.gap_SPB, strict=True):
        log_PB = np.log(np.maximum(gap_PB, _LEAST_GAP))
        sizes.append(
            [
                _invert(bytes_P, log_P, math.log(max(gap, _LEAST_GAP)))
                for log_P, gap in zip(log_PB.T, gap_B, strict=True)
            ]
        )
    mean_B = np.mean(sizes, axis=0)
    return None if np.isnan(mean_B[0]) else mean_B


def _invert(bytes_P: np.ndarray, log_gap_P: np.ndarray, log_gap: float) -> float:
    """Return the largest size at which the line through the points has this gap."""
    for left in range(len(bytes_P) - 2, -1, -1):
        high, low = log_gap_P[left], log_gap_P[left + 1]
        if low <= log_gap <= high:
            share = (high - log_gap) / (high - low) if high > low else 1.0
            return float(bytes_P[left] + share * (bytes_P[left + 1] - bytes_P[left]))
    return math.nan


def interval(values_B: np.ndarray) -> dict[str, float]:
    """Return the sample's own figure and the central 95 % of the resamples that have one."""
    low, high = np.nanpercentile(values_B[1:], [2.5, 97.5])
    return {"value": float(values_B[0]), "low": float(low), "high": float(high)}


def compare(points: Sequence[Point], float_D: np.ndarray, text_bytes_D: np.ndarray) -> list[dict[str, Any]]:
    """Return, for every reference that was measured, each arm's gap and divergence at its size, and sizes at these.

    `float_D`: the float model's nats of each document.
    """
    comparisons = []
    for quantity in QUANTITIES:
        curves = _curves(points, quantity, float_D, text_bytes_D)
        for arm, knob in REFERENCES:
            if sizes := [point.file_bytes for point in points if (point.arm, point.knob) == (arm, knob)]:
                at_size = _compare_at(curves, arm, float(np.mean(sizes)))
                comparisons.append({"quantity": quantity, "reference": f"{arm} at {knob:g}", **at_size})
    return comparisons


def _curves(points: Sequence[Point], quantity: str, float_D: np.ndarray, text_bytes_D: np.ndarray) -> dict[str, Curve]:
    counts_BD = resample_documents(len(float_D))
    curves: dict[str, Curve] = {}
    for name in dict.fromkeys(point.arm for point in points):
        seeds = dict.fromkeys(point.seed for point in points)
        rows = [[point for point in points if (point.arm, point.seed) == (name, seed)] for seed in seeds]
        sizes_SP = np.array([[point.file_bytes for point in row] for row in rows])
        if quantity == "gap":
            excess_SPD = np.array([[point.nats_by_document for point in row] for row in rows]) - float_D
        else:
            excess_SPD = np.array([[point.divergence_by_document for point in row] for row in rows])
        curves[name] = make_curve(sizes_SP, excess_SPD, text_bytes_D, counts_BD)
    return curves


def _compare_at(curves: Mapping[str, Curve], reference: str, num_bytes: float) -> dict[str, Any]:
    levels = {name: gap_at(curve, num_bytes) for name, curve in curves.items()}
    level_B = levels[reference]
    assert level_B is not None, "a mean of an arm's sizes at one knob lies among its rate points"
    sizes = {name: bytes_at(curve, level_B) for name, curve in curves.items()}
    rows = {
        name: {
            "mbpb": None if other_B is None else interval(other_B),
            "bytes_at_level": None if (size_B := sizes[name]) is None else interval(size_B),
        }
        for name, other_B in levels.items()
    }
    ours = levels.get(DEFAULT)
    ratios = {
        name: interval(ours / other_B)
        for name in BASELINES
        if ours is not None and (other_B := levels.get(name)) is not None
    }
    return {"file_bytes": num_bytes, "mbpb": float(level_B[0]), "arms": rows, f"{DEFAULT}_over": ratios}
