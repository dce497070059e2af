"""Planner: every target exactly once, whatever the counts, and the published window rule."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.config import BlocksProtocol, SlidingProtocol, TTTProtocol
from pipeline.scoring.windows import plan, window_batches


def ttt(context: int, stride: int, chunk: int) -> TTTProtocol:
    return TTTProtocol(kind="ttt", context_tokens=context, stride_tokens=stride, chunk_tokens=chunk, epochs=1,
                       learning_rate=0.1, momentum=0.9, grad_clip=1.0, batch_sequences=2, freeze_blocks=0)  # fmt: skip


@st.composite
def protocols(draw: st.DrawFn) -> BlocksProtocol | SlidingProtocol | TTTProtocol:
    context = draw(st.integers(1, 40))
    stride = draw(st.integers(1, context))
    return draw(st.sampled_from([
        BlocksProtocol(kind="blocks", context_tokens=context),
        SlidingProtocol(kind="sliding", context_tokens=context, stride_tokens=stride),
        ttt(context, stride, draw(st.integers(1, 60))),
    ]))  # fmt: skip


@given(st.integers(0, 300), protocols())
def test_every_target_is_scored_once_and_in_order(num_targets: int, protocol: object) -> None:
    windows = [window for group in plan(num_targets, protocol) for window in group.windows]
    scored = [target for window in windows for target in range(window.first_scored, window.stop)]
    assert scored == list(range(num_targets))
    assert all(0 <= w.start <= w.first_scored < w.stop <= w.start + protocol.context_tokens for w in windows)


@given(st.integers(1, 300), protocols())
def test_scored_targets_have_the_promised_context(num_targets: int, protocol: object) -> None:
    kept = protocol.context_tokens - getattr(protocol, "stride_tokens", protocol.context_tokens)
    for group in plan(num_targets, protocol):
        for window in group.windows:
            assert window.start == 0 or window.first_scored - window.start == kept


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 60), st.data())
def test_nothing_is_scored_after_training_on_it(
    num_targets: int, context: int, chunk: int, data: st.DataObject
) -> None:
    groups = plan(num_targets, ttt(context, data.draw(st.integers(1, context)), chunk))
    assert [(g.start, g.stop) for g in groups] == [
        (at, min(at + chunk, num_targets)) for at in range(0, num_targets, chunk)
    ]
    trained_up_to = 0
    for group in groups:
        assert all(window.first_scored >= trained_up_to for window in group.windows)
        trained_up_to = group.stop


@given(st.integers(0, 300), protocols(), st.integers(1, 500))
def test_batches_keep_windows_shapes_and_the_token_limit(num_targets: int, protocol: object, batch_tokens: int) -> None:
    for group in plan(num_targets, protocol):
        batches = list(window_batches(group.windows, batch_tokens, protocol.context_tokens))
        assert [window for batch in batches for window in batch] == list(group.windows)
        for batch in batches:
            assert len({(w.stop - w.start, w.stop - w.first_scored) for w in batch}) == 1
            assert len(batch) == 1 or sum(w.stop - w.start for w in batch) <= batch_tokens


def test_the_window_after_the_last_unscored_target_does_not_exist() -> None:
    """The historical bug: one trailing window per stride, each rescoring the last targets."""
    sliding = SlidingProtocol(kind="sliding", context_tokens=8, stride_tokens=2)
    assert [tuple(w) for w in plan(10, sliding)[0].windows] == [(0, 8, 0), (2, 10, 8)]
    assert [tuple(w) for w in plan(11, sliding)[0].windows] == [(0, 8, 0), (2, 10, 8), (4, 11, 10)]
    assert [tuple(w) for w in plan(5, sliding)[0].windows] == [(0, 5, 0)]


def test_a_chunk_without_windows_still_is_a_group() -> None:
    groups = plan(20, ttt(16, 8, 4))
    assert [len(group.windows) for group in groups] == [1, 0, 0, 0, 1]
