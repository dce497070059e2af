"""Every rung of the quantization ladder on one real checkpoint: loss over the float model against file bytes.

Run `python -m benchmarks.quantization ../shared/data` on a quiet machine, with the extra `bench` installed for the
plot; `--family looped-unet` measures a second checkpoint, which `benchmarks.second_checkpoint` trains. Gaps are mBPB
(0.001 bits per byte of text) over the float model on documents that neither training nor calibration saw, blocks
protocol, float32; divergences are from the float model there (`judge.py`), in the same unit. Arms are compared at equal
*file* bytes and at equal gaps or divergences by interpolation: means over the calibration draws, with the central 95 %
of a paired bootstrap over documents. The arms `RECORDED` with all draws are kept; `--arms` and `--seeds` measure others
or fewer, which is only printed, but for the gains of the rate rule's axes, kept whenever their arms are measured
(`--arms Cr,Gt,Gr,Gc,Gl,Gf`). Draws are measured in processes of one thread each; a run that was interrupted goes on at
the same commit.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quantization_arms import COARSE_CLIP_STD, PUBLISHED_CLIP_STD, PUBLISHED_MAX_CODE, RECORDED, Arm, ladder
from benchmarks.quantization_data import FAMILIES, NUM_DRAWS, Material, load_material
from benchmarks.quantization_runs import POINT_HEADER, Bench, Point
from benchmarks.quantization_spreads import ARMS_OF_AXIS, Axis, axes_of, compare_axes
from benchmarks.quantization_tables import QUANTITIES, result_page
from benchmarks.rate_curves import Curve, bytes_at, gap_at, interval, make_curve, resample_documents
from benchmarks.rate_plot import plot_points
from benchmarks.results import ROOT, write_result
from pipeline.base.artifacts import git_commit
from pipeline.base.checks import require
from pipeline.base.config import load_params
from pipeline.base.files import write_bytes
from pipeline.launching.processes import available_cores
from pipeline.quant.plan import plan_quantization
from pipeline.reports.training import hardware_name

DEFAULT = "H32"
BASELINES = ("C", "B")
REFERENCES = (("C", PUBLISHED_CLIP_STD), ("C", COARSE_CLIP_STD), ("B", float(PUBLISHED_MAX_CODE)))
"""Arm and knob whose file size, gap and divergence the other arms are compared at."""


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="Measure the quantization ladder.")
    parser.add_argument("data", type=Path, help="folder of the shared checkpoint, tokenizer and documents")
    parser.add_argument(
        "--family", choices=FAMILIES, default="crawler", help="of the checkpoint (default: %(default)s)"
    )
    parser.add_argument("--arms", help=f"these arms, separated by commas (default: {','.join(RECORDED)})")
    parser.add_argument("--seeds", type=int, default=NUM_DRAWS, help=f"calibration draws, 1 to {NUM_DRAWS}")
    arguments = parser.parse_args()
    require(1 <= arguments.seeds <= NUM_DRAWS, "--seeds", arguments.seeds, f"1 to {NUM_DRAWS}")
    load = partial(load_material, arguments.data, arguments.family)
    try:
        material = load()
        arms = choose_arms(arms_of(material), arguments.arms)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    is_whole = set(arms) == set(RECORDED) and arguments.seeds == NUM_DRAWS
    require(not is_whole or find_spec("matplotlib") is not None, "matplotlib", None, "the extra `bench` installed")
    print(POINT_HEADER, flush=True)
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        draws = list(pool.map(partial(_measure_draw, load, list(arms)), range(arguments.seeds)))
    points = [point for draw, _ in draws for point in draw]
    for axis, spread in draws[0][1].items():
        print(f"ln-spread of {axis:22} {spread.ln_spread:6.3f}, worth {spread.lognormal_bits:.3f} bit per weight")
    measured = report(_bench(material, 0), arms, points, draws[0][1])
    name, hardware, axes = FAMILIES[arguments.family].result, hardware_name(torch.device("cpu")), measured.pop("axes")
    if len(axes["lines"]) == len(ARMS_OF_AXIS):
        print(write_result(f"{name}_axes", hardware, {"draws": arguments.seeds, **axes}).relative_to(ROOT))
    if is_whole:
        print(write_result(name, hardware, measured).relative_to(ROOT))
        plot_points(ROOT / "docs" / f"{name}.png", points, {name: arm.title for name, arm in arms.items()})
        command = f"python -m benchmarks.quantization ../shared/data --family {arguments.family}"
        page = result_page(f"Quantization of the {arguments.family} checkpoint", command, measured)
        write_bytes(ROOT / "docs" / f"{name}_tables.md", page.encode())


def choose_arms(arms: Mapping[str, Arm], asked: str | None) -> dict[str, Arm]:
    """Return the arms of a comma-separated list, in the ladder's order; None asks for those that are recorded."""
    names = RECORDED if asked is None else asked.split(",")
    require(set(names) <= set(arms), "--arms", asked, f"some of {','.join(arms)}")
    return {name: arm for name, arm in arms.items() if name in names}


def arms_of(material: Material) -> dict[str, Arm]:
    """Return the ladder around the settings of params.yaml, calibrated on draws of the material."""
    params = load_params(ROOT / "params.yaml", ["calibrate", "quantize"])
    return ladder(dataclasses.replace(params.calibrate, num_sequences=len(material.draws[0])), params.quantize)


def _bench(material: Material, seed: int) -> Bench:
    journal = ROOT / "artifacts" / f"{FAMILIES[material.family].result}-{git_commit(ROOT)}-{seed}.jsonl"
    journal.parent.mkdir(exist_ok=True)
    return Bench(material, lambda line: print(line, flush=True), journal)


def _measure_draw(load: Callable[[], Material], names: Sequence[str], seed: int) -> tuple[list[Point], dict[str, Axis]]:
    material = load()
    arms = {name: arm for name, arm in arms_of(material).items() if name in names}
    return measure(_bench(material, seed), arms, seed)


def measure(bench: Bench, arms: Mapping[str, Arm], seed: int) -> tuple[list[Point], dict[str, Axis]]:
    """Return every rate point of `arms` with one draw of calibration sequences, and the default's diagnostics."""
    spreads = {}
    if DEFAULT in arms:
        statistics, _ = bench.statistics(seed, arms[DEFAULT].calibrate)
        spreads = axes_of(plan_quantization(bench.material.model, statistics, arms[DEFAULT].quantize), statistics)
    return [point for name, arm in arms.items() for point in bench.measure(name, arm, seed)], spreads


def report(
    bench: Bench, arms: Mapping[str, Arm], points: Sequence[Point], spreads: Mapping[str, Axis]
) -> dict[str, Any]:
    """Return, and print, the comparisons of all points, with what they were measured on."""
    comparisons = compare(bench, points)
    print_comparisons(comparisons)
    axes = compare_axes(bench, _curves(bench, points, "gap"), points, spreads)
    scored = bench.material.scored
    return {
        "float_bpb": bench.bpb(bench.float_D),
        "targets": len(scored.bytes_N),
        "documents": len(bench.float_D),
        "calibration_tokens": bench.material.draws[0].numel(),
        "arms": {
            name: {
                "title": arm.title,
                "calibrate": dataclasses.asdict(arm.calibrate),
                "quantize": dataclasses.asdict(arm.quantize),
            }
            for name, arm in arms.items()
        },
        "ln_spreads": {axis: spread.ln_spread for axis, spread in spreads.items()},
        "axes": axes,
        "comparisons": comparisons,
        "points": [point._asdict() for point in points],
        "float_nats_by_document": bench.float_D.tolist(),
        "bytes_by_document": bench.text_bytes_D.tolist(),
    }


def compare(bench: Bench, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return, for every reference that was measured, each arm's gap and divergence at its size, and sizes at these."""
    comparisons = []
    for quantity in QUANTITIES:
        curves = _curves(bench, points, quantity)
        for arm, knob in REFERENCES:
            if sizes := [point.file_bytes for point in points if (point.arm, point.knob) == (arm, knob)]:
                comparisons.append(
                    {
                        "quantity": quantity,
                        "reference": f"{arm} at {knob:g}",
                        **_compare_at(curves, arm, float(np.mean(sizes))),
                    }
                )
    return comparisons


def _curves(bench: Bench, points: Sequence[Point], quantity: str) -> dict[str, Curve]:
    counts_BD = resample_documents(len(bench.float_D))
    curves: dict[str, Curve] = {}
    for name in dict.fromkeys(point.arm for point in points):
        seeds = dict.fromkeys(point.seed for point in points)
        rows = [[point for point in points if (point.arm, point.seed) == (name, seed)] for seed in seeds]
        sizes_SP = np.array([[point.file_bytes for point in row] for row in rows])
        if quantity == "gap":
            excess_SPD = np.array([[point.nats_by_document for point in row] for row in rows]) - bench.float_D
        else:
            excess_SPD = np.array([[point.divergence_by_document for point in row] for row in rows])
        curves[name] = make_curve(sizes_SP, excess_SPD, bench.text_bytes_D, counts_BD)
    return curves


def _compare_at(curves: Mapping[str, Curve], reference: str, num_bytes: float) -> dict[str, Any]:
    levels = {name: gap_at(curve, num_bytes) for name, curve in curves.items()}
    level_B = levels[reference]
    assert level_B is not None, "a mean of an arm's sizes at one knob lies among its rate points"
    sizes = {name: bytes_at(curve, level_B) for name, curve in curves.items()}
    ours, rows = levels.get(DEFAULT), {}
    for name, other_B in levels.items():
        size_B = sizes[name]
        rows[name] = {
            "mbpb": None if other_B is None else interval(other_B),
            "less_reference_mbpb": None if other_B is None else interval(other_B - level_B),
            "bytes_at_level": None if size_B is None else interval(size_B),
        }
    ratios = {
        name: interval(ours / other_B)
        for name in BASELINES
        if ours is not None and (other_B := levels.get(name)) is not None
    }
    return {"file_bytes": num_bytes, "mbpb": float(level_B[0]), "arms": rows, f"{DEFAULT}_over": ratios}


def print_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Print what `compare` returned, a table per reference."""
    for comparison in comparisons:
        quantity = comparison["quantity"]
        print(
            f"\n{quantity} of {comparison['reference']}: {comparison['file_bytes']:.0f} bytes, "
            f"{comparison['mbpb']:.3f} mBPB"
        )
        print(f"{'arm':4} {'at these bytes':24} {'less the reference':24} bytes at this {quantity}")
        for name, row in comparison["arms"].items():
            cells = (_cell(row["mbpb"], 3), _cell(row["less_reference_mbpb"], 3), _cell(row["bytes_at_level"], 0))
            print(f"{name:4} {cells[0]:24} {cells[1]:24} {cells[2]}")
        for name, ratio in comparison[f"{DEFAULT}_over"].items():
            print(f"{quantity} of {DEFAULT} over {quantity} of {name}: {_cell(ratio, 3)}")


def _cell(figure: Mapping[str, float] | None, digits: int) -> str:
    if figure is None:
        return "no overlap"
    return "{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]".format(**figure, n=digits)


if __name__ == "__main__":
    main()
