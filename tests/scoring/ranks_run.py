"""One rank of tests/scoring/test_scoring_ranks.py: python -m tests.scoring.ranks_run FOLDER, under torchrun."""

import sys
from pathlib import Path

import numpy as np
import torch

from pipeline.base.ranks import Ranks
from pipeline.launching.processes import current_ranks, process_group
from pipeline.scoring.evaluate import Scores
from tests.scoring.scoring_toys import PROTOCOLS, random_documents, run, tiny_network

LENGTHS = [40, 0, 1, 17, 5, 60, 0, 33, 15, 90]
RULES = {**PROTOCOLS, "ttt": {**PROTOCOLS["ttt"], "chunk_tokens": 120, "batch_sequences": 6}}
"""The seven sequences of a chunk make a batch of six parts and one of one."""


def score_all(ranks: Ranks) -> dict[str, Scores]:
    """Return the scores of the toy stream under every protocol."""
    return {name: run(tiny_network(), random_documents(LENGTHS), rule, ranks=ranks) for name, rule in RULES.items()}


if __name__ == "__main__":
    own_ranks = current_ranks()
    with process_group(own_ranks, torch.device("cpu")):
        for item, scores in score_all(own_ranks).items():
            np.savez(Path(sys.argv[1]) / f"{item}-{own_ranks.rank}.npz", **scores._asdict())
