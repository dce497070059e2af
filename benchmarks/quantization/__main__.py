"""Every rung of the quantization ladder on one real checkpoint: loss over the float model against file bytes.

Run `python -m benchmarks.quantization` on a quiet machine: it measures the finished run in `artifacts` and prints.
With a folder DATA of the recorded figures (`data.py`) it records; `--family looped-unet` measures a second checkpoint,
which `benchmarks.quantization.second_checkpoint` trains.
Gaps are mBPB (0.001 bits per byte of text) over the float model on documents that neither training nor calibration saw,
blocks protocol, float32; divergences are from the float model there (`judge.py`), in the same unit. Arms are compared
at equal *file* bytes and at equal gaps or divergences by interpolation: means over the calibration draws, with the
central 95 % of a paired bootstrap over documents. All arms with all draws are kept; `--arms` and `--seeds` measure
fewer, which is only printed. Draws are measured in processes of one thread each; a run that was interrupted goes on at
the same commit.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.quantization.arms import Arm, arms_of, choose_arms
from benchmarks.quantization.curves import compare
from benchmarks.quantization.data import FAMILIES, NUM_DRAWS, Material, add_data, is_run, load_material
from benchmarks.quantization.pages import draw_plot, result_page
from benchmarks.quantization.runs import POINT_HEADER, Point, measure_draw
from benchmarks.results import ROOT, write_result
from pipeline.base.checks import require
from pipeline.base.files import write_bytes
from pipeline.data.byte_count import bits_per_byte
from pipeline.launching.processes import available_cores
from pipeline.reports.training import hardware_name


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--family", choices=FAMILIES, default="crawler", help="of the checkpoint of DATA")
    parser.add_argument("--arms", help="these arms only, separated by commas")
    parser.add_argument("--seeds", type=int, default=NUM_DRAWS, help=f"calibration draws, 1 to {NUM_DRAWS}")
    arguments = parser.parse_args()
    require(1 <= arguments.seeds <= NUM_DRAWS, "--seeds", arguments.seeds, f"1 to {NUM_DRAWS}")
    load = partial(load_material, arguments.data, arguments.family)
    try:
        material = load()
        arms = choose_arms(arms_of(material), arguments.arms)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    is_whole = arms.keys() == arms_of(material).keys() and arguments.seeds == NUM_DRAWS
    print(POINT_HEADER, flush=True)
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        draws = list(pool.map(partial(measure_draw, load, list(arms)), range(arguments.seeds)))
    measured = report(material, draws[0][1], arms, [point for points, _ in draws for point in points])
    command = f"python -m benchmarks.quantization DATA --family {arguments.family}"
    page = result_page(f"Quantization of the {material.family} checkpoint", command, measured)
    print(f"\n{page}")
    if is_whole and not is_run(arguments.data):
        name = FAMILIES[arguments.family].result
        print(write_result(name, hardware_name(torch.device("cpu")), measured).relative_to(ROOT))
        write_bytes(ROOT / "docs" / f"{name}_tables.md", page.encode())
        draw_plot(ROOT / "docs" / f"{name}.png", measured)


def report(material: Material, float_D: np.ndarray, arms: Mapping[str, Arm], points: Sequence[Point]) -> dict[str, Any]:
    """Return the comparisons of all points, with what they were measured on; `float_D`: the float model's nats."""
    text_bytes_D = material.scored.document_bytes()
    return {
        "float_bpb": bits_per_byte(float(float_D.sum()), int(text_bytes_D.sum())),
        "targets": len(material.scored.bytes_N),
        "documents": len(float_D),
        "calibration_tokens": material.draws[0].numel(),
        "arms": {
            name: {
                "title": arm.title,
                "calibrate": dataclasses.asdict(arm.calibrate),
                "quantize": dataclasses.asdict(arm.quantize),
            }
            for name, arm in arms.items()
        },
        "comparisons": compare(points, float_D, text_bytes_D),
        "points": [point._asdict() for point in points],
        "float_nats_by_document": float_D.tolist(),
        "bytes_by_document": text_bytes_D.tolist(),
    }


if __name__ == "__main__":
    main()
