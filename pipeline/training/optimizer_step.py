"""One optimizer step: Muon on the matrices, AdamW on the rest, on averaged and clipped gradients.

The one idea: after the averaging every rank holds the mean gradients of what it updates itself: of its share of the
matrices, and of everything AdamW trains. The global norm follows from these without another copy of the gradients.

Differs: no DistributedDataParallel: AdamW's gradients are averaged by one flat fp32 all-reduce after the backward
    pass, Muon's by the reduce-scatters of its shares, which travel meanwhile. AdamW's step is not sharded: every rank
    does all of it.
Checked by: tests/training/test_loop.py, tests/training/test_ranks.py, tests/training/test_sharded_muon.py.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pipeline.base.ranks import Ranks, average_over_ranks
from pipeline.optim.config import BlockRates, GroupBeta, GroupDecay
from pipeline.optim.groups import ParameterGroups, build_adamw, by_block, parameter_groups
from pipeline.optim.muon import Muon
from pipeline.training.config import TrainConfig
from pipeline.training.precision import DTYPES
from pipeline.training.regime import StepSettings
from pipeline.training.sharded_muon import ShardedMuon


class OptimizerStep:
    """The optimizers of a model and the step that they take together, on every rank."""

    def __init__(self, model: nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        """Build AdamW and, for a model that has matrices, Muon; each group remembers its peak rate and decay."""
        groups = parameter_groups(model)
        self.ranks, self.grad_clip = ranks, config.grad_clip
        self.matrices, self.others = groups.matrices, [*groups.tables, *groups.controls]
        self.optimizers: list[torch.optim.Optimizer] = [_build_adamw(groups, config)]
        if groups.matrices:
            matrices: list[Any] = groups.matrices
            if isinstance(config.matrix_lr, BlockRates):
                matrices = by_block(matrices, [*model.get_submodule("blocks").children()], config.matrix_lr)
            self.optimizers.append(_build_muon(matrices, config, ranks))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"], group["peak_decay"] = group["lr"], group["weight_decay"]

    def set_schedule(self, settings: StepSettings) -> None:
        """Set every group's learning rate and weight decay and Muon's momentum for the coming step."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * settings.lr_scale
                group["weight_decay"] = group["peak_decay"] * settings.decay_scale
                if isinstance(optimizer, Muon):
                    group["momentum"] = settings.momentum

    def take(self, loss: Tensor) -> Tensor:
        """Step on this rank's gradients; return the global gradient norm and, in place, the global loss."""
        norm = self.average_gradients(loss)
        self.update(norm)
        return norm

    @torch.no_grad()
    def average_gradients(self, loss: Tensor) -> Tensor:
        """Average gradients and, in place, the loss over ranks; return the norm of the mean gradient, on the device."""
        if self.ranks.world_size == 1:
            return get_total_norm(_gradients([*self.others, *self.matrices]))
        muon = self.optimizers[-1]
        if isinstance(muon, ShardedMuon):
            muon.start_averaging()
        average_over_ranks([loss, *_gradients(self.others)], self.ranks)
        if isinstance(muon, ShardedMuon):
            muon.finish_averaging()
        squares = _squared_norm(self.matrices, loss)
        dist.all_reduce(squares)
        return (squares + _squared_norm(self.others, loss)).sqrt()

    def update(self, norm: Tensor) -> None:
        """Clip the averaged gradients, whose norm this is, step the optimizers and drop the gradients."""
        parameters = [*self.others, *self.matrices]
        if self.grad_clip > 0:
            clip_grads_with_norm_(parameters, self.grad_clip, norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in parameters:
            parameter.grad = None


def _build_adamw(groups: ParameterGroups, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with the settings of both groups; written so that a record without longer forms holds none."""
    adamw = build_adamw(
        groups,
        embed_lr=config.embed_lr,
        scalar_lr=config.scalar_lr,
        betas=(
            config.adam_beta1.embedding if isinstance(config.adam_beta1, GroupBeta) else config.adam_beta1,
            config.adam_beta2.embedding if isinstance(config.adam_beta2, GroupBeta) else config.adam_beta2,
        ),
        weight_decay=(
            config.weight_decay.embedding if isinstance(config.weight_decay, GroupDecay) else config.weight_decay
        ),
    )
    if isinstance(config.adam_beta1, GroupBeta):
        adamw.param_groups[1]["betas"] = (config.adam_beta1.scalar, adamw.param_groups[1]["betas"][1])
    if isinstance(config.adam_beta2, GroupBeta):
        adamw.param_groups[1]["betas"] = (adamw.param_groups[1]["betas"][0], config.adam_beta2.scalar)
    if isinstance(config.weight_decay, GroupDecay):
        adamw.param_groups[1]["weight_decay"] = config.weight_decay.scalar
    return adamw


def _build_muon(matrices: list[Any], config: TrainConfig, ranks: Ranks) -> Muon:
    """Return Muon, sharded when there are several ranks."""
    settings: dict[str, Any] = {
        "lr": config.matrix_lr.peak if isinstance(config.matrix_lr, BlockRates) else config.matrix_lr,
        "momentum": config.muon_momentum_start,
        "weight_decay": config.weight_decay.matrix
        if isinstance(config.weight_decay, GroupDecay)
        else config.weight_decay,
        "newton_schulz": config.newton_schulz,
        "newton_schulz_steps": config.newton_schulz_steps,
        "normalize_rows": config.normalize_rows,
        "dtype": DTYPES[config.precision],
    }
    if ranks.world_size == 1:
        return Muon(matrices, **settings)
    return ShardedMuon(matrices, rank=ranks.rank, world_size=ranks.world_size, **settings)


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the gradients that are there."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _squared_norm(parameters: list[nn.Parameter], like: Tensor) -> Tensor:
    """Return the sum of the squares of all gradients there are, on the device of `like`."""
    gradients = _gradients(parameters)
    return get_total_norm(gradients).square() if gradients else torch.zeros_like(like)
