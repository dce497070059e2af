"""Sequences that get longer: what every step reads, the rise after a switch, resuming around one, other ranks."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.batches import SequenceSampler, shorter_sequences
from pipeline.model.network import build
from pipeline.training.backward import DeviceMemoryError
from pipeline.training.contexts import SWITCH_STEPS, ContextStage, check_contexts, sampled_tokens
from pipeline.training.regime import settings_at
from tests.training.test_loop import ticking_clock
from tests.training.test_snapshot import Run, assert_equal_runs, stopped
from tests.training.tiny_run import MODEL, SEQUENCE_TOKENS, train_config, train_tiny


def stages(*pairs: tuple[float, int]) -> tuple[ContextStage, ...]:
    """Return stages of (from_frac, context_tokens)."""
    return tuple(ContextStage(from_frac=from_frac, context_tokens=tokens) for from_frac, tokens in pairs)


GROWING = stages((0.0, 4), (0.25, 8), (0.5, SEQUENCE_TOKENS))
"""Of 12 steps, three each of the shorter lengths."""


def test_an_epoch_reads_every_token_once_whenever_lengths_change() -> None:
    lengths, batch_tokens = (4, 6, 12), 24
    shards = [np.arange(121, dtype=np.uint16), np.arange(200, 250, dtype=np.uint16)]
    sampler = SequenceSampler(shards, sampled_tokens(stages((0.0, 4), (0.1, 6), (0.7, 12))), seed=3)
    whole = [set(range(120)), set(range(200, 248))]
    for length_of in itertools.product(lengths, repeat=3):
        read: list[int] = []
        for step in range(7):
            batch_BT = sampler.batch(step, batch_tokens // 12, 0, 1)
            length = length_of[step // 3]
            rows_BT = shorter_sequences(batch_BT, length)
            assert rows_BT.shape == (batch_tokens // length, length + 1), "equal tokens at every length"
            assert torch.equal(rows_BT[:, 1:], rows_BT[:, :-1] + 1), "what is cut runs on to its last target"
            halves = [shorter_sequences(sampler.batch(step, batch_tokens // 12, rank, 2), length) for rank in (0, 1)]
            assert torch.equal(torch.cat(halves), rows_BT), "ranks share the batch of one process"
            read += rows_BT[:, :-1].flatten().tolist()
        assert len(read) == len(set(read)) == 168, "7 steps are the whole epoch"
        assert set(read) == whole[0] | whole[1]


def test_lengths_of_the_publication_fit_into_one_sampler() -> None:
    assert sampled_tokens(stages((0.0, 1024), (0.1, 2048), (0.7, 3072))) == 6144


class _Recording(nn.Module):
    """The tiny model, and the shape and first token of what it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shapes = build(MODEL, seed=0), list[tuple[int, ...]]()

    def forward(self, input_ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(input_ids_BT.shape))
        return self.inner(input_ids_BT, targets_BT)


def test_steps_read_the_lengths_of_their_stages_at_equal_tokens() -> None:
    model = _Recording()
    train_tiny(train_config(context_stages=GROWING), model)
    assert model.shapes == [(32, 4)] * 3 + [(16, 8)] * 3 + [(8, 16)] * 6


def test_a_clock_switches_too_and_is_counted() -> None:
    """Twelve steps by the budget, of which the clock allows some nine: it leads."""
    model = _Recording()
    config = train_config(context_stages=GROWING, max_seconds=10.0)
    _, result = train_tiny(config, model, clock=ticking_clock(1.0))
    lengths = [shape[1] for shape in model.shapes]
    assert lengths == sorted(lengths)
    assert set(lengths) == {4, 8, 16}
    assert len(lengths) < 12
    assert result.regime["clock_led_steps"] > 0


def test_one_stage_of_the_whole_length_changes_no_bit() -> None:
    whole = train_tiny(train_config())
    assert_equal_runs(whole, train_tiny(train_config(context_stages=stages((0.0, SEQUENCE_TOKENS)))))


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_stopped_around_a_switch_ends_with_the_same_bits(step: int, tmp_path: Path) -> None:
    """Step 3 is the first of the second length."""
    config = train_config(context_stages=GROWING)
    stopped(tmp_path, config, step)
    assert_equal_runs(train_tiny(config), Run(tmp_path).train(config))


def lr_scales(max_steps: int, **changes: Any) -> list[float]:
    """Return the learning rates of a run without warm-up and warm-down, over their peaks."""
    values = {"max_steps": max_steps, "warmup_steps": 0, "warmdown_frac": None, **changes}
    config = train_config(**values)
    return [settings_at(config, step, 0.0).lr_scale for step in range(max_steps)]


def test_the_learning_rate_rises_again_after_a_switch() -> None:
    rise = [(step + 1) / SWITCH_STEPS for step in range(SWITCH_STEPS)]
    expected = [1.0] * 100 + rise + [1.0] * 68 + rise + [1.0] * 168
    given = lr_scales(400, context_stages=stages((0.0, 4), (0.25, 8), (0.5, 16)))
    assert given == pytest.approx(expected)


def test_on_a_clock_the_rise_counts_steps_at_their_mean_speed() -> None:
    config = train_config(max_steps=None, max_seconds=400.0, warmup_steps=0, warmdown_frac=None, context_stages=GROWING)
    given = [settings_at(config, step, 2.0 * step).lr_scale for step in range(200)]
    rise = [(step + 1) / SWITCH_STEPS for step in range(SWITCH_STEPS)]
    assert given == pytest.approx([1.0] * 50 + rise + [1.0] * 18 + rise + [1.0] * 68)


class _Full(_Recording):
    """A model on a GPU that holds so many tokens."""

    def __init__(self, most_tokens: int) -> None:
        super().__init__()
        self.most_tokens = most_tokens

    def forward(self, input_ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        if input_ids_BT.numel() > self.most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB")
        return super().forward(input_ids_BT, targets_BT)


def test_a_full_gpu_names_a_micro_batch_that_fits_until_the_end() -> None:
    """Half as many of the first, short sequences would fit them, and fill the GPU again when they get longer."""
    config = train_config(context_stages=GROWING)
    with pytest.raises(DeviceMemoryError, match=r"32 sequences .*set train\.micro_batch_sequences to 4$"):
        train_tiny(config, _Full(64))
    model = _Full(64)
    train_tiny(replace(config, micro_batch_sequences=4), model)
    assert max(model.shapes) == (4, SEQUENCE_TOKENS)


def test_a_gpu_too_small_for_one_sequence_names_all_lengths() -> None:
    advice = "shorten model.context_tokens, and train.context_stages where set"
    with pytest.raises(DeviceMemoryError, match=f"1 sequences .*; {advice}$"):
        train_tiny(train_config(context_stages=GROWING, micro_batch_sequences=1), _Full(8))
    check_contexts(GROWING[:2], 8, train_config().batch_tokens)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [(0.0, 8)],
            "train.context_stages[-1].context_tokens: got 8, expected 16, model.context_tokens: what is never",
        ),
        ([(0.0, 32), (0.5, 16)], "train.context_stages[0].context_tokens: got 32, expected at most 16, model.context"),
        ([(0.0, 12), (0.5, 16)], "train.batch_tokens: got 64, expected a multiple of 48, in which train.context_sta"),
        ([(0.0, 0)], "context_tokens: got 0, expected at least 1"),
    ],
)
def test_stages_that_do_not_lead_to_the_models_length_are_refused(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_contexts(stages(*pairs), 16, 64)
