"""A model of odd numbers of matrices and gradients that every process can compute; the program of test_sharded_muon.

`python -m tests.training.sharded_run FOLDER` steps on every rank and leaves what it saw in FOLDER/rank<N>.pt.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from pipeline.base.ranks import Ranks
from pipeline.launching.processes import current_ranks, process_group
from pipeline.optim.config import BlockRates
from pipeline.training.optimizer_step import OptimizerStep
from tests.training.tiny_run import train_config

NUM_STEPS, SAVED_STEPS = 4, 2
RATES = BlockRates(peak=0.03, block_factors=(1.0, 0.5, 1.0, 2.0))
ACTIVE_STEPS = {"wide.0": (0, 1, 3), "alone": (1, 2), "blocks.2": (0, 2), "never": ()}
"""Steps in which a module has gradients; all steps when not named."""


class Uneven(nn.Module):
    """Three matrices of one shape up to a transpose, four square ones in blocks, one alone, one untrained, AdamW's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.ModuleList([nn.Linear(24, 8), nn.Linear(24, 8)])
        self.tall = nn.Linear(8, 24, bias=False)
        self.blocks = nn.ModuleList([nn.Linear(12, 12, bias=False) for _ in range(4)])
        self.alone = nn.Linear(20, 20, bias=False)
        self.never = nn.Linear(6, 9, bias=False)
        self.table = nn.Embedding(10, 8)


def set_gradients(model: nn.Module, step: int, rank_numbers: list[int]) -> torch.Tensor:
    """Set the mean over some ranks of their gradients of a step; return the mean of their losses.

    Gradients are multiples of 1/256, so that a sum over ranks is exact in any order.
    """
    for number, (name, parameter) in enumerate(model.named_parameters()):
        parameter.grad = None
        if step in ACTIVE_STEPS.get(name.rpartition(".")[0], range(NUM_STEPS)):
            total = torch.zeros_like(parameter)
            for rank in rank_numbers:
                generator = torch.Generator().manual_seed(1000 * step + 100 * rank + number)
                total += (256 * torch.randn(parameter.shape, generator=generator)).round() / 256
            parameter.grad = total / len(rank_numbers)
    return torch.tensor([float(step + rank) for rank in rank_numbers]).mean()


def take_steps(
    model: nn.Module, optimizer_step: OptimizerStep, steps: range, rank_numbers: list[int]
) -> dict[str, Any]:
    """Step on the gradients of some ranks; return every step's loss and norm, and the weights at the end."""
    losses, norms = [], []
    for step in steps:
        loss = set_gradients(model, step, rank_numbers)
        norms.append(optimizer_step.average_gradients(loss).item())
        losses.append(loss.item())
        optimizer_step.update(torch.tensor(norms[-1]))
    return {"losses": losses, "norms": norms, "weights": copy.deepcopy(model.state_dict())}


def optimizer_step_of(model: nn.Module, ranks: Ranks, grad_clip: float, **changes: Any) -> OptimizerStep:
    """Return the step of a model under the settings of the test."""
    return OptimizerStep(model, train_config(weight_decay=0.5, grad_clip=grad_clip, **changes), ranks)


@record
def main(folder: str) -> None:
    """Step unclipped, stopping for a snapshot; go on from it; step clipped; step with rates per block."""
    torch.set_num_threads(1)
    ranks = current_ranks()
    with process_group(ranks, torch.device("cpu")):
        seen: dict[str, Any] = {}
        model = Uneven()
        optimizer_step = optimizer_step_of(model, ranks, 0.0)
        seen["first"] = take_steps(model, optimizer_step, range(SAVED_STEPS), [ranks.rank])
        seen["states"] = copy.deepcopy([optimizer.state_dict() for optimizer in optimizer_step.optimizers])
        seen["second"] = take_steps(model, optimizer_step, range(SAVED_STEPS, NUM_STEPS), [ranks.rank])
        seen["resumed"] = resume(seen["first"]["weights"], seen["states"], ranks, [ranks.rank])
        model = Uneven()
        seen["clipped"] = take_steps(model, optimizer_step_of(model, ranks, 0.3), range(NUM_STEPS), [ranks.rank])
        model = Uneven()
        rated = optimizer_step_of(model, ranks, 0.0, matrix_lr=RATES)
        seen["rated"] = take_steps(model, rated, range(NUM_STEPS), [ranks.rank])
        torch.save(seen, Path(folder) / f"rank{ranks.rank}.pt")


def resume(
    weights: dict[str, Any], states: list[dict[str, Any]], ranks: Ranks, rank_numbers: list[int]
) -> dict[str, Any]:
    """Go on from a snapshot to the end."""
    model = Uneven()
    model.load_state_dict(weights)
    optimizer_step = optimizer_step_of(model, ranks, 0.0)
    for optimizer, state in zip(optimizer_step.optimizers, states, strict=True):
        optimizer.load_state_dict(copy.deepcopy(state))  # torch would go on in the tensors of the snapshot
    return take_steps(model, optimizer_step, range(SAVED_STEPS, NUM_STEPS), rank_numbers)


if __name__ == "__main__":
    main(sys.argv[1])
