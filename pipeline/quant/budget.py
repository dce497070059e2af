"""Find the knob whose artifact just fits: a bracketed secant search on real bytes.

The one idea: each doubling of the step saves one bit per weight, so file bytes fall almost linearly with the logarithm
of the knob. The first steps use that slope, later ones the line through the nearest trials on both sides. Compressed
size is only nearly monotone, so the result is always the largest *measured* file that fits, never an inferred one.

Source: ours (regula falsi with a bisection now and then).
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from pipeline.codec.container import ArtifactTensors

MAX_TRIALS = 20
_BISECT_EVERY = 4
_MOST_OCTAVES = 32.0
"""No trial is further from the last one: slopes of nearly empty files promise anything."""
_SMALLEST_RATIO = 1e-6
"""A bracket narrower than this (natural logarithm) holds no other file worth trying."""


class KnobWindow(NamedTuple):
    """Where the search may go and when it is done."""

    min_knob: float
    max_knob: float
    floor_bytes: int
    """A file of at least this many bytes and at most limit_bytes ends the search."""
    limit_bytes: int


class KnobTrial(NamedTuple):
    """One artifact."""

    knob: float
    tensors: ArtifactTensors
    content: bytes
    """The file of these tensors."""


class KnobSearch(NamedTuple):
    """What a search found."""

    best: KnobTrial | None
    """The largest file that fits; None when even max_knob does not."""
    trace: list[tuple[float, int]]
    """(knob, bytes) of every trial, in order."""


def search_knob(
    attempt: Callable[[float], KnobTrial], guess: float, window: KnobWindow, bytes_per_octave: float
) -> KnobSearch:
    """Search the knob whose trial's file lies in the window; `bytes_per_octave` is the expected saving per doubling.

    Stops early at min_knob when that file already fits, and at max_knob when it does not. Deterministic.
    """
    best: KnobTrial | None = None
    trace: list[tuple[float, int]] = []
    knob = min(max(guess, window.min_knob), window.max_knob)
    while len(trace) < MAX_TRIALS:
        trial = attempt(knob)
        size = len(trial.content)
        trace.append((knob, size))
        if size > window.limit_bytes and knob == window.max_knob:
            break
        if size <= window.limit_bytes:
            if best is None or size > len(best.content):
                best = trial
            if size >= window.floor_bytes or knob == window.min_knob:
                break
        following = _next_knob(trace, window, bytes_per_octave)
        if following is None:
            break
        knob = following
    return KnobSearch(best, trace)


def _next_knob(trace: list[tuple[float, int]], window: KnobWindow, bytes_per_octave: float) -> float | None:
    """Return the knob to try next, None when the bracket is exhausted."""
    aim = (window.floor_bytes + window.limit_bytes) / 2
    under = min((trial for trial in trace if trial[1] <= window.limit_bytes), default=None)
    ceiling = under[0] if under else math.inf
    over = max((trial for trial in trace if trial[1] > window.limit_bytes and trial[0] < ceiling), default=None)
    if over is None or under is None:
        knob, size = over or under or trace[-1]
        slope = _trace_slope(trace) or bytes_per_octave
        knob *= 2.0 ** min(max((size - aim) / slope, -_MOST_OCTAVES), _MOST_OCTAVES)
        return min(max(knob, window.min_knob), window.max_knob)
    low, high = math.log(over[0]), math.log(under[0])
    if high - low < _SMALLEST_RATIO:
        return None
    bisect = len(trace) % _BISECT_EVERY == 0
    share = 0.5 if bisect else (over[1] - aim) / (over[1] - under[1])
    return math.exp(low + min(max(share, 0.02), 0.98) * (high - low))


def _trace_slope(trace: list[tuple[float, int]]) -> float | None:
    """Return the bytes saved per octave between the last two trials; None when they say nothing sensible."""
    if len(trace) < 2 or trace[-1][0] == trace[-2][0]:
        return None
    slope = (trace[-2][1] - trace[-1][1]) / math.log2(trace[-1][0] / trace[-2][0])
    return slope if slope > 0 else None
