"""train() on a tiny real model, on one process."""

import itertools
import math
import re

import pytest
import torch
from torch import nn

from pipeline.base.ranks import Ranks
from pipeline.model.network import build
from pipeline.training.backward import DeviceMemoryError, build_backward
from pipeline.training.loop import DivergenceError, sequences_per_step
from pipeline.training.optimizer_step import OptimizerStep
from tests.training.tiny_run import MODEL, SEQUENCE_TOKENS, pattern_sampler, train_config, train_tiny


def ticking_clock(seconds_per_reading: float):
    """Return a clock that advances by the same amount at every reading."""
    return itertools.count(0.0, seconds_per_reading).__next__


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learns_a_repeated_pattern(precision: str) -> None:
    _, result = train_tiny(train_config(max_steps=60, precision=precision))
    first, last = result.curve[0]["loss"], result.last["loss"]
    assert first == pytest.approx(math.log(32), abs=0.1), "a fresh model knows nothing"
    assert last < 0.25 * first
    assert [row["step"] for row in result.curve] == [1, *range(5, 61, 5)]


def test_two_runs_give_the_same_bits() -> None:
    runs = [train_tiny(train_config(precision="bf16")) for _ in range(2)]
    for (name, one), two in zip(runs[0][0].state_dict().items(), runs[1][0].state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert [row["loss"] for row in runs[0][1].curve] == [row["loss"] for row in runs[1][1].curve]


def test_reported_loss_is_the_mean_over_all_targets_before_the_update() -> None:
    """The first row's loss, recomputed in float64 from an untouched model."""
    sampler = pattern_sampler()
    model = build(MODEL, seed=0).double()
    batch_BT = sampler.batch(0, 8, 0, 1)
    logits_BTV = model(batch_BT[:, :-1]).double()
    nats_BT = -logits_BTV.log_softmax(-1).gather(-1, batch_BT[:, 1:, None])
    _, result = train_tiny(train_config(max_steps=1))
    assert result.last["loss"] == pytest.approx(nats_BT.mean().item(), abs=1e-5)
    assert result.last["tokens"] == 8 * SEQUENCE_TOKENS


def test_log_lines() -> None:
    lines: list[str] = []
    model, _ = train_tiny(train_config(max_steps=7), log=lines.append)
    assert lines[0] == f"model_params:{sum(p.numel() for p in model.parameters())}"
    rows = [
        re.fullmatch(r"step:(\d+)/7 train_loss:\d+\.\d{4} train_time:\d+ms step_avg:\d+\.\d\dms", line)
        for line in lines[1:]
    ]
    assert all(rows)
    assert [int(row[1]) for row in rows if row] == [1, 5, 7], "the first, every fifth, the last"


def test_clock_budget_stops_and_says_so() -> None:
    """A clock of one second per reading: the start reads it once, a step once, a row once more: 16 + 4 rows."""
    lines: list[str] = []
    _, result = train_tiny(train_config(max_steps=1000, max_seconds=20.0), log=lines.append, clock=ticking_clock(1.0))
    assert result.last["step"] == 16
    assert result.last["seconds"] >= 20.0
    assert lines[-2] == f"stopping_early: wallclock_cap train_time:{1000 * result.last['seconds']:.0f}ms step:16/1000"
    assert (result.ended_by, lines[-1]) == ("clock", f"clock_led_steps:{result.regime['clock_led_steps']}")


def test_a_clock_that_never_leads_changes_no_bit() -> None:
    """A cap on the wall clock, twice what the steps take: the run of the step budget alone, on any such machine."""
    runs = [train_tiny(train_config(max_steps=16, max_seconds=cap), clock=ticking_clock(1.0)) for cap in (None, 60.0)]
    (alone, steps), (capped, both) = runs
    assert (steps.ended_by, both.ended_by, both.regime) == ("steps", "steps", {})
    assert all(torch.equal(one, two) for one, two in zip(alone.parameters(), capped.parameters(), strict=True))


def test_a_clock_that_led_for_a_while_is_counted() -> None:
    """Thirty slow readings, then fast ones: the steps end the run, and yet another machine would differ."""
    readings = itertools.chain(range(0, 30, 3), itertools.repeat(30.0))
    _, result = train_tiny(
        train_config(max_steps=40, max_seconds=60.0, warmdown_frac=0.8, log_every_steps=100),
        clock=lambda: float(next(readings)),
    )
    assert result.ended_by == "steps"
    assert 0 < result.regime["clock_led_steps"] < 40


def test_warm_down_reaches_its_end_on_a_clock_budget() -> None:
    _, result = train_tiny(
        train_config(max_steps=None, max_seconds=50.0, log_every_steps=1, warmdown_frac=0.4), clock=ticking_clock(0.5)
    )
    scales = [row["lr_scale"] for row in result.curve]
    assert max(scales) == 1.0
    assert scales[-1] == pytest.approx(1.0 / (0.4 * 50)), "the last step starts one second before the end"
    peak = scales.index(1.0)
    assert scales[peak:] == sorted(scales[peak:], reverse=True)


def test_a_real_clock_budget_ends_in_time() -> None:
    _, result = train_tiny(train_config(max_steps=None, max_seconds=0.3))
    assert 0.3 <= result.last["seconds"] < 1.5
    assert result.last["step"] > 1


def test_progress_ends_full() -> None:
    seen: list[tuple] = []
    _, result = train_tiny(train_config(max_steps=4), progress=lambda *shown: seen.append(shown))
    assert [shown[:2] for shown in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [shown[3] for shown in seen] == [None] * 4
    mean = sum(row["loss"] for row in result.curve[-5:]) / len(result.curve[-5:])
    assert seen[-1][2] == f"loss {mean:.3f}, lr {result.last['lr_scale']:.2f}"


def test_progress_tells_what_the_clock_leaves() -> None:
    left: list[float] = []
    config = train_config(max_steps=None, max_seconds=9.0)
    train_tiny(config, clock=itertools.count().__next__, progress=lambda *shown: left.append(shown[3]))
    assert left == sorted(left, reverse=True)
    assert left[-1] <= 0 < left[0] < 9


def test_divergence_names_the_step_and_a_remedy() -> None:
    """A weight that is not a number makes the first loss one."""
    model = build(MODEL, seed=0)
    with torch.no_grad():
        model.token_embedding.weight[:] = math.nan
    with pytest.raises(DivergenceError, match=r"at step 1: loss or gradient norm.*train\.matrix_lr") as caught:
        train_tiny(train_config(), model)
    assert "\n" not in str(caught.value)


def test_divergence_later_names_its_own_step() -> None:
    """Losses are looked at when a log line is due; the message still names the first bad step."""
    with pytest.raises(DivergenceError, match="at step 4:"):
        train_tiny(train_config(log_every_steps=100), _BreaksAfter(3))


class _BreaksAfter(nn.Module):
    """The tiny model, whose loss stops being a number after a number of passes."""

    def __init__(self, num_good_passes: int) -> None:
        super().__init__()
        self.inner, self.remaining = build(MODEL, seed=0), num_good_passes

    def forward(self, input_ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        self.remaining -= 1
        return self.inner(input_ids_BT, targets_BT) * (math.nan if self.remaining < 0 else 1.0)


def test_clipping_bounds_the_global_norm_of_a_step() -> None:
    """Under plain gradient descent with rate one, a step moves all weights together by the clipped gradient."""
    batch_BT = pattern_sampler().batch(0, 8, 0, 1)
    moves = {}
    for grad_clip in (0.0, 1e-2):
        model = build(MODEL, seed=0)
        before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
        config = train_config(grad_clip=grad_clip)
        optimizer_step = OptimizerStep(model, config, Ranks(0, 0, 1))
        optimizer_step.optimizers = [torch.optim.SGD(model.parameters(), lr=1.0)]
        backward = build_backward(model, torch.device("cpu"), bf16=False, compiled=False, micro_batch_sequences=None)
        norm = optimizer_step.average_gradients(backward(batch_BT))
        optimizer_step.update(norm)
        moves[grad_clip] = (torch.nn.utils.parameters_to_vector(model.parameters()) - before).norm().item()
    assert moves[0.0] == pytest.approx(norm.item(), rel=1e-4), "0 is off"
    assert norm > 1e-2, "the reported norm is the one before clipping"
    assert moves[1e-2] == pytest.approx(1e-2, rel=1e-3)


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    """Parts of 3, 3 and 2 sequences. In fp32 the sums, and so the gradient, differ in their last bits (measured 3e-7).

    Over a run that flips bf16 roundings inside Muon, which lifts the smallest directions of a gradient, noise included,
    to the size of the largest (measured after 12 steps: 0.009 of the distance moved, 7e-5 of the loss).
    """
    batch_BT = pattern_sampler().batch(0, 8, 0, 1)
    gradients, ends, losses = {}, {}, {}
    for micro in (None, 3):
        config = train_config(micro_batch_sequences=micro)
        model = build(MODEL, seed=0)
        backward = build_backward(model, torch.device("cpu"), bf16=False, compiled=False, micro_batch_sequences=micro)
        loss = backward(batch_BT)
        gradients[micro] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model, result = train_tiny(config)
        ends[micro] = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        losses[micro] = [loss.item(), *(row["loss"] for row in result.curve)]
    assert (gradients[3] - gradients[None]).norm() < 1e-5 * gradients[None].norm()
    assert losses[3] == pytest.approx(losses[None], rel=1e-3)
    start = torch.nn.utils.parameters_to_vector(build(MODEL, seed=0).parameters())
    assert (ends[3] - ends[None]).norm() < 0.05 * (ends[None] - start).norm()


def test_micro_batches_bound_what_the_model_sees() -> None:
    model, seen = build(MODEL, seed=0), []
    model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    train_tiny(train_config(max_steps=1, micro_batch_sequences=3), model)
    assert seen == [3, 3, 2]


def test_a_full_gpu_says_what_to_change() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build(MODEL, seed=0)

        def forward(self, input_ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
            if len(input_ids_BT) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB")
            return self.inner(input_ids_BT, targets_BT)

    with pytest.raises(DeviceMemoryError, match=r"8 sequences.*train\.micro_batch_sequences to 4$"):
        train_tiny(train_config(), Greedy())
    train_tiny(train_config(max_steps=1, micro_batch_sequences=2), Greedy())


def _compiler_is_missing() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(_compiler_is_missing(), reason="torch.compile needs a C++ compiler: install g++ or clang++")
def test_a_compiled_run_learns_the_same() -> None:
    """Fused fp32 kernels round differently. Two micro batches of one size share one compilation."""
    _, eager = train_tiny(train_config(max_steps=4, log_every_steps=1, micro_batch_sequences=4))
    _, compiled = train_tiny(train_config(max_steps=4, log_every_steps=1, micro_batch_sequences=4, compile=True))
    assert [row["loss"] for row in compiled.curve] == pytest.approx([row["loss"] for row in eager.curve], rel=1e-3)


def test_sequences_per_step() -> None:
    assert sequences_per_step(8192, 256, 1) == 32
    assert sequences_per_step(786432, 2048, 8) == 384
    with pytest.raises(ValueError, match=r"train\.batch_tokens: got 8000.*such as 8192"):
        sequences_per_step(8000, 256, 2)
    with pytest.raises(ValueError, match="such as 1024"):
        sequences_per_step(100, 256, 4)
