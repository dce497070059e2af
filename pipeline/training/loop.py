"""The training loop: one optimizer step over a global batch after another, until the budget is spent.

The one idea: everything that differs between one process and many is one averaged vector (gradients and loss) per
step and one shared clock; all the rest is the same program on every rank, so the result does not depend on how many
ranks run it beyond rounding.

Axes: B sequences of this rank, T position. A sequence of a batch holds T + 1 tokens: inputs and, one later, targets.

Differs: no DistributedDataParallel: gradients are averaged by one flat fp32 all-reduce after the backward pass, because
    Muon orthogonalises averaged gradients. The optimizer is not sharded over ranks yet: every rank does all of Muon's
    step, so more ranks do not make it faster.
Checked by: tests/training/test_loop.py, tests/training/test_ranks.py.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.checks import FairwayError, require
from pipeline.data.batches import SequenceSampler
from pipeline.model.network import LoopedUNet
from pipeline.optim.groups import build_adamw, parameter_groups
from pipeline.optim.lr_schedule import budget_progress, lr_scale, momentum_at
from pipeline.optim.muon import Muon
from pipeline.progress import Log, Progress
from pipeline.training.backward import Backward, build_backward, gradients_of, warm_up
from pipeline.training.config import TrainConfig
from pipeline.training.launch import Ranks, average_over_ranks, share_from_rank_zero

Clock = Callable[[], float]


class DivergenceError(FairwayError):
    """The loss or the gradient stopped being a number."""


class TrainReport(NamedTuple):
    """What a training run did; equal on every rank."""

    steps: int
    """Optimizer steps done."""
    seconds: float
    """Training time on rank 0's clock, without set-up and compilation."""
    tokens: int
    """Targets trained on, over all ranks."""
    final_train_loss: float
    """Mean nats per target of the last global batch, before its update."""
    curve: list[dict[str, float]]
    """One row per log line: step, loss, lr_scale, seconds, tokens."""


class _Budget:
    """Seconds of training on rank 0, the same on every rank, and the budget that they and the steps count against."""

    def __init__(self, config: TrainConfig, ranks: Ranks, clock: Clock) -> None:
        self.max_steps, self.max_seconds, self.ranks, self.clock = config.max_steps, config.max_seconds, ranks, clock
        self.start = clock()

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


class _Journal:
    """The curve, the log lines and the progress of a run; only rank 0's speaks."""

    def __init__(self, config: TrainConfig, ranks: Ranks, log: Log, progress: Progress) -> None:
        self.config, self.log, self.progress = config, log, progress
        self.speaks = ranks.rank == 0
        self.curve: list[dict[str, float]] = []

    def say(self, line: str) -> None:
        """Log a line."""
        if self.speaks:
            self.log(line)

    def is_due(self, step: int) -> bool:
        """Tell whether a row is due after `step` steps: the first one, then every log_every_steps."""
        return step == 1 or step % self.config.log_every_steps == 0

    def add_row(self, row: dict[str, float], expected_steps: int) -> None:
        """Keep a row and log it."""
        self.curve.append(row)
        milliseconds, step = 1000 * row["seconds"], int(row["step"])
        self.say(f"step:{step}/{expected_steps} train_loss:{row['loss']:.4f} train_time:{milliseconds:.0f}ms "
                 f"step_avg:{milliseconds / step:.2f}ms")  # fmt: skip

    def advance(self, step: int, expected_steps: int) -> None:
        """Move the progress on."""
        if self.speaks:
            self.progress(step, expected_steps, f"loss {self.curve[-1]['loss']:.3f}")

    def close(self, expected_steps: int) -> TrainReport:
        """Say whether the clock ended the run, and return the report."""
        last, max_steps = self.curve[-1], self.config.max_steps
        step = int(last["step"])
        if max_steps is None or step < max_steps:
            self.say(f"stopping_early: wallclock_cap train_time:{1000 * last['seconds']:.0f}ms "
                     f"step:{step}/{max_steps or expected_steps}")  # fmt: skip
        return TrainReport(step, last["seconds"], int(last["tokens"]), last["loss"], self.curve)


def train(
    model: nn.Module,
    config: TrainConfig,
    sampler: SequenceSampler,
    sequence_tokens: int,
    ranks: Ranks,
    device: torch.device,
    log: Log,
    progress: Progress,
    clock: Clock = time.perf_counter,
) -> TrainReport:
    """Train `model` in place until the step or the wall-clock budget is spent.

    `model` maps ids and targets (B, T) to their mean nats. Every rank calls this inside its process group; weights
    start as rank 0's. Rank 0 logs and reports progress. Step n reads the sampler's batch n, whatever the world size.
    Raises ValueError when the batch does not divide into sequences over ranks, DivergenceError when the loss or the
    gradient is no longer finite, DeviceMemoryError when a pass does not fit into the GPU.
    """
    batch_sequences = sequences_per_step(config.batch_tokens, sequence_tokens, ranks.world_size)
    journal = _Journal(config, ranks, log, progress)
    journal.say(f"model_params:{sum(parameter.numel() for parameter in model.parameters())}")
    model.to(device).train()
    share_from_rank_zero([*model.parameters(), *model.buffers()], ranks)
    optimizers = _build_optimizers(model, config)
    backward = build_backward(model, device, bf16=config.precision == "bf16", compiled=config.compile,
                              micro_batch_sequences=config.micro_batch_sequences)  # fmt: skip

    def fetch(step: int) -> Tensor:
        batch_BT = sampler.batch(step, batch_sequences, ranks.rank, ranks.world_size)
        # Only from pinned memory does a copy to the GPU run beside the computation.
        return batch_BT.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch_BT

    batch_BT, step, seconds, broken_at = fetch(0), 0, 0.0, torch.zeros((), dtype=torch.int64, device=device)
    if config.compile:
        warm_up(cast(LoopedUNet, model), backward, batch_BT, ranks)
    budget = _Budget(config, ranks, clock)
    while not budget.is_spent(step, seconds):
        scale = _set_schedule(optimizers, config, step, seconds)
        loss, norm = _training_step(model, optimizers, backward, batch_BT, config.grad_clip, ranks)
        step, batch_BT = step + 1, fetch(step + 1)
        # Kept on the device: looking at it each step would make the host wait for the GPU.
        broken_at = torch.where((broken_at == 0) & ~torch.isfinite(loss + norm), step, broken_at)
        seconds = budget.seconds()
        if journal.is_due(step) or budget.is_spent(step, seconds):
            _require_unbroken(int(broken_at))
            seconds = budget.seconds()  # again, now that the device has caught up
            tokens = step * batch_sequences * sequence_tokens
            row = {"step": step, "loss": loss.item(), "lr_scale": scale, "seconds": seconds, "tokens": tokens}
            journal.add_row(row, budget.expected_steps(step, seconds))
        journal.advance(step, budget.expected_steps(step, seconds))
    return journal.close(budget.expected_steps(step, seconds))


def sequences_per_step(batch_tokens: int, sequence_tokens: int, world_size: int) -> int:
    """Return the sequences of a global batch, a multiple of `world_size`.

    Raises ValueError naming the nearest batch that divides evenly.
    """
    unit_tokens = sequence_tokens * world_size
    nearest = max(1, round(batch_tokens / unit_tokens)) * unit_tokens
    expected = f"a multiple of {sequence_tokens} tokens per sequence x {world_size} processes, such as {nearest}"
    require(batch_tokens % unit_tokens == 0, "train.batch_tokens", batch_tokens, expected)
    return batch_tokens // sequence_tokens


def _build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return Muon over the matrices and AdamW over the rest; each group remembers its peak learning rate."""
    groups = parameter_groups(model)
    betas = (config.adam_beta1, config.adam_beta2)
    decay = config.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        build_adamw(groups, embed_lr=config.embed_lr, scalar_lr=config.scalar_lr, betas=betas, weight_decay=decay)
    ]
    if groups.matrices:
        momentum, iterations = config.muon_momentum_start, config.newton_schulz_steps
        optimizers.append(Muon(groups.matrices, lr=config.matrix_lr, momentum=momentum, weight_decay=decay,
                               newton_schulz_steps=iterations))  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _set_schedule(optimizers: list[torch.optim.Optimizer], config: TrainConfig, step: int, seconds: float) -> float:
    """Set every group's learning rate and Muon's momentum for the coming step; return the scale."""
    scale = lr_scale(step, seconds, max_steps=config.max_steps, max_seconds=config.max_seconds,
                     warmup_steps=config.warmup_steps, warmdown_frac=config.warmdown_frac,
                     min_lr_frac=config.min_lr_frac)  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
            if isinstance(optimizer, Muon):
                group["momentum"] = momentum_at(step, start=config.muon_momentum_start, end=config.muon_momentum,
                                                warmup_steps=config.muon_momentum_warmup_steps)  # fmt: skip
    return scale


def _training_step(model: nn.Module, optimizers: list[torch.optim.Optimizer], backward: Backward, batch_BT: Tensor,
                   grad_clip: float, ranks: Ranks) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run one step on this rank's share of the batch; return the global loss and gradient norm, on the device."""
    loss = backward(batch_BT)
    average_over_ranks([loss, *gradients_of(model)], ranks)
    norm = torch.nn.utils.get_total_norm(gradients_of(model))
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), grad_clip, norm)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return loss, norm


def _require_unbroken(broken_at: int) -> None:
    """Raise DivergenceError when a step, counted from 1, had a loss or gradient norm that is not a number."""
    if broken_at:
        raise DivergenceError(f"training diverged at step {broken_at}: loss or gradient norm is not finite; lower "
                              "train.matrix_lr, train.embed_lr and train.scalar_lr or set train.grad_clip")  # fmt: skip
