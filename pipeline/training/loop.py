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

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.checks import FairwayError, require
from pipeline.data.batches import SequenceSampler
from pipeline.optim.groups import build_adamw, parameter_groups
from pipeline.optim.lr_schedule import budget_progress, lr_scale, momentum_at
from pipeline.optim.muon import Muon
from pipeline.progress import Log, Progress
from pipeline.training.config import TrainConfig
from pipeline.training.journal import Journal, TrainReport
from pipeline.training.launch import Ranks, average_over_ranks, share_from_rank_zero
from pipeline.training.snapshot import Snapshots

Clock = Callable[[], float]
Backward = Callable[[Tensor], Tensor]
"""Adds a rank's gradients of the mean nats per target of tokens (B, T + 1) and returns that mean, detached."""


class DivergenceError(FairwayError):
    """The loss or the gradient stopped being a number."""


class DeviceMemoryError(FairwayError):
    """A forward or backward pass does not fit into the GPU's memory."""


class _Budget:
    """Seconds of training on rank 0, the same on every rank, and the budget that they and the steps count against."""

    def __init__(self, config: TrainConfig, ranks: Ranks, clock: Clock, seconds: float) -> None:
        self.max_steps, self.max_seconds, self.ranks, self.clock = config.max_steps, config.max_seconds, ranks, clock
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
    sequence_tokens: int,
    ranks: Ranks,
    device: torch.device,
    log: Log,
    progress: Progress,
    clock: Clock = time.perf_counter,
    snapshots: "Snapshots | None" = None,
) -> TrainReport:
    """Train `model` in place until the step or the wall-clock budget is spent.

    `model` maps ids (B, T) to fp32 logits (B, T, V). Every rank calls this inside its process group; weights start
    as rank 0's. Rank 0 logs and reports progress. Step n reads the sampler's batch n, whatever the world size.
    With `snapshots` it starts from the latest one, saves outside of the budget's clock, and ends in StoppedError after
    a signal.
    Raises ValueError when the batch does not divide into sequences over ranks, DivergenceError when the loss or the
    gradient is no longer finite, DeviceMemoryError when a pass does not fit into the GPU.
    """
    batch_sequences = sequences_per_step(config.batch_tokens, sequence_tokens, ranks.world_size)
    journal = Journal(config, ranks, log, progress)
    journal.say(f"model_params:{sum(parameter.numel() for parameter in model.parameters())}")
    model.to(device).train()
    share_from_rank_zero([*model.parameters(), *model.buffers()], ranks)
    optimizers = _build_optimizers(model, config)
    backward = _build_backward(model, config, device)

    def fetch(step: int) -> Tensor:
        batch_BT = sampler.batch(step, batch_sequences, ranks.rank, ranks.world_size)
        # Only from pinned memory does a copy to the GPU run beside the computation.
        return batch_BT.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch_BT

    batch_BT, step, seconds, broken_at = fetch(0), 0, 0.0, torch.zeros((), dtype=torch.int64, device=device)
    if config.compile:
        _warm_up(model, backward, batch_BT, ranks)
    if snapshots is not None:
        parts = {"model": model, **{f"optimizer_{i}": optimizer for i, optimizer in enumerate(optimizers)}}
        step, seconds, journal.curve = snapshots.restore(parts)
        batch_BT = fetch(step)
    budget = _Budget(config, ranks, clock, seconds)
    while not budget.is_spent(step, seconds):
        scale = _set_schedule(optimizers, config, step, seconds)
        loss, norm = _training_step(model, optimizers, backward, batch_BT, config.grad_clip, ranks)
        step, batch_BT = step + 1, fetch(step + 1)
        # Kept on the device: looking at it each step would make the host wait for the GPU.
        broken_at = torch.where((broken_at == 0) & ~torch.isfinite(loss + norm), step, broken_at)
        seconds = budget.seconds()
        saving = snapshots is not None and snapshots.is_due(seconds)
        if saving or journal.is_due(step) or budget.is_spent(step, seconds):
            _require_unbroken(int(broken_at))
            seconds = budget.seconds()  # again, now that the device has caught up
        if journal.is_due(step) or budget.is_spent(step, seconds):
            journal.add_row(step, loss.item(), scale, seconds, budget.expected_steps(step, seconds))
        journal.advance(step, budget.expected_steps(step, seconds))
        if snapshots is not None and saving and not budget.is_spent(step, seconds):
            snapshots.save(step, seconds, journal.curve)
            budget.resume(seconds)
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


def _build_backward(model: nn.Module, config: TrainConfig, device: torch.device) -> Backward:
    """Return the function that runs a rank's share of a batch forward and backward, micro batch by micro batch."""

    def mean_nats(tokens_BT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits_BTV = model(tokens_BT[:, :-1])
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    part_loss = torch.compile(mean_nats, fullgraph=True, dynamic=False) if config.compile else mean_nats

    def backward(tokens_BT: Tensor) -> Tensor:
        parts = tokens_BT.split(config.micro_batch_sequences or len(tokens_BT))
        total_loss = torch.zeros((), device=device)
        try:
            for part_BT in parts:
                # Sequences are of equal length: weighted by its share of them, a part's mean adds up to the whole's.
                loss = part_loss(part_BT) * (len(part_BT) / len(tokens_BT))
                loss.backward()
                total_loss += loss.detach()
        except torch.OutOfMemoryError:
            raise DeviceMemoryError(f"a pass over {len(parts[0])} sequences does not fit into the GPU's memory: lower "
                                    "train.micro_batch_sequences or raise launch.num_processes") from None  # fmt: skip
        return total_loss

    return backward


def _warm_up(model: nn.Module, backward: Backward, batch_BT: Tensor, ranks: Ranks) -> None:
    """Compile, and open the connections between ranks, before the clock starts; weights stay as they are.

    The tokens are zeros of the batch's shape: nothing is learned, so nothing has to be undone.
    """
    for _ in range(2):
        loss = backward(torch.zeros_like(batch_BT))
        average_over_ranks([loss, *_gradients(model)], ranks)
        loss.item()
        model.zero_grad(set_to_none=True)


def _training_step(model: nn.Module, optimizers: list[torch.optim.Optimizer], backward: Backward, batch_BT: Tensor,
                   grad_clip: float, ranks: Ranks) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run one step on this rank's share of the batch; return the global loss and gradient norm, on the device."""
    loss = backward(batch_BT)
    average_over_ranks([loss, *_gradients(model)], ranks)
    norm = torch.nn.utils.get_total_norm(_gradients(model))
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), grad_clip, norm)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return loss, norm


def _gradients(model: nn.Module) -> list[Tensor]:
    """Return the gradients that the backward pass left."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _require_unbroken(broken_at: int) -> None:
    """Raise DivergenceError when a step, counted from 1, had a loss or gradient norm that is not a number."""
    if broken_at:
        raise DivergenceError(f"training diverged at step {broken_at}: loss or gradient norm is not finite; lower "
                              "train.matrix_lr, train.embed_lr and train.scalar_lr or set train.grad_clip")  # fmt: skip
