"""What a model may learn while it is scored: objects with `before(group)` and `after(group, revealed)`.

One idea: the scorer calls `before`, scores every window of a group, freezes the group's rows, and only then hands
`after` the group's tokens. An adaptation never holds the token stream, so it can train on nothing that is not scored.

Axes: B sequences, T positions (the protocol's context), V vocabulary, N targets of a chunk.
Source: score-first chunk TTT of the published looped records (one SGD over the run, cosine over chunks).
Differs: a batch is cut into parts whose gradients are added up in a fixed order, so that several processes take the
very steps of one.
Checked by: tests/scoring/test_adaptation.py, against published per-target nats and an independent oracle;
tests/scoring/test_scoring_ranks.py.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.base.checks import require
from pipeline.base.ranks import Ranks, gather_over_ranks
from pipeline.scoring.config import TTTProtocol
from pipeline.scoring.phased_config import GlobalPhase
from pipeline.scoring.windows import MOST_RANKS, Group


class NoAdaptation:
    """The interface, and the adaptation that does nothing.

    Groups that come together belong to different documents, each with a state of its own; elsewhere there is one.
    """

    def before(self, groups: Sequence[Group]) -> None:
        """Prepare the model for scoring `groups`; no label of theirs is known yet."""

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Learn from groups, now scored: of each the int64 tokens start..stop, the last one only as a target."""


class ChunkSGD(NoAdaptation):
    """Train on each scored chunk but the last with one SGD whose momentum lives for the whole run."""

    def __init__(
        self,
        model: nn.Module,
        protocol: TTTProtocol | GlobalPhase,
        num_groups: int,
        dtype: torch.dtype,
        ranks: Ranks,
        map_batches: Callable[..., Any],
    ) -> None:
        """Own `model`, which is mutated: blocks are frozen now, parameters move in `after`."""
        self.model = model
        self.protocol = protocol
        self.num_groups = num_groups
        self.dtype = dtype
        self.ranks = ranks
        self.map_batches = map_batches
        self.trainable = freeze_first_blocks(model, protocol.freeze_blocks)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.trainable]
        self.learning_rate = protocol.learning_rate

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Run the protocol's epochs over the chunk's whole sequences, in file order; the remainder is dropped."""
        (group,), (revealed_M,) = groups, revealed
        length, size = self.protocol.context_tokens, self.protocol.batch_sequences
        num_sequences = (len(revealed_M) - 1) // length
        if group.is_last:
            return
        self.learning_rate = chunk_learning_rate(self.protocol.learning_rate, group.number, self.num_groups)
        inputs_NT = revealed_M[: num_sequences * length].view(-1, length)
        targets_NT = revealed_M[1 : num_sequences * length + 1].view(-1, length)
        for _ in range(self.protocol.epochs):
            for first in range(0, num_sequences, size):
                self._descend_batch(inputs_NT[first : first + size], targets_NT[first : first + size])

    def _descend_batch(self, inputs_BT: Tensor, targets_BT: Tensor) -> None:
        """Take one clipped SGD step on the mean loss of a batch, whose parts are dealt to the ranks.

        Parts are cut alike for any number of ranks and added up in their order: one process takes the same step.
        """
        ranks, size, count = self.ranks, -(-self.protocol.batch_sequences // MOST_RANKS), targets_BT.numel()
        parts = list(zip(inputs_BT.split(size), targets_BT.split(size), strict=True))
        own_parts = parts[ranks.rank :: ranks.world_size]
        own = list(self.map_batches(lambda part: self._gradient(part[0], part[1], count), own_parts))
        sizes = [parameter.numel() for parameter in self.trainable]
        total = nothing = torch.zeros(sum(sizes), device=inputs_BT.device)
        for first in range(0, len(parts), ranks.world_size):
            gathered = gather_over_ranks(own.pop(0) if own else nothing, ranks)
            for gradient in gathered[: len(parts) - first]:
                total = total + gradient
        gradients = [row.view_as(weight) for row, weight in zip(total.split(sizes), self.trainable, strict=True)]
        for parameter, gradient in zip(self.trainable, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.trainable, self.protocol.grad_clip)
        weights: list[Tensor] = [*self.trainable]
        with torch.no_grad():  # torch.optim.SGD's step, without the compiler that it would load
            torch._foreach_mul_(self.velocities, self.protocol.momentum)
            torch._foreach_add_(self.velocities, gradients)
            torch._foreach_add_(weights, self.velocities, alpha=-self.learning_rate)

    def _gradient(self, inputs_BT: Tensor, targets_BT: Tensor, batch_targets: int) -> Tensor:
        """Return a part's share of the gradient of its batch's mean loss, all parameters in one row."""
        # The caller may sit inside no_grad; the model must still train.
        with reproducible_gradients(inputs_BT.device), torch.enable_grad():
            with autocast_to(self.dtype, inputs_BT.device):
                logits_BTV = self.model(inputs_BT)
                nats = F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")
            loss = nats / batch_targets
            gradients = torch.autograd.grad(loss, self.trainable, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def chunk_learning_rate(peak: float, chunk: int, num_chunks: int) -> float:
    """Return the cosine over chunks: `peak` at chunk 0, zero at the last chunk."""
    return peak * (1.0 + math.cos(math.pi * chunk / max(num_chunks - 1, 1))) / 2.0


def freeze_first_blocks(model: nn.Module, num_blocks: int) -> list[nn.Parameter]:
    """Freeze the first `num_blocks` unique and looped blocks, unfreeze all else and return what trains.

    Reads `model.blocks` and `model.schedule.looped`; raises ValueError when blocks must freeze and the model has none.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for parameter in _tensors_of_first_blocks(model, num_blocks) if num_blocks else []:
        parameter.requires_grad_(False)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    require(len(trainable) > 0, "freeze_blocks", num_blocks, "fewer, so that some tensor is left to train")
    return trainable


def _tensors_of_first_blocks(model: nn.Module, num_blocks: int) -> list[nn.Parameter]:
    blocks: Any = getattr(model, "blocks", None)
    schedule: Any = getattr(model, "schedule", None)
    require(None not in (blocks, schedule), "freeze_blocks", num_blocks, "0 for a model without blocks and schedule")
    looped = sorted(schedule.looped)
    unique = [index for index in range(len(blocks)) if index not in looped]
    return [
        parameter for index in unique[:num_blocks] + looped[:num_blocks] for parameter in blocks[index].parameters()
    ]


@contextmanager
def reproducible_gradients(device: torch.device) -> Iterator[None]:
    """Let gradients inside the block be the same in every run.

    The fused CUDA kernels of attention add gradients up in the order in which blocks of threads happen to finish,
    unless all of torch is told not to; a record must score the same twice. Forward passes have no such freedom.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def autocast_to(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: autocast for a reduced dtype, and no autocast at all for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32)
