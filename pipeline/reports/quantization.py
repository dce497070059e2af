"""What the quantize stage says of an artifact: bits and errors of every tensor, its bytes, the loss they predict.

The one idea: to second order an error E in a matrix costs 1/2 sum over visits and rows of g_r * (E H E^T)_rr nats per
token, g_r and H of that visit (`calibration/sensitivity.py`). E is that of the file against the float weights, whatever
the codes aimed at, so that tensors, solvers and step rules are comparable. Left out is that errors of several tensors
meet. A tensor's bytes are its share of the file by the size of a file of it alone: any codec may be behind.

Terms: bits per weight are those that a tensor takes of the file; entropy is the order-0 entropy of its codes, in
bits per code; proxy loss is tr(E H E^T) with the undamped mean moment;
SQNR is the ratio of the weights' energy to the error's, in decibels. Under sequential targets these three speak of the
moved weights that codes aim at.

Axes: R rows, C columns, V rows of a table.
Source: ours; the per-layer report of gpt-fast, SQNR after its quantizer tests.
Checked by: tests/reports/test_quantization.py, tests/quant/test_calibrate_and_fit.py.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.codec.container import ArtifactTensors, QuantizedTensor, dequantize, encode_artifact
from pipeline.model.network import LoopedUNet
from pipeline.quant.fit import FittedArtifact, member_slices
from pipeline.quant.gptq import proxy_loss, quantization_error, round_to_nearest
from pipeline.quant.plan import QuantizationPlan, TensorGroup
from pipeline.quant.roles import Role, tensor_roles
from pipeline.quant.statistics import row_sensitivity, site_members, square_entry, visit_names

_NO_ERROR_DB = 300.0
"""Shown when codes reproduce the weights exactly: beyond what float64 can resolve."""


class PredictedLoss(NamedTuple):
    """What the errors of one tensor cost, nats per token."""

    predicted_nats: float
    """Of the errors that it has, to second order."""
    sensitivity_nats: float
    """Of independent errors as large as its weights, by the same formula, divided by their number."""


def quantization_report(model: LoopedUNet, statistics: Mapping[str, Tensor], fit: FittedArtifact) -> dict[str, Any]:
    """Return the report of an artifact as JSON-able values, its tensors in the order of the file.

    `model` is the float model. The bytes of all tensors and of what passes through add up to those of the file. Losses
    are None when the statistics hold no sensitivities.
    """
    num_bytes, (min_knob, _, floor_bytes, budget_bytes) = len(fit.content), fit.window
    described = describe_quantization(fit.plan, fit.tensors)
    costs = tensor_costs(model, statistics, fit.tensors, num_bytes)
    lines, totals = {layer["name"]: layer for layer in described["layers"]}, described["totals"]
    return {
        "knob": fit.knob,
        "layers": [_with_bits({**lines[name], **cost}) for name, cost in costs.tensors.items()],
        "totals": {**totals, "bits_per_weight": 8 * (num_bytes - costs.passthrough_bytes) / max(totals["weights"], 1)},
        "artifact_bytes": num_bytes,
        "budget": {
            "budget_bytes": budget_bytes,
            "tolerance_bytes": budget_bytes - floor_bytes,
            "unused_bytes": budget_bytes - num_bytes,
            "reached": num_bytes >= floor_bytes,
            "finest_fits": fit.knob == min_knob,
        },
        "search": [{"knob": knob, "artifact_bytes": trial_bytes} for knob, trial_bytes in fit.trace],
        "passthrough_bytes": costs.passthrough_bytes,
        "predicted_nats": costs.predicted_nats,
    }


def _with_bits(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a tensor's line with the bits that each of its weights takes of the file."""
    return {**layer, "bits_per_weight": 8 * layer["coded_bytes"] / math.prod(layer["shape"])}


def describe_quantization(plan: QuantizationPlan, tensors: ArtifactTensors) -> dict[str, Any]:
    """Return a line for every tensor that a plan quantized, with its entropy, losses and SQNR, and their totals."""
    layers = []
    for group in plan.groups:
        for name, rows in member_slices(group):
            stored = tensors[name]
            assert isinstance(stored, QuantizedTensor), "the plan quantized it"
            layers.append(_layer_line(name, group, group.weight_RC[rows], stored))
    weights = [math.prod(layer["shape"]) for layer in layers]
    bits = sum(count * layer["entropy_bits"] for count, layer in zip(weights, layers, strict=True))
    totals = {
        "weights": sum(weights),
        "entropy_bits": bits / max(sum(weights), 1),
        "proxy_loss": sum(layer["proxy_loss"] or 0.0 for layer in layers),
        "nearest_proxy_loss": sum(layer["nearest_proxy_loss"] or 0.0 for layer in layers),
        "passthrough_values": sum(array.size for array in plan.passthrough.values()),
    }
    return {"layers": layers, "totals": totals}


def _layer_line(name: str, group: TensorGroup, weight_RC: Tensor, stored: QuantizedTensor) -> dict[str, Any]:
    """Return one tensor's line of the report; the proxy losses are None without a Hessian."""
    codes_RC, step, max_code = (
        torch.from_numpy(stored.codes),
        torch.from_numpy(stored.full_step()),
        group.steps.max_code,
    )
    noise = float(quantization_error(weight_RC, codes_RC, step).square().sum())
    signal = float(weight_RC.double().square().sum())
    on_paths = stored.states > 1  # steps are half ones: a code's union is known, and rounding takes whole steps
    line = {
        "name": name,
        "role": group.role,
        "shape": list(weight_RC.shape),
        "entropy_bits": entropy_bits(codes_RC) - (entropy_bits(codes_RC & 1) if on_paths else 0.0),
        "clipped_frac": 0.0 if max_code is None else float((codes_RC.abs() == max_code).double().mean()),
        "sqnr_db": 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else _NO_ERROR_DB,
        "proxy_loss": None,
        "nearest_proxy_loss": None,
    }
    if group.factor is not None:
        whole = 2 if on_paths else 1
        nearest_RC = whole * round_to_nearest(weight_RC, whole * step, max_code)
        hessian_CC = group.factor.hessian_CC.float()  # a report needs no more
        line["proxy_loss"] = proxy_loss(weight_RC, codes_RC, step, hessian_CC)
        line["nearest_proxy_loss"] = proxy_loss(weight_RC, nearest_RC, step, hessian_CC)
    return line


def entropy_bits(codes: Tensor) -> float:
    """Return the order-0 entropy of integer codes, bits per code."""
    codes_N = codes.flatten().int()
    counts = torch.bincount(codes_N - codes_N.min()).double()
    return float(torch.special.entr(counts / counts.sum()).sum()) / math.log(2)


class TensorCosts(NamedTuple):
    """What a file of tensors costs, part by part."""

    tensors: dict[str, dict[str, float | None]]
    """By name of each quantized tensor, in the order of the file: `coded_bytes` and what `PredictedLoss` holds."""
    passthrough_bytes: int
    predicted_nats: float | None


def tensor_costs(
    model: LoopedUNet, statistics: Mapping[str, Tensor], tensors: ArtifactTensors, file_bytes: int
) -> TensorCosts:
    """Return what the parts of a file of so many bytes cost; losses are None without sensitivities."""
    quantized = [name for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)]
    passthrough = {name: tensors[name] for name in tensors if name not in quantized}
    *shares, passthrough_bytes = _file_shares([*({name: tensors[name]} for name in quantized), passthrough], file_bytes)
    losses: dict[str, PredictedLoss] = {}
    if "sensitivity/head" in statistics:
        losses = predicted_losses(model, statistics, tensors)
    none = dict.fromkeys(PredictedLoss._fields)
    costs = {
        name: {"coded_bytes": share, **(losses[name]._asdict() if losses else none)}
        for name, share in zip(quantized, shares, strict=True)
    }
    return TensorCosts(
        costs, passthrough_bytes, sum(loss.predicted_nats for loss in losses.values()) if losses else None
    )


def _file_shares(parts: Sequence[ArtifactTensors], file_bytes: int) -> list[int]:
    """Return what each part takes of a file of them all: in proportion to a file of it alone, in whole bytes."""
    empty = len(encode_artifact({}, {}))
    alone = [len(encode_artifact(part, {})) - empty for part in parts]
    ends = [round(file_bytes * end / sum(alone)) for end in itertools.accumulate(alone)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def predicted_losses(
    model: LoopedUNet, statistics: Mapping[str, Tensor], tensors: ArtifactTensors
) -> dict[str, PredictedLoss]:
    """Return what the errors of every quantized tensor cost; raises ValueError naming what the statistics lack."""
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
