"""Scores: against naive per-window loops, independent of batching, and leaving the caller's model alone."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.model import loss
from pipeline.model.network import LoopedUNet
from pipeline.scoring import evaluate, score_tokens
from pipeline.scoring.windows import Window
from tests.scoring.scoring_toys import (
    BLOCKS,
    DOCUMENTS,
    EVERY_PROTOCOL,
    MIXTURES,
    SLIDING,
    TTT,
    in_context,
    random_documents,
    random_tokens,
    run,
    tiny_network,
)


def one_target_at_a_time(model, tokens, context: int, stride: int) -> np.ndarray:
    """Score target j from the window that the definition names, alone, from full float32 logits."""
    model, nats = in_context(model, context).eval(), []
    for j in range(len(tokens) - 1):
        past_first = max(0, math.ceil((j + 1 - context) / stride)) * stride
        with torch.no_grad():
            logits = model(tokens[None, past_first : j + 1])[0, -1]
        nats.append(-F.log_softmax(logits, -1)[tokens[j + 1]].item())
    return np.array(nats)


@pytest.mark.parametrize("num_tokens", [2, 9, 17, 18, 23, 100])
@pytest.mark.parametrize(("protocol", "stride"), [(BLOCKS, 16), (SLIDING, 6)])
def test_windows_equal_the_definition_target_by_target(protocol: dict, stride: int, num_tokens: int) -> None:
    model, tokens = tiny_network(), random_tokens(num_tokens)
    expected = one_target_at_a_time(model, tokens, 16, stride)
    # float32 sums in another order: windows of other lengths, rows of other batches
    np.testing.assert_allclose(score_tokens(model, tokens, protocol), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("protocol", [BLOCKS, SLIDING, TTT], ids=lambda protocol: protocol["kind"])
def test_sliced_head_equals_full_logits(protocol: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = tiny_network(), random_tokens(150)
    monkeypatch.setattr(loss, "LEAST_ROWS", 5)
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 1})
    sliced = run(model, tokens, {**protocol, **({"epochs": 0} if protocol is TTT else {})}).nats
    network = in_context(model, 16).eval()
    full = run(lambda ids: network(ids), tokens, BLOCKS if protocol is BLOCKS else SLIDING).nats
    np.testing.assert_allclose(sliced, full, rtol=0, atol=1e-6 * max(1.0, full.max()))


@pytest.mark.parametrize("lengths", [[], [3], [0, 5, 0, 0, 1, 40, 15, 16, 17, 2, 70, 0]])
def test_documents_are_scored_as_if_each_were_alone(lengths: list[int]) -> None:
    model, tokens = tiny_network(), random_documents([*lengths, 20])
    starts = [*(tokens == 1).nonzero()[:, 0].tolist(), len(tokens) - 1]
    # The BOS of the next document is the last target of a document; what follows it is another's.
    alone = [score_tokens(model, tokens[start : end + 1], BLOCKS) for start, end in itertools.pairwise(starts)]
    found = run(model, tokens, DOCUMENTS)
    np.testing.assert_allclose(found.nats, np.concatenate(alone), rtol=0, atol=2e-5)  # padded to other lengths
    np.testing.assert_array_equal(found.order, np.arange(len(tokens) - 1))


def test_a_stream_may_begin_and_end_anywhere_in_a_document() -> None:
    tokens = random_documents([9, 30, 0])
    assert tokens[-1] == 1
    cut = tokens[4:]
    whole, part = (score_tokens(tiny_network(), stream, DOCUMENTS) for stream in (tokens, cut))
    np.testing.assert_allclose(part[6:], whole[10:], rtol=0, atol=2e-5)


@EVERY_PROTOCOL
def test_batching_moves_only_the_last_bits_and_a_rerun_none(protocol: dict) -> None:
    model, tokens = tiny_network(), random_tokens(150)
    first, again, other = (run(model, tokens, protocol, batch_tokens=size) for size in (64, 64, 1))
    assert first.nats.tobytes() == again.nats.tobytes()
    np.testing.assert_allclose(first.nats, other.nats, rtol=0, atol=1e-4 if protocol is TTT else 1e-5)
    np.testing.assert_array_equal(first.order, other.order)


def test_scores_name_the_chunk_of_every_target() -> None:
    scores = run(tiny_network(), random_tokens(100), {**TTT, "context_tokens": 8, "stride_tokens": 8})
    np.testing.assert_array_equal(scores.order, np.arange(99))
    np.testing.assert_array_equal(scores.group, np.arange(99) // 40)


def test_progress_comes_after_scoring_and_after_learning() -> None:
    """A clock that hears of batches alone would not see the training of the chunk before."""
    reports: list[tuple[int, str]] = []
    tokens, protocol = random_tokens(100), {**TTT, "context_tokens": 40, "stride_tokens": 40}
    scores = run(
        tiny_network(),
        tokens,
        protocol,
        batch_tokens=40,
        progress=lambda done, total, note: reports.append((done, note)),
    )
    means = [f"{scores.nats[:done].mean():.4f} nats per target" for done in (40, 80, 99)]
    assert reports == [(40, means[0]), (40, means[0]), (80, means[1]), (80, means[1]), (99, means[2])]


@EVERY_PROTOCOL
def test_the_callers_model_is_unchanged(protocol: dict) -> None:
    model = tiny_network().train()
    model.blocks[2].requires_grad_(False)
    before, config = copy.deepcopy(model.state_dict()), model.config
    rotary = model.rotary.inv_freq_PK.clone()
    with torch.inference_mode():  # the caller's own mode must not keep adaptation from training
        inside = score_tokens(model, random_tokens(150), protocol, mixtures=MIXTURES)
    np.testing.assert_array_equal(inside, score_tokens(model, random_tokens(150), protocol, mixtures=MIXTURES))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert model.config == config
    assert torch.equal(model.rotary.inv_freq_PK, rotary)
    assert [p.requires_grad for p in model.blocks[2].parameters()].count(True) == 0
    assert all(p.requires_grad and p.grad is None for p in model.blocks[0].parameters())


def test_the_protocols_context_sets_the_rope_base() -> None:
    model, tokens = tiny_network(), random_tokens(20)  # its base rises beyond 24 tokens
    short = score_tokens(model, tokens, {**BLOCKS, "context_tokens": 24})
    raised = score_tokens(model, tokens, {**BLOCKS, "context_tokens": 48})
    assert not np.allclose(short, raised, rtol=0, atol=1e-3)


def test_streams_without_targets_and_token_types() -> None:
    model = tiny_network()
    for protocol in (BLOCKS, DOCUMENTS, SLIDING, TTT):
        assert score_tokens(model, [5], protocol).shape == (0,)
    tokens = random_tokens(40)
    as_shard = score_tokens(model, tokens.numpy().astype(np.uint16), SLIDING)
    np.testing.assert_array_equal(as_shard, score_tokens(model, tokens, SLIDING))
    assert as_shard.dtype == np.float64


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([], "at least one token"),
        ([[1, 2]], "one row"),
        ([1.0, 2.0], "integer"),
        ([1, 64], "vocabulary"),
        ([-1], "0 on"),
    ],
)
def test_bad_streams_are_refused(tokens: list, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        score_tokens(tiny_network(), tokens, BLOCKS)
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        score_tokens(lambda ids: torch.full((*ids.shape, 64), float("nan")), random_tokens(5), BLOCKS)


def test_a_score_that_is_not_finite_stops_the_run_at_once() -> None:
    tokens, steps = random_tokens(200), []

    def breaks_down(ids: torch.Tensor) -> torch.Tensor:
        return torch.full((*ids.shape, 64), 0.0 if torch.equal(ids[0], tokens[:16]) else float("nan"))

    with pytest.raises(ValueError, match="got nan at target 16,"):
        run(breaks_down, tokens, BLOCKS, batch_tokens=16, progress=lambda done, total, note: steps.append(done))
    assert steps == [16]  # the threads may be ahead of the batch that breaks down, the scores are not


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adaptation_on_cuda_gives_the_same_bytes_twice(dtype: torch.dtype) -> None:
    rule = {**TTT, "context_tokens": 256, "stride_tokens": 64, "chunk_tokens": 2048}
    model, tokens = tiny_network(), random_tokens(10_000)
    first, again = (run(model, tokens, rule, 16384, device="cuda", dtype=dtype) for _ in range(2))
    assert first.nats.tobytes() == again.nats.tobytes()


def test_bfloat16_is_close_to_float32() -> None:
    model, tokens = tiny_network(), random_tokens(100)
    reduced = score_tokens(model, tokens, SLIDING, dtype=torch.bfloat16)
    exact = score_tokens(model, tokens, SLIDING)
    assert 0 < np.abs(reduced - exact).max() < 0.5  # 8 bits of mantissa through 7 visits
    assert abs(reduced.mean() - exact.mean()) < 0.05


def test_only_a_gpu_with_many_passes_compiles() -> None:
    cuda, cpu, bf16, many = torch.device("cuda"), torch.device("cpu"), torch.bfloat16, evaluate.WORTH_COMPILING
    assert evaluate.worth_compiling(cuda, bf16, many)
    assert not evaluate.worth_compiling(cuda, bf16, many - 1)
    assert not evaluate.worth_compiling(cuda, torch.float32, many)
    assert not evaluate.worth_compiling(cpu, bf16, many)


@pytest.mark.parametrize("protocol", [BLOCKS, SLIDING, TTT])
def test_full_batches_alone_are_compiled_and_score_the_same(protocol: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def compiled(model: LoopedUNet, ids_BT: torch.Tensor, targets_R: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids_BT.shape))
        return whole(model, ids_BT, targets_R)

    whole, tokens = evaluate.nats_of_whole_windows, random_tokens(16 + 6 * 20 + 3)
    plain = run(tiny_network(), tokens, protocol)
    monkeypatch.setattr(evaluate, "worth_compiling", lambda device, dtype, passes: True)
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled)
    np.testing.assert_allclose(run(tiny_network(), tokens, protocol).nats, plain.nats, rtol=0, atol=1e-5)
    assert set(shapes) == {(4, 16)}


def test_a_whole_pass_gives_the_nats_of_the_plain_one_and_is_one_graph() -> None:
    model, tokens = tiny_network().eval(), random_tokens(64)
    batch = [Window(0, 16, 10), Window(6, 22, 16)]
    whole = torch.compile(evaluate.nats_of_whole_windows, backend="eager", fullgraph=True, dynamic=False)
    args = (model, tokens, batch, "cpu", torch.float32, None)
    np.testing.assert_allclose(evaluate.score_windows(*args, whole), evaluate.score_windows(*args), rtol=0, atol=1e-6)


def test_windows_that_begin_to_be_scored_at_different_places_share_a_pass() -> None:
    model, tokens = tiny_network().eval(), random_tokens(64)
    batch = [Window(0, 16, 10), Window(20, 31, 20), Window(6, 14, 12)]
    found = evaluate.score_windows(model, tokens, batch, "cpu", torch.float32)
    alone = [evaluate.score_windows(model, tokens, [window], "cpu", torch.float32) for window in batch]
    np.testing.assert_allclose(found, np.concatenate(alone), rtol=0, atol=1e-5)
