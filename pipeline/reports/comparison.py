"""The float model and its artifact side by side on a slice of training text: what each pass and each block costs.

The one idea: both run over the same tokens, so that what differs is quantization alone. The slice is the end of the
order in which training reads the first epoch: a run of less than an epoch has not read it, any other has read it as
rarely as anything. The error of a visit is that of the stream behind it, so it holds what earlier visits did; the loss
of a block is measured with that block alone taken from the artifact.

Axes: B sequences, T positions, N targets.
Source: ours.
Checked by: tests/reports/test_comparison.py.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.batches import SequenceSampler
from pipeline.model.network import LoopedUNet
from pipeline.model.schedule import Visit

SLICE_TOKENS = 8192
"""Targets of a slice, at most: enough to tell blocks apart, a few seconds of a small model's time."""
_BATCH_TOKENS = 4096


class MeasuredLoss(NamedTuple):
    """Nats per token above the float model's on the same targets."""

    nats: float
    error: float
    """Standard error of the mean over targets, as if these were independent."""


class VisitError(NamedTuple):
    """How far the stream is off behind one visit."""

    block: int
    loop: int
    phase: str
    relative: float
    """Norm of the difference over the float stream's."""


class Comparison(NamedTuple):
    """What a slice tells of one seed."""

    tokens: int
    float_nats: float
    """Mean over the slice."""
    measured: MeasuredLoss
    """Of the whole artifact."""
    visits: tuple[VisitError, ...]


def training_slice(sampler: SequenceSampler) -> Tensor:
    """Return int64 (B, T + 1): the last sequences of the first epoch's order, `SLICE_TOKENS` targets or less."""
    wanted = max(1, SLICE_TOKENS // sampler.sequence_tokens)
    count = min(wanted, sampler.num_sequences)
    return sampler.batch(sampler.num_sequences // count - 1, count, 0, 1)


def compare(model: LoopedUNet, artifact: LoopedUNet, ids_BT: Tensor) -> Comparison:
    """Return how an artifact's model differs from the float model on a slice."""
    nats_N = target_nats(model, ids_BT)
    measured = _mean_difference(target_nats(artifact, ids_BT), nats_N)
    return Comparison(len(nats_N), float(nats_N.mean()), measured, visit_errors(model, artifact, ids_BT))


@torch.no_grad()
def target_nats(model: LoopedUNet, ids_BT: Tensor) -> Tensor:
    """Return float64 nats (N,) of all targets of a slice, sequence by sequence."""
    parts = [model.nats(model.hidden(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten()) for b in _batches(ids_BT)]
    return torch.cat(parts).double()


@torch.no_grad()
def visit_errors(model: LoopedUNet, artifact: LoopedUNet, ids_BT: Tensor) -> tuple[VisitError, ...]:
    """Return the relative error of the stream behind every visit, in the order in which they run."""
    visits = model.schedule.visits
    noise, signal = np.zeros(len(visits)), np.zeros(len(visits))
    for batch_BT in _batches(ids_BT):
        pairs = zip(_streams(model, batch_BT), _streams(artifact, batch_BT), strict=True)
        for index, (float_BTD, coded_BTD) in enumerate(pairs):
            noise[index] += float((coded_BTD - float_BTD).double().square().sum())
            signal[index] += float(float_BTD.double().square().sum())
    return tuple(_visit_error(*row) for row in zip(visits, noise, signal, strict=True))


def block_losses(
    model: LoopedUNet, artifact: LoopedUNet, ids_BT: Tensor, groups: Sequence[str]
) -> dict[str, MeasuredLoss]:
    """Return what each group of tensors (`group_of`) costs when it alone comes from the artifact."""
    nats_N = target_nats(model, ids_BT)
    return {group: _mean_difference(_mixed_nats(model, artifact, group, ids_BT), nats_N) for group in groups}


def group_of(name: str) -> str:
    """Return the block that a tensor belongs to, or the module at the top."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "blocks" else 1])


def _mixed_nats(model: LoopedUNet, artifact: LoopedUNet, group: str, ids_BT: Tensor) -> Tensor:
    with _taken_from(artifact, model, group):
        return target_nats(model, ids_BT)


@contextmanager
def _taken_from(artifact: LoopedUNet, model: LoopedUNet, group: str) -> Iterator[None]:
    """Let `model` have one group of the artifact's tensors inside."""
    coded = artifact.state_dict()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items() if group_of(name) == group}
    model.load_state_dict({name: coded[name] for name in own}, strict=False)
    try:
        yield
    finally:
        model.load_state_dict(own, strict=False)


def _streams(model: LoopedUNet, batch_BT: Tensor) -> list[Tensor]:
    """Return what every visit leaves behind, in their order."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as stack:
        for block in model.blocks:
            stack.callback(block.register_forward_hook(keep).remove)
        model.hidden(batch_BT[:, :-1])
    return outputs


def _batches(ids_BT: Tensor) -> tuple[Tensor, ...]:
    return ids_BT.split(max(1, _BATCH_TOKENS // (ids_BT.size(1) - 1)))


def _mean_difference(nats_N: Tensor, float_N: Tensor) -> MeasuredLoss:
    difference_N = nats_N - float_N
    return MeasuredLoss(float(difference_N.mean()), float(difference_N.std(correction=0)) / math.sqrt(len(float_N)))


def _visit_error(visit: Visit, noise: float, signal: float) -> VisitError:
    return VisitError(visit.block, visit.loop, visit.phase, math.sqrt(noise / signal) if signal else 0.0)
