"""Parameter groups by role, and the AdamW that trains what Muon does not.

The one idea: a parameter's role follows from the module that owns it, not from its name, and the split is asserted to
cover every trainable parameter exactly once, so that nothing is silently frozen or updated twice.

    matrices   weights of nn.Linear                          Muon
    tables     weights of nn.Embedding (tied heads included)  AdamW with weight decay
    controls   everything else: gains, gates, mixes, biases   AdamW without

Source: the assertion follows nanochat's optimizer set-up; the roles are those of the published speed-run scripts.
Checked by: tests/optim/test_groups.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.base.checks import require
from pipeline.optim.config import BlockRates


class ParameterGroups(NamedTuple):
    """The trainable parameters of a model by role, each in the model's own order."""

    matrices: list[nn.Parameter]
    tables: list[nn.Parameter]
    controls: list[nn.Parameter]


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Split the trainable parameters of `model` by role; a parameter shared by several modules appears once.

    A weight shared between an nn.Embedding and an nn.Linear (a tied head) is a table.
    """
    table_ids = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrix_ids = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups = ParameterGroups([], [], [])
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in table_ids:
            groups.tables.append(parameter)
        elif id(parameter) in matrix_ids:
            groups.matrices.append(parameter)
        else:
            groups.controls.append(parameter)
    _assert_covered_once(model, groups)
    return groups


def build_adamw(
    groups: ParameterGroups, *, embed_lr: float, scalar_lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return a fused AdamW over tables (decayed) and, as its second group, controls (not decayed, unless set there)."""
    return torch.optim.AdamW(
        [
            {"params": groups.tables, "lr": embed_lr, "weight_decay": weight_decay},
            {"params": groups.controls, "lr": scalar_lr, "weight_decay": 0.0},
        ],
        betas=betas,
        fused=True,
    )


def by_block(matrices: Sequence[nn.Parameter], blocks: Sequence[nn.Module], rates: BlockRates) -> list[dict[str, Any]]:
    """Return groups for Muon: matrices whose blocks have equal factors together, those outside of blocks at the peak.

    Raises ValueError when there is not a factor for every block.
    """
    factors = rates.block_factors
    require(
        len(factors) == len(blocks),
        "train.matrix_lr.block_factors",
        factors,
        f"{len(blocks)} numbers, one for each block of the model",
    )
    rate_of = {
        id(p): rates.peak * factor for block, factor in zip(blocks, factors, strict=True) for p in block.parameters()
    }
    found: dict[float, list[nn.Parameter]] = {}
    for matrix in matrices:
        found.setdefault(rate_of.get(id(matrix), rates.peak), []).append(matrix)
    return [{"params": members, "lr": rate} for rate, members in found.items()]


def _assert_covered_once(model: nn.Module, groups: ParameterGroups) -> None:
    """Check that the groups hold each trainable parameter once and nothing else."""
    grouped = [id(parameter) for group in groups for parameter in group]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)), "a parameter is in two groups"
    assert set(grouped) == trainable, "the groups do not cover the model's trainable parameters"
