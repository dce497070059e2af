"""Tuning of what an artifact stores as floats, integers and steps frozen: gains, gates, mixes, skip weights.

The one idea: the gap of a quantized model is its divergence from the float one, and every float16 value that the file
holds anyway is a free degree of freedom to make it smaller. The loss is KL(float || quantized), whose target is the
whole distribution of the float model at every position, so that the calibration text suffices.

Axes: N sequences, B sequences of a batch, T position, V vocabulary.
Source: shared/quantization.md, rung I; distillation, arXiv 1503.02531.
Checked by: tests/quant/test_passthrough_tuning.py
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.checks import require
from pipeline.codec.container import ArtifactTensors, QuantizedTensor, dequantize
from pipeline.model.network import LoopedUNet

_HELD_STRIDE = 8
"""One sequence in so many is held back: what the tuned values are accepted on."""
_ORDER_SEED = 1
_WARMUP_STEPS = 10


class TuneSettings(NamedTuple):
    """How passthrough values are trained."""

    num_steps: int
    learning_rate: float
    """The largest; it falls to nothing."""
    batch_sequences: int


class Tuning(NamedTuple):
    """An artifact's tensors after tuning and what it was worth on the sequences held back, nats per token."""

    tensors: ArtifactTensors
    nats_before: float
    nats_after: float
    """Equal to `nats_before` where tuning did not help and nothing was changed."""


def tune_passthrough(model: LoopedUNet, tensors: ArtifactTensors, ids_NT: Tensor, settings: TuneSettings) -> Tuning:
    """Return `tensors` with passthrough values trained by Adam on KL(model || artifact) over ids (N, T), int64.

    `model`, float32 on the CPU, is unchanged. Codes and steps are those of `tensors`, passthrough values are float16
    and finite. They are kept only if they lower the divergence on the sequences held back, at the values as stored.
    Deterministic. ValueError for fewer sequences than one batch and those held back.
    """
    is_held_N = torch.arange(len(ids_NT)) % _HELD_STRIDE == 0
    held, train_NT = ids_NT[is_held_N].split(settings.batch_sequences), ids_NT[~is_held_N]
    require(
        len(train_NT) >= settings.batch_sequences,
        "tuning sequences",
        len(ids_NT),
        f"enough for a batch of {settings.batch_sequences} besides one in {_HELD_STRIDE} held back",
    )
    original = copy.deepcopy(model).eval().requires_grad_(False)
    student = copy.deepcopy(original)
    _load(student, tensors)
    before = _mean_divergence(original, student, held)
    for name, value in student.named_parameters():
        value.requires_grad_(not isinstance(tensors[name], QuantizedTensor))
    _train(original, student, train_NT, settings)
    values = student.state_dict()
    tuned = {
        name: tensor if isinstance(tensor, QuantizedTensor) else values[name].half().numpy()
        for name, tensor in tensors.items()
    }
    _load(student, tuned)
    after = _mean_divergence(original, student, held)
    return Tuning(tuned, before, after) if after < before else Tuning(tensors, before, before)


def _train(original: LoopedUNet, student: LoopedUNet, train_NT: Tensor, settings: TuneSettings) -> None:
    """Train what of `student` asks for gradients, in place, at a rate that falls to nothing."""
    num_steps, learning_rate, batch_sequences = settings
    optimizer = torch.optim.Adam([value for value in student.parameters() if value.requires_grad], betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    per_epoch = len(train_NT) // batch_sequences
    for step in range(num_steps):
        if step % per_epoch == 0:
            batches = torch.randperm(len(train_NT), generator=generator).split(batch_sequences)
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / _WARMUP_STEPS) * (1 - step / num_steps)
        with torch.enable_grad():
            _divergence(original, student, train_NT[batches[step % per_epoch]]).backward()
        optimizer.step()
        optimizer.zero_grad()


def _load(student: LoopedUNet, tensors: ArtifactTensors) -> None:
    student.load_state_dict({name: torch.from_numpy(array) for name, array in dequantize(tensors).items()})


@torch.no_grad()
def _mean_divergence(original: LoopedUNet, student: LoopedUNet, batches: tuple[Tensor, ...]) -> float:
    sums = [_divergence(original, student, ids_BT) * len(ids_BT) for ids_BT in batches]
    return float(torch.stack(sums).sum()) / sum(map(len, batches))


def _divergence(original: LoopedUNet, student: LoopedUNet, ids_BT: Tensor) -> Tensor:
    """Return KL(original || student) in nats per token."""
    with torch.no_grad():
        wanted_BTV = original(ids_BT).log_softmax(-1)
    return (wanted_BTV.exp() * (wanted_BTV - student(ids_BT).log_softmax(-1))).sum(-1).mean()
