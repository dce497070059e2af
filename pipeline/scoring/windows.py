"""Which target is scored in which window: the planner of every scoring protocol.

One idea: a protocol is a partition of the targets 0..N-1 (target j is token j + 1) into windows, and of the windows
into groups between which a model may adapt. Everything here is a pure function of counts, so that "every target
exactly once" is a property of the plan and not of a loop over batches. Batches are composed here too, from the plan
alone: how many processes run them changes no batch.

Axes: N targets, L context (window) tokens, S stride, C chunk targets.
Source: docs/concepts.md, "Protocols".
Differs: windows stop where the first of their scored targets would lie beyond the stream, so that no trailing window
rescores the last S targets.
Checked by: tests/scoring/test_windows.py.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, zip_longest
from typing import NamedTuple

from pipeline.scoring.config import LoraProtocol, Protocol, TTTProtocol

LENGTHS_PER_CONTEXT = 8
"""Windows of different lengths share a batch, padded, when they differ by less than this part of the longest."""


class Window(NamedTuple):
    """One forward pass: inputs tokens[start:stop], of whose targets those from `first_scored` on are scored."""

    start: int
    stop: int
    first_scored: int


class Group(NamedTuple):
    """Windows scored in one state of the model, then the tokens start..stop that adaptation may learn from."""

    number: int
    start: int
    stop: int
    is_last: bool
    """No group follows in this state: what is learnt from this one would be read by nobody."""
    windows: tuple[Window, ...]


class Step(NamedTuple):
    """What runs next on one process."""

    groups: list[Group]
    """One group, or one of each of several documents, side by side."""
    batches: list[list[Window]]
    """Forward passes."""


def plan(documents: Sequence[int], protocol: Protocol) -> list[Group]:
    """Return the groups of `protocol` in the order of the stream; no group for no targets.

    `documents`: targets of each document that a window may not leave, in stream order, none for an empty one; a
    protocol that knows no documents takes the stream as one.
    """
    num_targets = sum(documents)
    spans = list(zip(accumulate(documents, initial=0), documents, strict=False))
    if isinstance(protocol, LoraProtocol):
        return document_groups(spans, protocol.context_tokens, protocol.chunk_tokens)
    length = protocol.context_tokens
    stride = getattr(protocol, "stride_tokens", length)
    if lane_tokens := getattr(protocol, "lane_tokens", None):  # lanes: windows that are fed in steps
        length, stride = length - stride + lane_tokens, lane_tokens
    windows = [window for start, count in spans for window in sliding_windows(start, count, length, stride)]
    if isinstance(protocol, TTTProtocol):
        return chunk_groups(num_targets, windows, protocol.chunk_tokens)
    return [Group(0, 0, num_targets, True, tuple(windows))] if num_targets else []


def sliding_windows(start: int, num_targets: int, context_tokens: int, stride_tokens: int) -> list[Window]:
    """Return windows every `stride_tokens` over the targets from `start` on.

    The first scores all its targets, the others only their last stride.
    """
    if num_targets == 0:
        return []
    kept, end = context_tokens - stride_tokens, start + num_targets
    starts = range(start + stride_tokens, end - kept, stride_tokens)
    first = Window(start, min(start + context_tokens, end), start)
    return [first, *(Window(at, min(at + context_tokens, end), at + kept) for at in starts)]


def chunk_groups(num_targets: int, windows: Sequence[Window], chunk_tokens: int) -> list[Group]:
    """Return one group per chunk of targets; a window belongs to the chunk of its first scored target.

    A chunk without a window (its targets were scored by an earlier window) still is a group: it still trains.
    """
    chunks = range(0, num_targets, chunk_tokens)
    members: list[list[Window]] = [[] for _ in chunks]
    for window in windows:
        members[window.first_scored // chunk_tokens].append(window)
    return [
        Group(index, start, min(start + chunk_tokens, num_targets), index == len(chunks) - 1, tuple(members[index]))
        for index, start in enumerate(chunks)
    ]


def document_groups(spans: Sequence[tuple[int, int]], context_tokens: int, chunk_tokens: int) -> list[Group]:
    """Return one group, of one window, per chunk of every document; spans: (start, targets) of each document.

    The window of a chunk ends where a whole chunk would end at the latest, and starts a context before that or with its
    document: chunks of one number lie at one place in their windows, whichever the document.
    """
    groups: list[Group] = []
    for start, num_targets in spans:
        for at in range(0, num_targets, chunk_tokens):
            end = at + chunk_tokens
            window = Window(start + max(0, end - context_tokens), start + min(end, num_targets), start + at)
            groups.append(Group(len(groups), window.start, window.stop, end >= num_targets, (window,)))
    return groups


def steps_of_rank(
    groups: Sequence[Group], protocol: Protocol, batch_tokens: int, rank: int, world_size: int
) -> Iterator[Step]:
    """Yield what one of `world_size` processes runs, in order.

    Whole batches of documents are dealt to the processes; other groups run on all of them, their batches dealt.
    """
    if not isinstance(protocol, LoraProtocol):
        for group in groups:
            yield Step([group], window_batches(group.windows, batch_tokens, protocol.context_tokens)[rank::world_size])
        return
    ends = [index + 1 for index, group in enumerate(groups) if group.is_last]
    documents = [groups[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    size = protocol.batch_documents
    for first in range(rank * size, len(documents), world_size * size):
        for chunk in zip_longest(*documents[first : first + size]):
            side_by_side = [group for group in chunk if group]
            yield Step(side_by_side, [[group.windows[0] for group in side_by_side]])


def window_batches(windows: Sequence[Window], batch_tokens: int, context_tokens: int) -> list[list[Window]]:
    """Return batches of about one length, at most `batch_tokens` padded inputs (or one window), each in stream order.

    Of windows longer than `context_tokens` only so many inputs count: they are fed in steps.

    Windows of a batch are padded on the right to the longest, so they all start to be scored at one position.
    """
    unit = max(-(-(window.stop - window.start) // LENGTHS_PER_CONTEXT) for window in windows) if windows else 1
    alike: dict[tuple[int, int], list[Window]] = {}
    for window in windows:
        shape = -(-(window.stop - window.start) // unit), window.first_scored - window.start
        alike.setdefault(shape, []).append(window)
    return [
        members[first : first + size]
        for (units, _), members in alike.items()
        for size in [max(1, batch_tokens // min(units * unit, context_tokens))]
        for first in range(0, len(members), size)
    ]
