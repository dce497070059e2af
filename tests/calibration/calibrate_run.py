"""A toy calibration on every rank; the program of test_calibration_ranks.

`python -m tests.calibration.calibrate_run FOLDER` leaves each rank's statistics in FOLDER/rank<N>.pt.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.errors import record

from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.calibration.mixtures import collect_mixtures
from pipeline.launching.processes import current_ranks, process_group
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import CalibrateConfig, MixtureConfig, ProvisionalConfig, RateSteps
from tests.networks import TINY, changed, roused

MODEL = changed(TINY, {"vocab_size": 40, "context_tokens": 16, "embed_init_std": 0.3})
BOS = 1
_PHRASES = np.random.default_rng(0).integers(2, 40, (7, 6))
TEXT = [np.concatenate([[BOS], *_PHRASES[np.random.default_rng(seed).integers(7, size=60)]]) for seed in range(4)]
"""Shards of one document each: phrases that come again."""
MIXTURE = MixtureConfig(tokens=600, document_orders=(1, 3), stream_orders=(2,))
STEPS = RateSteps(kind="rate", row_exponent=0.5, column_exponent=1.0, lookup_exponent=1.0)


def calibrate_toy(ranks: Ranks) -> tuple[LoopedUNet, dict[str, torch.Tensor]]:
    """Return the model and its statistics: 5 batches, the last one smaller, and 3 of gradients."""
    model = roused(MODEL, 3)
    ids_NT = torch.randint(0, 40, (9, 16), generator=torch.Generator().manual_seed(4))
    config = CalibrateConfig(
        num_sequences=9,
        batch_sequences=2,
        sensitivity_sequences=3,
        sweeps=2,
        provisional=ProvisionalConfig(bits_per_weight=3.0, steps=STEPS, target_share=0.5, damp_frac=0.01),
        mixture=MIXTURE,
    )
    statistics = calibrate(model, ids_NT, config, ranks, torch.device("cpu"), silent)
    return model, statistics | collect_mixtures(model, TEXT, BOS, MIXTURE, ranks, torch.device("cpu"))


@record
def main(folder: str) -> None:
    """Calibrate and save."""
    torch.set_num_threads(1)
    ranks = current_ranks()
    with process_group(ranks, torch.device("cpu")):
        _, statistics = calibrate_toy(ranks)
        torch.save(statistics, Path(folder) / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
