"""The float model and its artifact side by side on a slice of training text: what each pass and each block costs.

The one idea: both run over the same tokens, so that what differs is quantization alone. What it costs is measured as
the divergence KL(float || artifact) per token: the mean loss over labels that the float model draws itself. On few
tokens that tells blocks apart where the chance of the true labels would hide them, and it is what second moments
predict. That of a block is measured with this block alone taken from the artifact. The error of a visit is that of the
stream behind it, so it holds what earlier visits did.

The slice is the end of the order in which training reads the first epoch: a run of less than an epoch has not read it,
any other has read it as rarely as anything.

Axes: B sequences, T positions, N targets, V vocabulary.
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

SLICE_TOKENS = 4096
"""Targets of a slice, at most: enough to tell blocks apart, a few seconds of a small model's time."""
_BATCH_TOKENS = 2048


class Divergence(NamedTuple):
    """What quantization costs, nats per token."""

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
    """The float model's mean loss on the slice."""
    divergence: Divergence
    """Of the whole artifact."""
    visits: tuple[VisitError, ...]


def training_slice(sampler: SequenceSampler) -> Tensor:
    """Return int64 (B, T + 1): the last sequences of the first epoch's order, `SLICE_TOKENS` targets or less."""
    wanted = max(1, SLICE_TOKENS // sampler.sequence_tokens)
    count = min(wanted, sampler.num_sequences)
    return sampler.batch(sampler.num_sequences // count - 1, count, 0, 1)


def compare(model: LoopedUNet, artifact: LoopedUNet, ids_BT: Tensor) -> Comparison:
    """Return how an artifact's model differs from the float model on a slice."""
    logs = _log_probabilities(model, ids_BT)
    targets_N = ids_BT[:, 1:].flatten()
    nats_N = -torch.cat(logs).gather(1, targets_N[:, None])
    divergence = _divergence(logs, artifact, ids_BT)
    return Comparison(len(targets_N), float(nats_N.double().mean()), divergence, visit_errors(model, artifact, ids_BT))


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


def block_divergences(
    model: LoopedUNet, artifact: LoopedUNet, ids_BT: Tensor, groups: Sequence[str]
) -> dict[str, Divergence]:
    """Return what each group of tensors (`group_of`) costs when it alone comes from the artifact."""
    logs, found = _log_probabilities(model, ids_BT), {}
    for group in groups:
        with _taken_from(artifact, model, group):
            found[group] = _divergence(logs, model, ids_BT)
    return found


def group_of(name: str) -> str:
    """Return the block that a tensor belongs to, or the module at the top."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "blocks" else 1])


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


@torch.no_grad()
def _log_probabilities(model: LoopedUNet, ids_BT: Tensor) -> list[Tensor]:
    """Return float32 (N, V) log-probabilities, batch by batch."""
    return [model.logits(model.hidden(b[:, :-1])).flatten(0, 1).log_softmax(-1) for b in _batches(ids_BT)]


def _divergence(float_logs: Sequence[Tensor], coded: LoopedUNet, ids_BT: Tensor) -> Divergence:
    """Return KL(float || coded) per token; `float_logs`: the float model's log-probabilities."""
    pairs = zip(float_logs, _log_probabilities(coded, ids_BT), strict=True)
    nats_N = torch.cat([(one_NV.exp() * (one_NV - other_NV)).sum(-1) for one_NV, other_NV in pairs]).double()
    return Divergence(float(nats_N.mean()), float(nats_N.std(correction=0)) / math.sqrt(len(nats_N)))


def _visit_error(visit: Visit, noise: float, signal: float) -> VisitError:
    return VisitError(visit.block, visit.loop, visit.phase, math.sqrt(noise / signal) if signal else 0.0)
