"""Which target is scored in which window: the planner of every scoring protocol.

One idea: a protocol is a partition of the targets 0..N-1 (target j is token j + 1) into windows, and of the windows
into groups between which a model may adapt. Everything here is a pure function of counts, so that "every target
exactly once" is a property of the plan and not of a loop over batches.

Axes: N targets, L context (window) tokens, S stride, C chunk targets.
Source: shared definition of the protocols blocks, sliding, stream and ttt.
Differs: windows stop where the first of their scored targets would lie beyond the stream, so that no trailing window
rescores the last S targets.
Checked by: tests/scoring/test_windows.py.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.scoring.config import BlocksProtocol, Protocol, SlidingProtocol, StreamProtocol


class Window(NamedTuple):
    """One forward pass: inputs tokens[start:stop], of whose targets those from `first_scored` on are scored."""

    start: int
    stop: int
    first_scored: int


class Group(NamedTuple):
    """Windows scored with one state of the model, then the targets start..stop-1 that adaptation may learn from."""

    number: int
    start: int
    stop: int
    windows: tuple[Window, ...]


def plan(num_targets: int, protocol: Protocol) -> list[Group]:
    """Return the groups of `protocol` over `num_targets` targets in scoring order; no group for no targets."""
    if isinstance(protocol, BlocksProtocol):
        length = protocol.context_tokens
        return _single_group(num_targets, sliding_windows(num_targets, length, length))
    if isinstance(protocol, StreamProtocol):  # lanes: windows that are fed in steps
        kept = protocol.context_tokens - protocol.stride_tokens
        return _single_group(
            num_targets, sliding_windows(num_targets, kept + protocol.lane_tokens, protocol.lane_tokens)
        )
    windows = sliding_windows(num_targets, protocol.context_tokens, protocol.stride_tokens)
    if isinstance(protocol, SlidingProtocol):
        return _single_group(num_targets, windows)
    return chunk_groups(num_targets, windows, protocol.chunk_tokens)


def sliding_windows(num_targets: int, context_tokens: int, stride_tokens: int) -> list[Window]:
    """Return windows every `stride_tokens`; the first scores all its targets, the others only their last stride."""
    if num_targets == 0:
        return []
    kept = context_tokens - stride_tokens
    starts = range(stride_tokens, num_targets - kept, stride_tokens)
    first = Window(0, min(context_tokens, num_targets), 0)
    return [first, *(Window(at, min(at + context_tokens, num_targets), at + kept) for at in starts)]


def chunk_groups(num_targets: int, windows: Sequence[Window], chunk_tokens: int) -> list[Group]:
    """Return one group per chunk of targets; a window belongs to the chunk of its first scored target.

    A chunk without a window (its targets were scored by an earlier window) still is a group: it still trains.
    """
    chunks = range(0, num_targets, chunk_tokens)
    members: list[list[Window]] = [[] for _ in chunks]
    for window in windows:
        members[window.first_scored // chunk_tokens].append(window)
    return [
        Group(index, start, min(start + chunk_tokens, num_targets), tuple(members[index]))
        for index, start in enumerate(chunks)
    ]


def window_batches(windows: Sequence[Window], batch_tokens: int, context_tokens: int) -> Iterator[list[Window]]:
    """Yield runs of consecutive windows of one shape (at least one window).

    Of each at most `context_tokens` inputs are fed at a time, of all together at most `batch_tokens`.
    """
    batch: list[Window] = []
    for window in windows:
        full = (len(batch) + 1) * min(window.stop - window.start, context_tokens) > batch_tokens
        if batch and (full or _window_shape(window) != _window_shape(batch[0])):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _single_group(num_targets: int, windows: Sequence[Window]) -> list[Group]:
    return [Group(0, 0, num_targets, tuple(windows))] if num_targets else []


def _window_shape(window: Window) -> tuple[int, int]:
    """Return (inputs, scored targets)."""
    return window.stop - window.start, window.stop - window.first_scored
