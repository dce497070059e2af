"""What every tensor of an artifact costs: its bytes in the file, and the loss its errors are predicted to bring.

The one idea: to second order an error E in a matrix costs 1/2 sum over visits and rows of g_r * (E H E^T)_rr nats per
token, g_r and H of that visit (`sensitivity.py`). E is that of the file against the float weights, whatever the codes
aimed at, so that tensors, solvers and step rules are comparable. Left out is that errors of several tensors meet. A
tensor's bytes are its share of the file by the size of a file of it alone: any codec may be behind.

Axes: R rows, C columns, V rows of a table.
Source: ours.
Checked by: tests/reports/test_tensor_costs.py.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.codec.container import ArtifactTensors, QuantizedTensor, dequantize, encode_artifact
from pipeline.model.network import LoopedUNet
from pipeline.quant.roles import Role, tensor_roles
from pipeline.quant.statistics import row_sensitivity, site_members, square_entry, visit_names


class PredictedLoss(NamedTuple):
    """What the errors of one tensor cost, nats per token."""

    predicted_nats: float
    """Of the errors that it has, to second order."""
    sensitivity_nats: float
    """Of independent errors as large as its weights, by the same formula, divided by their number."""


def file_costs(
    model: LoopedUNet,
    statistics: Mapping[str, Tensor],
    tensors: ArtifactTensors,
    file_bytes: int,
    layers: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a report's lines `layers` in the order of the file, each with its costs, and the costs of the rest.

    `model` is the float model. The bytes of all tensors and of what passes through add up to `file_bytes`. Losses are
    None when the statistics holds no sensitivities.
    """
    lines = {layer["name"]: layer for layer in layers}
    names = [name for name in tensors if name in lines]
    *shares, passthrough = _file_shares(
        [{name: tensors[name]} for name in names] + [{name: tensors[name] for name in tensors if name not in lines}],
        file_bytes,
    )
    losses: dict[str, PredictedLoss] = (
        predicted_losses(model, statistics, tensors) if "sensitivity/head" in statistics else {}
    )
    none = dict.fromkeys(PredictedLoss._fields)
    costs = [
        {"coded_bytes": share, **(losses[name]._asdict() if losses else none)}
        for name, share in zip(names, shares, strict=True)
    ]
    total = sum(loss.predicted_nats for loss in losses.values()) if losses else None
    return {
        "layers": [{**lines[name], **cost} for name, cost in zip(names, costs, strict=True)],
        "passthrough_bytes": passthrough,
        "predicted_nats": total,
    }


def _file_shares(parts: Sequence[ArtifactTensors], file_bytes: int) -> list[int]:
    """Return what each part takes of a file of them all: in proportion to a file of it alone, in whole bytes."""
    empty = len(encode_artifact({}, {}))
    alone = [len(encode_artifact(part, {})) - empty for part in parts]
    ends = [round(file_bytes * end / sum(alone)) for end in itertools.accumulate(alone)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def predicted_losses(
    model: LoopedUNet, statistics: Mapping[str, Tensor], tensors: ArtifactTensors
) -> dict[str, PredictedLoss]:
    """Return what the errors of every quantized tensor cost; raises ValueError naming what the statistics lacks."""
    roles, weights = tensor_roles(model), model.state_dict()
    owners = {member: owner for owner, members in site_members(statistics).items() for member in members}
    losses = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, QuantizedTensor):
            continue
        weight_RC = weights[name].detach().cpu().float()
        error_RC = weight_RC - torch.from_numpy(dequantize({name: tensor})[name])
        predicted = full = 0.0
        for row_R, moment_CC in _curvatures(name, roles[name], owners.get(name, ""), weight_RC.shape[1], statistics):
            predicted += 0.5 * float(row_R @ (error_RC @ moment_CC).mul_(error_RC).sum(1).double())
            full += 0.5 * float(row_R @ weight_RC.double().square() @ moment_CC.diagonal().double())
        losses[name] = PredictedLoss(predicted, full / weight_RC.numel())
    return losses


def _curvatures(
    name: str, role: Role, owner: str, width: int, statistics: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield sensitivities (R,) float64 and input moments (C, C) float32 of all that reads a tensor, one by one."""
    if role == "matrix":
        for visit, row_R in enumerate(row_sensitivity(statistics, visit_names(statistics, owner, name))):
            yield row_R, square_entry(statistics, f"moment/{owner}/{visit}", width).float()
        return
    yield row_sensitivity(statistics, [name])[0], torch.eye(width)
    if role == "embedding":
        yield row_sensitivity(statistics, ["head"])[0], square_entry(statistics, "moment/head", width).float()
