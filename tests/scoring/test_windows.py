"""Planner: every target exactly once, whatever the counts, and the published window rule."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.config import (
    BlocksProtocol,
    DocumentBlocksProtocol,
    LoraProtocol,
    Protocol,
    SlidingProtocol,
    TTTProtocol,
)
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.windows import LENGTHS_PER_CONTEXT, MOST_RANKS, plan, steps_of_rank, window_batches
from tests.scoring.scoring_toys import PHASED

DOCUMENTS = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 130)), max_size=8)
"""Targets per document: many empty and one-token documents, some longer than any window."""


def ttt(context: int, stride: int, chunk: int) -> TTTProtocol:
    return TTTProtocol(
        kind="ttt",
        context_tokens=context,
        stride_tokens=stride,
        chunk_tokens=chunk,
        epochs=1,
        learning_rate=0.1,
        momentum=0.9,
        grad_clip=1.0,
        batch_sequences=2,
        freeze_blocks=0,
        lane_tokens=None,
        mixture=None,
    )


def lora(context: int, chunk: int, batch_documents: int) -> LoraProtocol:
    return LoraProtocol(
        kind="lora-ttt",
        documents=True,
        bos_id=1,
        context_tokens=context,
        chunk_tokens=chunk,
        rank=2,
        batch_documents=batch_documents,
        learning_rate=0.1,
        beta1=0.0,
        beta2=0.9,
        eps=1e-8,
        mixture=None,
    )


def phased(context: int, chunk: int, lane_documents: int, first_documents: int) -> PhasedProtocol:
    phase = {**PHASED["global_phase"], "documents": first_documents}
    short = [[3, 1]] if chunk > 1 else []
    sizes = {"context_tokens": context, "chunk_tokens": chunk, "lane_documents": lane_documents}
    rule = parse_protocol({**PHASED, **sizes, "short_chunks": short, "global_phase": phase})
    assert isinstance(rule, PhasedProtocol)
    return rule


@st.composite
def protocols(draw: st.DrawFn) -> Protocol:
    context = draw(st.integers(1, 40))
    stride = draw(st.integers(1, context))
    return draw(
        st.sampled_from(
            [
                BlocksProtocol(kind="blocks", context_tokens=context, mixture=None),
                DocumentBlocksProtocol(kind="blocks", documents=True, bos_id=1, context_tokens=context, mixture=None),
                SlidingProtocol(kind="sliding", context_tokens=context, stride_tokens=stride, mixture=None),
                ttt(context, stride, draw(st.integers(1, 60))),
                lora(context, stride, draw(st.integers(1, 4))),
                phased(context, stride, draw(st.integers(1, 4)), draw(st.integers(1, 9))),
            ]
        )
    )


def kept_at_least(protocol: PhasedProtocol) -> int:
    return protocol.context_tokens - protocol.chunk_tokens


def is_aware(protocol: Protocol) -> bool:
    return hasattr(protocol, "bos_id")


@given(DOCUMENTS, protocols())
def test_every_target_is_scored_once_and_in_order(documents: list[int], protocol: Protocol) -> None:
    documents = documents if is_aware(protocol) else [sum(documents)]
    windows = [window for group in plan(documents, protocol) for window in group.windows]
    scored = [target for window in windows for target in range(window.first_scored, window.stop)]
    assert scored == list(range(sum(documents)))
    assert all(0 <= w.start <= w.first_scored < w.stop <= w.start + protocol.context_tokens for w in windows)


@given(DOCUMENTS, protocols())
def test_no_window_leaves_its_document(documents: list[int], protocol: Protocol) -> None:
    bounds = [0, *accumulate(documents)] if is_aware(protocol) else [0, sum(documents)]
    plain = documents if is_aware(protocol) else [sum(documents)]
    for group in plan(plain, protocol):
        for window in group.windows:
            assert not any(window.start < bound < window.stop for bound in bounds), window


@given(DOCUMENTS, protocols())
def test_scored_targets_have_the_promised_context(documents: list[int], protocol: Protocol) -> None:
    documents = documents if is_aware(protocol) else [sum(documents)]
    starts = {0, *accumulate(documents)}
    kept = protocol.context_tokens - getattr(protocol, "stride_tokens", protocol.context_tokens)
    if isinstance(protocol, LoraProtocol):
        kept = protocol.context_tokens - protocol.chunk_tokens
    for group in plan(documents, protocol):
        for window in group.windows:
            seen = window.first_scored - window.start
            smaller = isinstance(protocol, PhasedProtocol) and seen >= kept_at_least(protocol)
            assert window.start in starts or seen == kept or smaller


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 60), st.data())
def test_nothing_is_scored_after_training_on_it(
    num_targets: int, context: int, chunk: int, data: st.DataObject
) -> None:
    groups = plan([num_targets], ttt(context, data.draw(st.integers(1, context)), chunk))
    assert [(g.start, g.stop) for g in groups] == [
        (at, min(at + chunk, num_targets)) for at in range(0, num_targets, chunk)
    ]
    assert [g.is_last for g in groups] == [False] * (len(groups) - 1) + [True]
    trained_up_to = 0
    for group in groups:
        assert all(window.first_scored >= trained_up_to for window in group.windows)
        trained_up_to = group.stop


@given(DOCUMENTS, protocols(), st.integers(1, 500))
def test_batches_hold_every_window_once_at_one_offset_within_the_token_limit(
    documents: list[int], protocol: Protocol, batch_tokens: int
) -> None:
    for group in plan(documents, protocol):
        batches = window_batches(group.windows, batch_tokens, protocol.context_tokens)
        assert sorted(window for batch in batches for window in batch) == list(group.windows)
        for batch in batches:
            assert batch == sorted(batch)
            assert len({window.first_scored - window.start for window in batch}) == 1
            assert len(batch) == 1 or len(batch) * max(w.stop - w.start for w in batch) <= batch_tokens


@given(DOCUMENTS, protocols(), st.integers(1, 8))
def test_ranks_share_the_batches_of_one_process(documents: list[int], protocol: Protocol, world_size: int) -> None:
    groups = plan(documents, protocol)
    alone = [batch for step in steps_of_rank(groups, protocol, 64, 0, 1) for batch in step.batches]
    shared = [
        batch
        for rank in range(world_size)
        for step in steps_of_rank(groups, protocol, 64, rank, world_size)
        for batch in step.batches
    ]
    assert sorted(shared) == sorted(alone)
    assert sorted(window for batch in alone for window in batch) == [w for group in groups for w in group.windows]


@given(DOCUMENTS, st.integers(1, 40), st.integers(1, 4), st.integers(1, 200), st.data())
def test_documents_side_by_side_keep_their_chunks_and_start_in_file_order(
    documents: list[int], context: int, batch_documents: int, batch_tokens: int, data: st.DataObject
) -> None:
    chunk = data.draw(st.integers(1, context))
    protocol = lora(context, chunk, batch_documents)
    bounds = [0, *accumulate(documents)]
    read: dict[int, int] = {}  # targets of the documents that are open
    begun = []
    for step in steps_of_rank(plan(documents, protocol), protocol, batch_tokens, 0, MOST_RANKS):
        (windows,) = step.batches
        assert [group.windows for group in step.groups] == [(window,) for window in windows]
        places = [window.first_scored - window.start for window in windows]
        assert max(places) - min(places) < -(-context // LENGTHS_PER_CONTEXT)
        assert len(windows) == 1 or len(windows) * (max(places) + chunk) <= batch_tokens
        for group, window in zip(step.groups, windows, strict=True):
            owner = sum(bound <= window.first_scored for bound in bounds[1:])
            begun += [owner] if owner not in read else []
            assert read.setdefault(owner, 0) == window.first_scored - bounds[owner]
            read[owner] += window.stop - window.first_scored
            assert group.is_last == (read[owner] == documents[owner])
            if group.is_last:
                del read[owner]
        assert len(read) <= batch_documents
    filled = [owner for owner, targets in enumerate(documents) if targets]
    assert sorted(begun) == [o for at, o in enumerate(filled) if at // batch_documents % MOST_RANKS == 0]


def test_a_document_that_ends_makes_room_and_its_end_moves_nothing_before_it() -> None:
    """The third document of a queue of two begins when the second has ended, while the first reads on."""
    protocol, between = lora(16, 4, 2), [3] * 2 * (MOST_RANKS - 1)

    def chunks(documents: list[int]) -> list[list[int]]:
        found = steps_of_rank(plan(documents, protocol), protocol, 64, 0, MOST_RANKS)
        return [[group.windows[0].first_scored for group in step.groups] for step in found]

    third = 16 + sum(between)
    assert chunks([12, 4, *between, 12]) == [[0, 12], [4], [third], [8], [third + 4], [third + 8]]
    assert chunks([12, 8]) == [[0, 12], [4, 16], [8]]
    assert chunks([12, 5])[:2] == chunks([12, 8])[:2]


def test_the_window_after_the_last_unscored_target_does_not_exist() -> None:
    """The historical bug: one trailing window per stride, each rescoring the last targets."""
    sliding = SlidingProtocol(kind="sliding", context_tokens=8, stride_tokens=2, mixture=None)
    assert [tuple(w) for w in plan([10], sliding)[0].windows] == [(0, 8, 0), (2, 10, 8)]
    assert [tuple(w) for w in plan([11], sliding)[0].windows] == [(0, 8, 0), (2, 10, 8), (4, 11, 10)]
    assert [tuple(w) for w in plan([5], sliding)[0].windows] == [(0, 5, 0)]


def test_a_chunk_without_windows_still_is_a_group() -> None:
    groups = plan([20], ttt(16, 8, 4))
    assert [len(group.windows) for group in groups] == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("documents", [[], [0], [0, 0]])
def test_no_targets_are_no_groups(documents: list[int]) -> None:
    for protocol in (BlocksProtocol(kind="blocks", context_tokens=4, mixture=None), ttt(4, 2, 4), lora(4, 2, 1)):
        assert plan(documents, protocol) == []
