"""A toy quantization on every rank; the program of test_quantization_ranks.

`python -m tests.quant.quantize_run FOLDER` leaves what each rank made in FOLDER/rank<N>.json.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from pipeline.base.checks import FairwayError
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE, Ranks
from pipeline.codec.container import QuantizedTensor
from pipeline.launching.processes import current_ranks, process_group
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import BudgetConfig, ClipSteps, CodeBits, QuantizeConfig, RateSteps
from pipeline.quant.fit import fit_to_budget
from pipeline.quant.statistics import Statistics, site_members
from tests.calibration.calibrate_run import calibrate_toy

RATE = QuantizeConfig(
    solver="gptq",
    steps=RateSteps(kind="rate", row_exponent=1.0, column_exponent=1.0, lookup_exponent=1.0),
    visit_weights="sensitivity",
    target_share=1.0,
    damp_frac=0.01,
    block_columns=16,
    trellis_states=8,
)
CLIP = replace(
    RATE,
    trellis_states=None,
    steps=ClipSteps(
        kind="clip",
        bits=CodeBits(attention=6, mlp=5, looped=6, other=6, embedding=8, table=6),
        embedding_clip_ratio=1.5,
        table_clip_ratio=1.5,
        min_clip_std=2.0,
        max_clip_std=60.0,
    ),
)
FITTING = BudgetConfig(limit_bytes=20_000, code_reserve_bytes=0, tolerance_frac=0.001)


def quantize_toy(ranks: Ranks) -> list[dict[str, str]]:
    """Return the artifact and search of two rules, then the errors of statistics and of a budget that will not do."""
    model, statistics = calibrate_toy(ALONE)
    trials = [
        (statistics, RATE, FITTING),
        (statistics, CLIP, FITTING),
        (_spoilt(statistics), RATE, FITTING),
        (statistics, RATE, replace(FITTING, limit_bytes=100)),
    ]
    return [_outcome(model, *trial, ranks) for trial in trials]


def _spoilt(statistics: Statistics) -> Statistics:
    """Spoil the moments of one site only: one rank has it."""
    owner = next(iter(site_members(statistics)))
    return {key: -entry if key.startswith(f"moment/{owner}/") else entry for key, entry in statistics.items()}


def _outcome(
    model: LoopedUNet, statistics: Statistics, config: QuantizeConfig, budget: BudgetConfig, ranks: Ranks
) -> dict[str, str]:
    try:
        fit = fit_to_budget(model, statistics, config, budget, {}, silent, ranks)
    except FairwayError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    codes = [tensor.codes.tobytes() for tensor in fit.tensors.values() if isinstance(tensor, QuantizedTensor)]
    content, held = (hashlib.sha256(each).hexdigest() for each in (fit.content, b"".join(codes)))
    return {
        "content": content,
        "codes": held,
        "search": repr((fit.trace, fit.knob)),
        "groups": str(len(fit.plan.groups)),
    }


@record
def main(folder: str) -> None:
    """Quantize and save."""
    torch.set_num_threads(1)
    ranks = current_ranks()
    with process_group(ranks, torch.device("cpu")):
        (Path(folder) / f"rank{ranks.rank}.json").write_text(json.dumps(quantize_toy(ranks)))


if __name__ == "__main__":
    main(sys.argv[1])
