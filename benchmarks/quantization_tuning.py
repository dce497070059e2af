"""Settings of the rate rule, one at a time around the default: what each is worth on documents kept for tuning.

Run `python -m benchmarks.quantization_tuning ../shared/data`. Every setting is brought to the same two file sizes,
those of the default at two knobs; compared are the divergence from the float model (KL, exact over the vocabulary) and
the gap. The divergence is what to tune by (`judge.py`); that a text was trained on does not flatter it.

Axes: N sequences, T position, D documents, B resamples of the documents, P file sizes.
Checked by: tests/quant/test_quantization_tuning.py.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.judge import Judge
from benchmarks.quantization import DEFAULT, arms_of
from benchmarks.quantization_data import load_material, load_tuning
from benchmarks.rate_curves import interval, resample_documents
from benchmarks.results import ROOT, write_result
from benchmarks.sequence_sensitivity import with_sequence_sensitivities
from pipeline.codec.container import encode_artifact
from pipeline.progress import silent
from pipeline.quant.config import QuantizeConfig, RateSteps
from pipeline.quant.dequantize import dequantized_model
from pipeline.quant.loop_aware import calibrate
from pipeline.quant.moments import Bundle
from pipeline.quant.plan import plan_quantization
from pipeline.quant.quantizer import quantize_plan
from pipeline.ranks import Ranks
from pipeline.training.run import hardware_name

KNOBS = (2.2e-4, 3.8e-4)
"""Of the default: about 2.4 and 1.9 bits per weight."""


class Setting(NamedTuple):
    """One way to choose steps and codes."""

    name: str
    quantize: QuantizeConfig
    statistics: Callable[[Bundle], Bundle]


Statistics = Callable[[Bundle], Bundle]


def settings_around(default: QuantizeConfig, sequences: Statistics) -> list[Setting]:
    """Return the default and what differs from it in one thing."""
    rule = default.steps
    assert isinstance(rule, RateSteps), "the default that params.yaml ships with"
    steps = {
        **{f"row_exponent {value:g}": dataclasses.replace(rule, row_exponent=value) for value in (0.25, 0.5, 0.75)},
        **{f"column_exponent {value:g}": dataclasses.replace(rule, column_exponent=value) for value in (0.5, 0.75)},
        **{f"lookup_exponent {value:g}": dataclasses.replace(rule, lookup_exponent=value) for value in (0.5, 0.75)},
    }
    settings = {name: dataclasses.replace(default, steps=changed) for name, changed in steps.items()}
    damped = {
        f"damp_frac {value:g}": dataclasses.replace(default, damp_frac=value) for value in (0.002, 0.005, 0.02, 0.05)
    }
    return [
        Setting("default", default, dict),
        Setting("sequence gradients", default, sequences),
        *(Setting(name, quantize, dict) for name, quantize in (settings | damped).items()),
        Setting("rows 0.1 towards their mean", default, shrunk(0.1)),
    ]


def shrunk(share: float) -> Callable[[Bundle], Bundle]:
    """Return what moves the sensitivities of a matrix's rows this far towards their mean."""

    def shrink(bundle: Bundle) -> Bundle:
        return {
            key: torch.lerp(entry, entry.mean(), share) if key.startswith("sensitivity/blocks.") else entry
            for key, entry in bundle.items()
        }

    return shrink


class Rated(NamedTuple):
    """One setting at the file sizes of the default."""

    bytes_P: np.ndarray
    divergence_PD: np.ndarray
    excess_PD: np.ndarray


def rate(judge: Judge, bundle: Bundle, setting: Setting, sizes_P: Iterable[float] | None) -> Rated:
    """Return a setting's points near the wanted file sizes, or at the knobs when None."""
    model = judge.model
    plan = plan_quantization(model, setting.statistics(bundle), setting.quantize)
    meta, points = {"model": dataclasses.asdict(model.config)}, []
    for knob, wanted in zip(KNOBS, sizes_P or (None, None), strict=True):
        tensors = quantize_plan(plan, knob)
        size = len(encode_artifact(tensors, meta))
        weights = sum(group.weight_RC.numel() for group in plan.groups)
        for _ in range(2):
            if wanted is None or abs(size / wanted - 1) < 0.002:
                break
            # A doubling of the knob saves about 0.75 bits per weight at these rates.
            knob *= 2 ** ((size - wanted) * 8 / weights / 0.75)
            tensors = quantize_plan(plan, knob)
            size = len(encode_artifact(tensors, meta))
        verdict = judge(dequantized_model(tensors, model.config).eval())
        points.append((size, verdict.divergence_D, verdict.nats_D - judge.float_D))
    return Rated(*(np.array(column) for column in zip(*points, strict=True)))


def compare(judge: Judge, base: Rated, name: str, points: Rated) -> dict[str, Any]:
    """Return, and print, a setting's divergence and gap over those of `base`, at its file sizes."""
    bytes_D = judge.stream.document_bytes()
    counts_BD = resample_documents(len(bytes_D))
    to_mbpb = 1000 / math.log(2) / (counts_BD @ bytes_D)
    divergence_PB, base_PB = ((part @ counts_BD.T) * to_mbpb for part in (points.divergence_PD, base.divergence_PD))
    ratio_PB = _at(base.bytes_P, points.bytes_P, divergence_PB) / base_PB
    gap_PB = ((points.excess_PD - base.excess_PD) @ counts_BD.T) * to_mbpb
    ratios, gaps = [interval(values) for values in ratio_PB], [interval(values) for values in gap_PB]
    cells = ["{value:.4f} [{low:.4f}, {high:.4f}]".format(**figure) for figure in ratios]
    cells += ["{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**figure) for figure in gaps]
    print(f"{name:44} {'  '.join(cells)}", flush=True)
    return {
        "setting": name,
        "bytes": points.bytes_P.tolist(),
        "divergence_ratio": ratios,
        "gap_less_default_mbpb": gaps,
    }


def _at(wanted_P: np.ndarray, bytes_P: np.ndarray, values_PB: np.ndarray) -> np.ndarray:
    """Return positive values at the wanted sizes, on the line of their logarithm through the two points."""
    logs_PB = np.log(values_PB)
    slope_B = (logs_PB[1] - logs_PB[0]) / (bytes_P[1] - bytes_P[0])
    return np.exp(logs_PB + (wanted_P - bytes_P)[:, None] * slope_B)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="Scan settings of the rate rule on tuning documents.")
    parser.add_argument("data", type=Path, help="folder of the shared checkpoint, tokenizer and documents")
    parser.add_argument("--targets", type=int, default=12_288, help="scored targets, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    material = load_material(arguments.data)
    ids_NT, default = material.draws[0], arms_of(material)[DEFAULT]
    bundle = calibrate(material.model, ids_NT, default.calibrate, Ranks(0, 0, 1), torch.device("cpu"), silent)
    stream = load_tuning(arguments.data, material.scored.context_tokens)
    measured = scan(Judge(material.model, stream.first(arguments.targets)), bundle, ids_NT, default.quantize)
    print(write_result("quantization_tuning", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def scan(judge: Judge, bundle: Bundle, ids_NT: Tensor, default: QuantizeConfig) -> dict[str, Any]:
    """Return the comparison of all settings around `default`."""
    whole = with_sequence_sensitivities(judge.model, bundle, ids_NT[::2], default.damp_frac)
    first, *others = settings_around(default, lambda _: whole)
    base = rate(judge, bundle, first, None)
    sizes_P = base.bytes_P.tolist()
    print(f"divergence over the default's, then gap less the default's in mBPB, at {sizes_P} bytes [95 %]")
    lines = [compare(judge, base, setting.name, rate(judge, bundle, setting, sizes_P)) for setting in others]
    targets, documents = len(judge.stream.bytes_N), len(judge.float_D)
    return {"targets": targets, "documents": documents, "bytes": sizes_P, "settings": lines}


if __name__ == "__main__":
    main()
