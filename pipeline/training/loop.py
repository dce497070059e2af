"""The training loop: one optimizer step over a global batch after another, until the budget is spent.

The one idea: everything that differs between one process and many is one exchange of gradients per step and one shared
clock; all the rest is the same program on every rank, so the result does not depend on how many ranks run it beyond
rounding.

Axes: B sequences of this rank, T position. A sequence of a batch holds T + 1 tokens: inputs and, one later, targets.

Differs: no DistributedDataParallel: gradients are averaged after the backward pass, because Muon orthogonalises
    averaged gradients.
Checked by: tests/training/test_loop.py, tests/training/test_ranks.py, tests/training/test_resume.py.
"""

import math
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from pipeline.base.checks import FairwayError, require_always
from pipeline.base.progress import ClockedProgress, Log
from pipeline.base.ranks import Ranks, share_from_rank_zero
from pipeline.data.batches import BatchStream, SequenceSampler, shorter_sequences
from pipeline.model.documents import is_flash_forced
from pipeline.model.network import LoopedUNet
from pipeline.optim.lr_schedule import budget_progress
from pipeline.training.backward import Backward, build_backward, warm_up, with_room
from pipeline.training.config import TrainConfig
from pipeline.training.contexts import sampled_tokens
from pipeline.training.journal import Journal, TrainResult
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import BF16
from pipeline.training.regime import Regime, settings_at
from pipeline.training.snapshot import Snapshots

Clock = Callable[[], float]


class DivergenceError(FairwayError):
    """The loss or the gradient stopped being a number."""


class _Budget:
    """Seconds of training on rank 0, the same on every rank, and the budget that they and the steps count against."""

    def __init__(self, config: TrainConfig, ranks: Ranks, clock: Clock, seconds: float) -> None:
        self.max_steps, self.max_seconds, self.ranks, self.clock = config.max_steps, config.train_seconds, ranks, clock
        self.resume(seconds)

    def resume(self, seconds: float) -> None:
        """Go on as if `seconds` had passed since the start."""
        self.start = self.clock() - seconds

    def seconds(self) -> float:
        """Return the seconds since the start; ranks agree by hearing rank 0's figure."""
        seconds = torch.tensor(self.clock() - self.start, dtype=torch.float64)
        if self.ranks.world_size > 1:
            dist.broadcast(seconds, src=0)
        return seconds.item()

    def is_spent(self, step: int, seconds: float) -> bool:
        """Tell whether the run ends after `step` steps."""
        return self._progress(step, seconds) >= 1

    def expected_steps(self, step: int, seconds: float) -> int:
        """Return the steps that the whole run will take at its present speed: exact for a step budget alone."""
        spent = self._progress(step, seconds)
        return max(step, round(step / spent)) if spent > 0 else step

    def _progress(self, step: int, seconds: float) -> float:
        return budget_progress(step, seconds, max_steps=self.max_steps, max_seconds=self.max_seconds)


def train(
    model: nn.Module,
    config: TrainConfig,
    sampler: SequenceSampler,
    ranks: Ranks,
    device: torch.device,
    log: Log,
    progress: ClockedProgress,
    clock: Clock = time.perf_counter,
    snapshots: "Snapshots | None" = None,
) -> TrainResult:
    """Train `model` in place until the step or the wall-clock budget is spent.

    `model` maps ids and targets (B, T) to their mean nats; `config` names a precision, not auto. Every rank calls this
    inside its process group; weights start as rank 0's, which logs. Step n reads batch n, whatever the world size,
    cut into the sequences of its stage.
    With `snapshots` it starts from the latest one, saves outside of the budget's clock, and ends in StoppedError after
    a signal.
    Raises ValueError when the batch does not divide into sequences over ranks, DivergenceError when the loss or the
    gradient is no longer finite, DeviceMemoryError when a pass does not fit into the GPU.
    """
    batch_sequences = sequences_per_step(config.batch_tokens, sampler.sequence_tokens, ranks.world_size)
    journal = Journal(config, ranks, log, progress)
    journal.say(f"model_params:{sum(parameter.numel() for parameter in model.parameters())}")
    shape_BT = (batch_sequences // ranks.world_size, sampler.sequence_tokens)
    regime, optimizer_step, forward_backward = _set_up(model, config, sampler.seed, shape_BT, ranks, device)
    step, seconds, broken_at = 0, 0.0, torch.zeros((), dtype=torch.int64, device=device)
    if snapshots is not None:
        optimizers = {f"optimizer_{i}": optimizer for i, optimizer in enumerate(optimizer_step.optimizers)}
        step, seconds, journal.curve = snapshots.restore({"model": model, **optimizers, "regime": regime})
    stream = BatchStream(sampler, step, batch_sequences, ranks.rank, ranks.world_size, device)
    budget, batch_BT = _Budget(config, ranks, clock, seconds), stream.next()
    while not budget.is_spent(step, seconds):
        settings = settings_at(config, step, seconds)
        if config.context_stages is not None:
            batch_BT = shorter_sequences(batch_BT, settings.context_tokens)
        with regime.step(settings):
            loss = forward_backward(batch_BT)
        optimizer_step.set_schedule(settings)
        norm = optimizer_step.take(loss)
        regime.after_step(settings)
        step, batch_BT = step + 1, stream.next()
        # Kept on the device: looking at it each step would make the host wait for the GPU.
        broken_at = torch.where((broken_at == 0) & ~torch.isfinite(loss + norm), step, broken_at)
        seconds = budget.seconds()
        saving = snapshots is not None and snapshots.is_due(seconds)
        if saving or journal.is_due(step) or budget.is_spent(step, seconds):
            _require_unbroken(int(broken_at))
            seconds = budget.seconds()  # again, now that the device has caught up
        if journal.is_due(step) or budget.is_spent(step, seconds):
            journal.add_row(step, loss.item(), settings.lr_scale, seconds, budget.expected_steps(step, seconds))
        journal.advance(step, budget.expected_steps(step, seconds), seconds)
        if snapshots is not None and saving and not budget.is_spent(step, seconds):
            snapshots.save(step, seconds, journal.curve)
            budget.resume(seconds)
    return journal.close(budget.expected_steps(step, seconds), regime.finish())


def _set_up(
    model: nn.Module, config: TrainConfig, seed: int, shape_BT: tuple[int, int], ranks: Ranks, device: torch.device
) -> tuple[Regime, OptimizerStep, Backward]:
    """Give all ranks the same model, and return what steps it, compiled where that is asked for."""
    model.to(device).train()
    share_from_rank_zero([*model.parameters(), *model.buffers()], ranks)
    regime, optimizer_step = Regime(model, config, seed), OptimizerStep(model, config, ranks)
    forward_backward = build_backward(
        model,
        device,
        bf16=config.precision == BF16,
        compiled=config.compile,
        micro_batch_sequences=config.micro_batch_sequences,
        longest_tokens=None if config.context_stages is None else config.context_stages[-1].context_tokens,
    )
    if config.compile:
        network, (batch, length) = cast(LoopedUNet, model), shape_BT
        if device.type == "cuda" and is_flash_forced():
            forward_backward = with_room(forward_backward, network, config.micro_batch_sequences)
        for loops, tokens in regime.graphs():
            regime.set_loops(loops)
            one_more = (batch * length // (tokens or length), (tokens or length) + 1)
            warm_up(network, forward_backward, one_more, optimizer_step.average_gradients)
    return regime, optimizer_step, forward_backward


def sequences_per_step(batch_tokens: int, sequence_tokens: int, world_size: int) -> int:
    """Return the sequences of a global batch, a multiple of `world_size`.

    Raises ValueError naming the nearest batch that divides evenly.
    """
    unit_tokens = sequence_tokens * world_size
    nearest = max(1, round(batch_tokens / unit_tokens)) * unit_tokens
    expected = f"a multiple of {sequence_tokens} tokens per sequence x {world_size} processes, such as {nearest}"
    require_always(batch_tokens % unit_tokens == 0, "train.batch_tokens", batch_tokens, expected)
    return batch_tokens // sequence_tokens


def sequences_per_process(config: TrainConfig, context_tokens: int, world_size: int) -> int:
    """Return the sequences of this length in a process's share of a batch, which is dealt out in the sampler's spans.

    Raises ValueError for the batches that `train` refuses.
    """
    span = math.lcm(context_tokens, sampled_tokens(config.context_stages or ()))
    return sequences_per_step(config.batch_tokens, span, world_size) // world_size * (span // context_tokens)


def _require_unbroken(broken_at: int) -> None:
    """Raise DivergenceError when a step, counted from 1, had a loss or gradient norm that is not a number."""
    if broken_at:
        raise DivergenceError(
            f"training diverged at step {broken_at}: loss or gradient norm is not finite; lower "
            "train.matrix_lr, train.embed_lr and train.scalar_lr or set train.grad_clip"
        )
