"""Stream scoring: what it must equal, that every target is scored once, and that nothing looks ahead."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.network import LoopedUNet
from pipeline.scoring import score_tokens
from pipeline.scoring.config import StreamProtocol, TTTProtocol
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.stream import lane_steps
from pipeline.scoring.windows import plan, window_batches
from tests.networks import ARCHITECTURES, architecture, changed, roused
from tests.scoring.scoring_toys import SLIDING, STREAM, TTT, in_context, random_tokens, tiny_network


@st.composite
def streams(draw: st.DrawFn) -> StreamProtocol:
    context = draw(st.integers(1, 40))
    stride = draw(st.integers(1, context))
    return StreamProtocol(
        kind="stream",
        context_tokens=context,
        stride_tokens=stride,
        lane_tokens=draw(st.integers(stride, 150)),
        mixture=None,
    )


@given(st.integers(0, 400), streams(), st.integers(1, 200))
def test_every_target_is_scored_once_with_the_promised_context(
    num_targets: int, protocol: StreamProtocol, batch_tokens: int
) -> None:
    kept, seen, scored = protocol.context_tokens - protocol.stride_tokens, {}, []
    for group in plan([num_targets], protocol):
        for batch in window_batches(group.windows, batch_tokens, protocol.context_tokens):
            for lane in batch:
                scored += range(lane.first_scored, lane.stop)
                for start, stop in lane_steps(lane.stop - lane.start, protocol.context_tokens, protocol.stride_tokens):
                    assert stop - start <= (protocol.stride_tokens if start else protocol.context_tokens)
                    for offset in range(max(start, lane.first_scored - lane.start), stop):
                        seen[lane.start + offset] = offset - max(0, start - kept)
    assert sorted(scored) == list(range(num_targets))
    assert all(seen[target] >= min(target, kept) for target in scored)


@given(st.integers(1, 300), st.integers(1, 300), streams())
def test_no_lane_depends_on_what_follows(num_targets: int, more: int, protocol: StreamProtocol) -> None:
    lanes, longer = (plan([count], protocol)[0].windows for count in (num_targets, num_targets + more))
    assert [(lane.start, lane.first_scored) for lane in lanes] == [
        (lane.start, lane.first_scored) for lane in longer if lane.first_scored < num_targets
    ]


@given(st.integers(1, 400), streams(), st.integers(0, 100))
def test_lanes_of_a_chunk_are_scored_before_it_is_learnt(num_targets: int, lanes: StreamProtocol, more: int) -> None:
    protocol = TTTProtocol(
        **{**TTT, **dataclasses.asdict(lanes), "kind": "ttt", "chunk_tokens": lanes.lane_tokens + more}
    )
    learnt_up_to, scored = 0, []
    for group in plan([num_targets], protocol):
        assert all(lane.first_scored >= learnt_up_to for lane in group.windows)
        scored += [target for lane in group.windows for target in range(lane.first_scored, lane.stop)]
        learnt_up_to = group.stop
        assert len(scored) >= learnt_up_to
    assert scored == list(range(num_targets))


@pytest.mark.parametrize("num_tokens", [2, 17, 18, 23, 130])
def test_lanes_of_one_stride_are_sliding_windows(num_tokens: int) -> None:
    model, tokens = tiny_network(), random_tokens(num_tokens)
    nats = score_tokens(model, tokens, {**STREAM, "lane_tokens": 6})
    # float32 sums in another order: windows of other lengths, rows of other batches
    np.testing.assert_allclose(nats, score_tokens(model, tokens, SLIDING), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("context", "stride"), [(64, 7), (90, 40), (100, 100)])
def test_a_window_as_long_as_the_stream_is_one_forward_pass(name: str, context: int, stride: int) -> None:
    config = architecture(name)
    model, tokens = roused(config, 1), random_tokens(min(context - stride, 57) + 4, config.vocab_size)
    protocol = {
        "kind": "stream",
        "context_tokens": context,
        "stride_tokens": stride,
        "lane_tokens": 1000,
        "mixture": None,
    }
    with torch.no_grad():
        logits_TV = in_context(model, context).eval()(tokens[None, :-1])[0]
    expected = F.cross_entropy(logits_TV, tokens[1:], reduction="none").numpy()
    np.testing.assert_allclose(score_tokens(model, tokens, protocol), expected, rtol=0, atol=1e-5)


def test_chunks_of_lanes_that_learn_nothing_are_a_stream() -> None:
    model, tokens = tiny_network(), random_tokens(150)
    still = {**TTT, "epochs": 0, "lane_tokens": 20, "chunk_tokens": 60}
    nats = score_tokens(model, tokens, {**STREAM, "lane_tokens": 20})
    np.testing.assert_allclose(score_tokens(model, tokens, still), nats, rtol=0, atol=1e-5)  # float32, other batches
    assert np.abs(score_tokens(model, tokens, {**still, "epochs": 1}) - nats)[100:].min() > 0


def shallow(num_visits: int) -> LoopedUNet:
    """Return a network of few visits whose embedding does not look back."""
    return roused(
        changed(
            architecture("unique only"),
            {"schedule.unique_blocks": num_visits, "bigram": None, "smear": None, "vocab_size": 64},
        ),
        3,
    )


def test_with_a_single_attention_the_window_is_all_that_counts() -> None:
    """One visit: cached keys and values are those that a window makes anew. Two: they come from further back."""
    tokens, protocol = random_tokens(150), {**STREAM, "lane_tokens": 36}  # whole strides, so that windows coincide
    one, two = (
        np.abs(score_tokens(shallow(depth), tokens, protocol) - score_tokens(shallow(depth), tokens, SLIDING)).max()
        for depth in (1, 2)
    )
    assert one < 1e-5  # float32
    assert two > 1e-3


def test_the_length_of_a_stream_moves_no_score() -> None:
    model, tokens = tiny_network(), random_tokens(200)
    whole = score_tokens(model, tokens, STREAM)
    for length in (17, 57, 58, 99, 140):
        np.testing.assert_allclose(score_tokens(model, tokens[:length], STREAM), whole[: length - 1], rtol=0, atol=1e-5)


def test_lanes_are_fed_side_by_side_up_to_the_batch() -> None:
    lanes = plan([100], parse_protocol({**STREAM, "lane_tokens": 18}))[0].windows
    batches = list(window_batches(lanes, 3 * 16, 16))
    assert [len(batch) for batch in batches] == [1, 3, 1]  # the first has no past and the last less to score


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stride_tokens": 17}, "stride_tokens: got 17, expected 1 to context_tokens"),
        (
            {**TTT, "lane_tokens": 41},
            r"lane_tokens: got 41, expected null or stride_tokens to chunk_tokens \(6 to 40\)",
        ),
        ({"lane_tokens": 5}, "lane_tokens: got 5, expected at least stride_tokens"),
    ],
)
def test_impossible_streams_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        score_tokens(tiny_network(), [1, 2], {**STREAM, **changes})


def test_a_model_without_a_cache_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"protocol stream: got .function., expected .* use sliding"):
        score_tokens(lambda ids: torch.zeros(*ids.shape, 64), random_tokens(5), STREAM)
