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
from itertools import accumulate, groupby, islice
from typing import Any, NamedTuple

from pipeline.scoring.config import LoraProtocol, Protocol, TTTProtocol
from pipeline.scoring.phased_config import PhasedProtocol

MOST_RANKS = 8
"""Processes that share what learns: parts of an SGD batch and queues of documents are so many, whoever runs them."""

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
    if isinstance(protocol, PhasedProtocol):
        return phased_groups([span for span in spans if span[1]], protocol)
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


def phased_groups(spans: Sequence[tuple[int, int]], protocol: PhasedProtocol) -> list[Group]:
    """Return the groups of the first documents, one without a window that spans them all, and those of the others."""
    first = protocol.global_phase.documents if protocol.global_phase else len(spans)
    groups = lane_groups(spans[:first], protocol, 0)
    if spans[first:]:
        groups.append(Group(len(groups), 0, spans[first][0], False, ()))
        groups += lane_groups(spans[first:], protocol, len(groups))
    return groups


def lane_groups(spans: Sequence[tuple[int, int]], protocol: PhasedProtocol, first_number: int) -> list[Group]:
    """Return one group per chunk of every document, as `document_groups` does; the last of a lane is last in its state.

    A document's last chunk has nothing to learn from: its tokens end where they start.
    """
    groups: list[Group] = []
    for number, (start, num_targets) in enumerate(spans, 1):
        at, lane_ends = 0, number % protocol.lane_documents == 0 or number == len(spans)
        while at < num_targets:
            end = at + chunk_size(protocol, at, num_targets)
            first, stop = start + max(0, end - protocol.context_tokens), start + min(end, num_targets)
            ends, windows = end >= num_targets, (Window(first, stop, start + at),)
            groups.append(
                Group(first_number + len(groups), first, first if ends else stop, ends and lane_ends, windows)
            )
            at = end
    return groups


def chunk_size(protocol: PhasedProtocol, at: int, num_targets: int) -> int:
    """Return the targets of the chunk that begins after `at` targets of a document of `num_targets`."""
    reached = num_targets if protocol.chunks_by == "length" else at + 1
    return next((size for most, size in protocol.short_chunks if reached <= most), protocol.chunk_tokens)


def steps_of_rank(
    groups: Sequence[Group], protocol: Protocol, batch_tokens: int, rank: int, world_size: int
) -> Iterator[Step]:
    """Yield what one of `world_size` processes runs, in order.

    Queues of documents are dealt to the processes; other groups run on all of them, their batches dealt.
    """
    if isinstance(protocol, PhasedProtocol):
        yield from phased_steps(groups, protocol, batch_tokens, rank, world_size)
        return
    if not isinstance(protocol, LoraProtocol):
        for group in groups:
            yield Step([group], window_batches(group.windows, batch_tokens, protocol.context_tokens)[rank::world_size])
        return
    for queue in document_queues(groups, protocol.batch_documents)[rank::world_size]:
        yield from queue_steps(queue, protocol, batch_tokens)


def phased_steps(
    groups: Sequence[Group], protocol: PhasedProtocol, batch_tokens: int, rank: int, world_size: int
) -> Iterator[Step]:
    """Yield the steps of the first documents' queues, the phase on every process, the steps of the others' queues."""
    for has_windows, members in groupby(groups, lambda group: bool(group.windows)):
        part = list(members)
        if not has_windows:
            yield Step(part, [])
            continue
        for queue in document_queues(part, 1)[rank::world_size]:  # lanes are few: one for each queue in turn
            yield from queue_steps(queue, protocol, batch_tokens)


def document_queues(groups: Sequence[Group], batch_documents: int) -> list[list[Sequence[Group]]]:
    """Return the documents, or lanes, each the list of its groups, dealt to queues so many at a time, in file order."""
    ends = [index + 1 for index, group in enumerate(groups) if group.is_last]
    documents = [groups[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    queues: list[list[Sequence[Group]]] = [[] for _ in range(MOST_RANKS)]
    for number, document in enumerate(documents):
        queues[number // batch_documents % MOST_RANKS].append(document)
    return queues


def queue_steps(
    queue: Sequence[Sequence[Group]], protocol: LoraProtocol | PhasedProtocol, batch_tokens: int
) -> Iterator[Step]:
    """Yield the steps of a queue: `batch_documents` are open, and one that ends makes room for the next.

    All that are open advance by a chunk, then again. Those go side by side whose chunks lie at about one place of their
    windows, which says nothing of what is not scored yet, within `batch_tokens` inputs.
    """
    waiting, reading, unit = iter(queue), list[Iterator[Group]](), _unit(protocol.context_tokens)
    while True:
        reading += [iter(document) for document in islice(waiting, protocol.batch_documents - len(reading))]
        heads = [next(document) for document in reading]
        if not heads:
            return
        reading = [document for document, head in zip(reading, heads, strict=True) if not head.is_last]
        alike: dict[int, list[Group]] = {}
        for head in heads:
            place = head.windows[0].first_scored - head.start
            alike.setdefault(-(-(place + protocol.chunk_tokens) // unit), []).append(head)
        for units, members in alike.items():
            for batch in _cut(members, min(units * unit, protocol.context_tokens), batch_tokens):
                yield Step(batch, [[group.windows[0] for group in batch]])


def window_batches(windows: Sequence[Window], batch_tokens: int, context_tokens: int) -> list[list[Window]]:
    """Return batches of about one length, at most `batch_tokens` padded inputs (or one window), each in stream order.

    Of windows longer than `context_tokens` only so many inputs count: they are fed in steps.

    Windows of a batch are padded on the right to the longest, so they all start to be scored at one position.
    """
    unit = _unit(max(window.stop - window.start for window in windows)) if windows else 1
    alike: dict[tuple[int, int], list[Window]] = {}
    for window in windows:
        shape = -(-(window.stop - window.start) // unit), window.first_scored - window.start
        alike.setdefault(shape, []).append(window)
    return [
        batch
        for (units, _), members in alike.items()
        for batch in _cut(members, min(units * unit, context_tokens), batch_tokens)
    ]


def _unit(longest: int) -> int:
    return -(-longest // LENGTHS_PER_CONTEXT)


def _cut(members: list[Any], length: int, batch_tokens: int) -> list[list[Any]]:
    size = max(1, batch_tokens // length)
    return [members[first : first + size] for first in range(0, len(members), size)]
