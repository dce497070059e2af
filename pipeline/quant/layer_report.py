"""What a report says about each quantized tensor.

Terms: bits per weight is the order-0 entropy of the codes; proxy loss is tr(E H E^T) with the undamped mean moment;
SQNR is the ratio of the weights' energy to the error's, in decibels. Under sequential targets all of them speak
of the moved weights that codes aim at.

Axes: R rows, C columns.
Source: the per-layer report of gpt-fast, SQNR after its quantizer tests.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import math

import torch
from torch import Tensor

from pipeline.quant.gptq import proxy_loss, quantization_error, round_to_nearest

_NO_ERROR_DB = 300.0
"""Shown when codes reproduce the weights exactly: beyond what float64 can resolve."""


def entropy_bits(codes: Tensor) -> float:
    """Return the order-0 entropy of integer codes, bits per code."""
    codes_N = codes.flatten().int()
    counts = torch.bincount(codes_N - codes_N.min()).double()
    return float(torch.special.entr(counts / counts.sum()).sum()) / math.log(2)


def layer_entry(
    name: str,
    role: str,
    weight_RC: Tensor,
    codes_RC: Tensor,
    step: Tensor,
    states: int,
    max_code: int | None,
    hessian_CC: Tensor | None,
) -> dict:
    """Return one tensor's line of the report; the proxy losses are None without a Hessian.

    With `states` of a trellis above 1 steps are half ones: a code's union is known, and rounding takes whole steps.
    """
    noise = float(quantization_error(weight_RC, codes_RC, step).square().sum())
    signal = float(weight_RC.double().square().sum())
    bits = entropy_bits(codes_RC) - (entropy_bits(codes_RC & 1) if states > 1 else 0.0)
    entry = {
        "name": name,
        "role": role,
        "shape": list(weight_RC.shape),
        "bits_per_weight": bits,
        "clipped_frac": 0.0 if max_code is None else float((codes_RC.abs() == max_code).double().mean()),
        "sqnr_db": 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else _NO_ERROR_DB,
        "proxy_loss": None,
        "nearest_proxy_loss": None,
    }
    if hessian_CC is not None:
        whole = 2 if states > 1 else 1
        nearest_RC = whole * round_to_nearest(weight_RC, whole * step, max_code)
        hessian_CC = hessian_CC.float()  # a report needs no more
        entry["proxy_loss"] = proxy_loss(weight_RC, codes_RC, step, hessian_CC)
        entry["nearest_proxy_loss"] = proxy_loss(weight_RC, nearest_RC, step, hessian_CC)
    return entry


def report_totals(layers: list[dict], passthrough_values: int) -> dict:
    """Return sums over the layers: weights, mean bits per weight, proxy losses, values kept in float16."""
    weights = [math.prod(layer["shape"]) for layer in layers]
    bits = sum(count * layer["bits_per_weight"] for count, layer in zip(weights, layers, strict=True))
    return {
        "weights": sum(weights),
        "bits_per_weight": bits / max(sum(weights), 1),
        "proxy_loss": sum(layer["proxy_loss"] or 0.0 for layer in layers),
        "nearest_proxy_loss": sum(layer["nearest_proxy_loss"] or 0.0 for layer in layers),
        "passthrough_values": passthrough_values,
    }
