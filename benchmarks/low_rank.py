"""What a rank-one correction of each matrix would save, beside what finer steps save for the same bytes.

Run `python -m benchmarks.low_rank ../shared/data`. An error E in a matrix costs the squared norm of G^(1/2) E H^(1/2)
(G curvatures of its rows, H moment of its inputs). The best rank-one correction takes the leading singular value of
that away; its R + C values of `VALUE_BITS` bits, spent on codes, would make steps finer by their share of the R * C
weights, which takes a factor of four per bit. Errors are those of the default at `KNOB`, of both families.

Axes: R rows, C columns.
Checked by: tests/quant/test_low_rank.py.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.quantization import DEFAULT, arms_of
from benchmarks.quantization_arms import RATE_KNOBS
from benchmarks.quantization_data import FAMILIES, load_material
from benchmarks.results import ROOT, write_result
from pipeline.codec.container import ArtifactTensors, dequantize
from pipeline.progress import silent
from pipeline.quant.loop_aware import calibrate
from pipeline.quant.plan import TensorGroup, plan_quantization
from pipeline.quant.quantizer import quantize_plan
from pipeline.ranks import Ranks
from pipeline.training.run import hardware_name

KNOB = RATE_KNOBS[2]
VALUE_BITS = 8


class Correction(NamedTuple):
    """A rank-one correction of the matrices that share an input."""

    name: str
    """Of the first of them."""
    loss: float
    """Of their errors, as the rate rule counts it."""
    saved: float
    """Share of the loss that the correction takes away."""
    saved_by_steps: float
    """Share that finer steps would take away for its bytes."""


def correction_of(group: TensorGroup, tensors: ArtifactTensors) -> Correction:
    """Return the best correction of a group of matrices, whose values are exact."""
    assert group.hessian_CC is not None, "every matrix has moments"
    assert group.curvature_R is not None, "the rate rule has curvatures"
    values = dequantize({name: tensors[name] for name in group.names})
    error_RC = group.weight_RC - torch.cat([torch.from_numpy(values[name]) for name in group.names])
    return Correction(group.names[0], *_shares(error_RC.double(), group.curvature_R.double(), group.hessian_CC))


def _shares(error_RC: Tensor, curvature_R: Tensor, moment_CC: Tensor) -> tuple[float, float, float]:
    value_C, vector_CC = torch.linalg.eigh(moment_CC)
    root_CC = vector_CC * value_C.clamp_min(0).sqrt()
    power = torch.linalg.svdvals(curvature_R.sqrt()[:, None] * error_RC @ root_CC).square()
    rows, columns = error_RC.shape
    bits_per_weight = VALUE_BITS * (rows + columns) / (rows * columns)
    loss = float(power.sum())
    return loss, float(power[0]) / loss if loss else 0.0, 1 - 4**-bits_per_weight


def measure(data: Path, family: str) -> list[Correction]:
    """Return the corrections of a family's checkpoint, the most worth first."""
    material = load_material(data, family)
    arm = arms_of(material)[DEFAULT]
    bundle = calibrate(material.model, material.draws[0], arm.calibrate, Ranks(0, 0, 1), torch.device("cpu"), silent)
    plan = plan_quantization(material.model, bundle, arm.quantize)
    tensors = quantize_plan(plan, KNOB)
    found = [correction_of(group, tensors) for group in plan.groups if group.role == "matrix"]
    return sorted(found, key=lambda one: one.saved_by_steps - one.saved)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="Measure what rank-one corrections would save.")
    parser.add_argument("data", type=Path, help="folder of the shared checkpoint, tokenizer and documents")
    data, measured = parser.parse_args().data, {}
    for family in FAMILIES:
        corrections = measure(data, family)
        total = sum(one.loss for one in corrections)
        net = sum(max(one.saved - one.saved_by_steps, 0) * one.loss for one in corrections) / total
        print(f"{family}: corrections that beat finer steps gain {net:.4f} of the loss of all matrices")
        for one in corrections:
            print(
                f"{one.name:40} {one.loss / total:7.4f} of the loss, saved {one.saved:.3f}, by finer steps "
                f"{one.saved_by_steps:.3f}"
            )
        measured[family] = {"net_gain": net, "corrections": [one._asdict() for one in corrections]}
    print(write_result("low_rank", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


if __name__ == "__main__":
    main()
