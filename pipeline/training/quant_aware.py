"""Training weights for the grid on which they will be stored: late fake quantization and additive noise.

The one idea: the loss is taken at perturbed weights w' and its gradient moves the float weights w. Before the passes of
a step w' is copied into the parameters, afterwards w comes back, bit for bit. That *is* the straight-through estimator,
without a custom gradient, without new parameters, and a compiled graph sees nothing of it.

    fake quantization   w' = round to nearest of w on the grid of the exporter's clip rule: prepares for that error
    noise               w' = w + step * uniform(-1/2, 1/2): prepares for any error of that size. In a looped model the
                        same error acts in every pass, and only weights in flat places survive that

Axes: R rows, C columns of a weight.
Source: straight-through: Y. Bengio et al., arXiv 1308.3432; noise on looped blocks: Parameter Golf pull request 1308.
Differs: published noise is drawn anew in every forward pass; here once a step, so that micro batches add up to the
    batch. Quantization there starts at a learning-rate threshold, here at a share of the budget.
Checked by: tests/training/test_quant_aware.py against the exporter's steps and codes and an autograd.Function.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.base.checks import require
from pipeline.optim.groups import parameter_groups
from pipeline.training.config import FakeQuantConfig, NoiseConfig

_SMALLEST_FLOAT16 = 2.0**-24


class GridWeight(NamedTuple):
    """A weight (R, C) and the grid it will be stored on."""

    weight: nn.Parameter
    bits: int
    clip_std: float
    """Row standard deviations at which the grid clips."""


def grid_weights(model: nn.Module, config: FakeQuantConfig | NoiseConfig) -> list[GridWeight]:
    """Return what training perturbs: all matrices and the tied embedding, or, for noise, the looped blocks' matrices.

    Raises ValueError for noise on a network without looped blocks.
    """
    if isinstance(config, FakeQuantConfig):
        groups = parameter_groups(model)
        embedding = getattr(getattr(model, "token_embedding", None), "weight", None)
        clip_std = config.clip_std * config.embedding_clip_ratio
        return [GridWeight(weight, config.matrix_bits, config.clip_std) for weight in groups.matrices] + [
            GridWeight(table, config.embedding_bits, clip_std) for table in groups.tables if table is embedding
        ]
    looped = nn.ModuleList(model.blocks[block] for block in model.schedule.looped)  # type: ignore
    require(len(looped) > 0, "train.quantization.kind", "noise", "fake-quant or null: the network has no looped blocks")
    return [GridWeight(weight, config.bits, config.clip_std) for weight in parameter_groups(looped).matrices]


def grid_step(weight_RC: Tensor, max_code: int, clip_std: float) -> Tensor:
    """Return the exporter's steps (R, 1), float32: clip_std * std(row) / max_code, rounded to float16.

    Nothing is checked and nothing waits for the GPU: a weight that is not finite shows in the loss.
    """
    wide_RC = weight_RC.double()
    spread_R1 = wide_RC.std(dim=1, keepdim=True) if wide_RC.shape[1] > 1 else wide_RC.abs()
    return (spread_R1 * clip_std / max_code).half().float().clamp_(min=_SMALLEST_FLOAT16)


def perturbed(entry: GridWeight, generator: torch.Generator | None) -> Tensor:
    """Return w' (R, C) float32: on the grid, or, with a generator, moved by noise of one step's width."""
    weight_RC, max_code = entry.weight.detach(), 2 ** (entry.bits - 1) - 1
    step_R1 = grid_step(weight_RC, max_code, entry.clip_std)
    if generator is None:
        return (weight_RC / step_R1).round_().clamp_(-max_code, max_code).mul_(step_R1)
    noise_RC = torch.rand(weight_RC.shape, generator=generator, device=weight_RC.device)
    return weight_RC + noise_RC.sub_(0.5).mul_(step_R1)


class Perturbation:
    """What training does to weights for a while; noise depends on (seed, step): all ranks and a resumed run agree."""

    def __init__(self, model: nn.Module, config: FakeQuantConfig | NoiseConfig, seed: int) -> None:
        self.entries, self.seed, self.noisy = grid_weights(model, config), seed, isinstance(config, NoiseConfig)
        self.weights: list[Tensor] = [entry.weight for entry in self.entries]

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Give the network the perturbed weights of a step inside, and its own back after."""
        generator = self._generator(step) if self.noisy else None
        with torch.no_grad():
            kept = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, [perturbed(entry, generator) for entry in self.entries])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, kept)

    def _generator(self, step: int) -> torch.Generator:
        # Mixed to 32 bits: the CPU's generator looks at no more.
        mixed = int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0])
        return torch.Generator(self.weights[0].device).manual_seed(mixed)
