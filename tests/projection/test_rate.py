"""Bits that a budget leaves, by hand, and gaps at them against the benchmark's record."""

import json
import math
import statistics
from pathlib import Path

import pytest

from pipeline.base.config import load_params
from pipeline.model.network import build
from pipeline.projection.rate import MEASURED, bits_per_weight, coded_weights, gaps_at
from pipeline.quant.config import BudgetConfig
from pipeline.quant.roles import tensor_roles
from tests.networks import TINY

REPO = Path(__file__).resolve().parents[2]
RESULTS = {"crawler": "quantization.json", "looped U-Net": "quantization_looped_unet.json"}


@pytest.mark.parametrize("name", MEASURED)
def test_measured_points_are_those_of_the_benchmark(name: str) -> None:
    measured = json.loads((REPO / "benchmarks/results" / RESULTS[name]).read_text())["measured"]
    by_knob: dict[float, list[dict]] = {}
    for point in measured["points"]:
        if point["arm"] == "H32":
            by_knob.setdefault(point["knob"], []).append(point)
    means = [[statistics.fmean(point[key] for point in points) for key in ("bits_per_weight", "gap_mbpb")]
             for points in by_knob.values()]  # fmt: skip
    assert sorted(means) == [pytest.approx(point, abs=0.00501) for point in MEASURED[name]]


def test_bits_are_what_is_left_beside_the_code_and_what_passes_through() -> None:
    model = build(TINY, 0)
    tensors, roles = model.state_dict(), tensor_roles(model)
    coded = sum(tensor.numel() for name, tensor in tensors.items() if roles[name] != "passthrough")
    passed = sum(tensor.numel() for tensor in tensors.values()) - coded
    budget = BudgetConfig(limit_bytes=50_000, code_reserve_bytes=20_000, tolerance_frac=0.1)
    assert coded_weights(TINY) == coded
    assert bits_per_weight(TINY, budget) == 8 * (30_000 - 2 * passed) / coded


def test_gaps_are_the_points_between_them_by_logarithms_and_none_beyond() -> None:
    (low, dear), (high, cheap) = MEASURED["crawler"][1:3]
    assert gaps_at(low)["crawler"] == pytest.approx(dear)
    assert gaps_at((low + high) / 2)["crawler"] == pytest.approx(math.sqrt(dear * cheap))
    assert gaps_at(1.0) == gaps_at(9.0) == {}


def test_the_recipe_of_16_megabytes_has_three_bits_per_weight() -> None:
    params = load_params(REPO / "recipes/fairway-16mb.yaml", ["model", "budget"])
    bits = bits_per_weight(params.model, params.budget)
    assert bits == pytest.approx(3.03, abs=0.02)
    assert all(0.5 < gap < 3 for gap in gaps_at(bits).values()), "what the composition counts on"
