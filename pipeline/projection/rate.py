"""How many bits a budget leaves for a weight, and what so few cost where it was measured.

The one idea: what is not coded passes through in two bytes; the rest of the file is the codes'. Between measured points
logarithms of gaps are taken as linear in bits.

Source: `python -m benchmarks.quantization`, arm H32, the quantizer of every recipe: benchmarks/results.
Checked by: tests/projection/test_rate.py
"""

import math
from itertools import pairwise

import torch

from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import BudgetConfig
from pipeline.quant.roles import tensor_roles

MEASURED = {
    "crawler": ((1.94, 9.25), (2.50, 2.42), (3.09, 0.69), (3.65, 0.12)),
    "looped U-Net": ((2.15, 10.92), (2.82, 3.89), (3.50, 0.93), (4.16, 0.04)),
}
"""Network of width 256 -> (bits per weight, gap in mBPB over its float weights), means over two draws."""
_PASSTHROUGH_BYTES = 2


def coded_weights(model: ModelConfig) -> int:
    """Return how many numbers of a network become codes."""
    return _sizes(model)[0]


def bits_per_weight(model: ModelConfig, budget: BudgetConfig) -> float:
    """Return what a budget leaves for each of them, float16 for all others."""
    coded, passed = _sizes(model)
    return 8 * (budget.limit_bytes - budget.code_reserve_bytes - _PASSTHROUGH_BYTES * passed) / coded


def gaps_at(bits: float) -> dict[str, float]:
    """Return the gaps, in mBPB, that were measured at so many bits per weight; none where none was."""
    found = {}
    for name, points in MEASURED.items():
        for (low, dear), (high, cheap) in pairwise(points):
            if low <= bits <= high:
                share = (bits - low) / (high - low)
                found[name] = math.exp((1 - share) * math.log(dear) + share * math.log(cheap))
    return found


def _sizes(model: ModelConfig) -> tuple[int, int]:
    """Return how many numbers are coded and how many pass through."""
    with torch.device("meta"):
        network = LoopedUNet(model)
    roles, tensors = tensor_roles(network), network.state_dict()
    passed = sum(tensors[name].numel() for name, role in roles.items() if role == "passthrough")
    return sum(tensor.numel() for tensor in tensors.values()) - passed, passed
