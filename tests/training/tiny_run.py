"""A real model, a real sampler and a real configuration at toy size; also the program that test_ranks runs on ranks.

* `python -m tests.training.tiny_run FOLDER PRECISION` trains; every rank saves its weights in the folder.
* `python -m tests.training.tiny_run --die RANK` fails on one rank.
* `python -m tests.training.tiny_run --threads FOLDER` writes how many threads each rank is told to use.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from pipeline.base.progress import Log, silent
from pipeline.base.ranks import Ranks
from pipeline.data.batches import SequenceSampler
from pipeline.launching.processes import current_ranks, process_group, resolve_device
from pipeline.model.network import build
from pipeline.training.config import TrainConfig
from pipeline.training.journal import TrainResult
from pipeline.training.loop import train
from tests.networks import TINY, changed

VOCAB_SIZE = 32
SEQUENCE_TOKENS = 16
PERIOD = 11
ALONE = Ranks(0, 0, 1)

MODEL = changed(
    TINY,
    {
        "vocab_size": VOCAB_SIZE,
        "context_tokens": SEQUENCE_TOKENS,
        "model_dim": 16,
        "embedding_dim": 16,
        "attention": {
            "num_heads": 2,
            "num_kv_heads": 1,
            "qk_gain": 1.5,
            "exclusive_blocks": [2],
            "gate": None,
            "document_bos_id": None,
        },
        "schedule": {"kind": "core", "unique_blocks": 2, "unique_order": None, "looped_blocks": 1, "num_loops": 2},
        "rope.dims": 4,
        "rope.loop_scales": [9.0, 1.0],
        "looped_mlp.mult": 2.0,
        "looped_mlp.slope": 0.5,
        "bigram.buckets": 16,
        "value_embedding.readers": [0],
        "embed_init_std": 0.005,
    },
)


def train_config(**changes: Any) -> TrainConfig:
    """Return a short run's configuration with some values changed."""
    values: dict[str, Any] = {
        "max_steps": 12,
        "max_seconds": None,
        "reserve_seconds": 0.0,
        "batch_tokens": 8 * SEQUENCE_TOKENS,
        "micro_batch_sequences": None,
        "warmup_steps": 2,
        "warmdown_frac": 0.5,
        "warmdown_steps": None,
        "min_lr_frac": 0.0,
        "matrix_lr": 0.03,
        "embed_lr": 0.035,
        "scalar_lr": 0.025,
        "muon_momentum": 0.95,
        "muon_momentum_start": 0.85,
        "muon_momentum_warmup_steps": 10,
        "newton_schulz_steps": 5,
        "newton_schulz": "classic",
        "normalize_rows": False,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.04,
        "weight_decay_end_frac": 1.0,
        "grad_clip": 0.3,
        "loop_stages": None,
        "context_stages": None,
        "all_loops_every_steps": None,
        "average": None,
        "quantization": None,
        "document_bos_id": None,
        "precision": "fp32",
        "compile": False,
        "log_every_steps": 5,
    }
    if (changes.get("max_steps") or 12) <= 2:
        values["warmdown_frac"] = None  # so short a run has no room for one
    return TrainConfig(**values | changes)


def pattern_sampler() -> SequenceSampler:
    """Return batches of a text that repeats a random pattern: every token follows from the ones before it."""
    pattern = np.random.default_rng(0).integers(0, VOCAB_SIZE, PERIOD)
    return SequenceSampler([np.tile(pattern, 100).astype(np.uint16)], SEQUENCE_TOKENS, seed=0)


def train_tiny(
    config: TrainConfig,
    model: nn.Module | None = None,
    ranks: Ranks = ALONE,
    log: Log = lambda line: None,
    **arguments: Any,
) -> tuple[nn.Module, TrainResult]:
    """Train the tiny model, a fresh one unless given, on the pattern; return it with the result."""
    model = build(MODEL, seed=ranks.rank) if model is None else model
    return model, train(
        model,
        config,
        pattern_sampler(),
        ranks,
        resolve_device("cpu", 0),
        log,
        arguments.pop("progress", silent),
        **arguments,
    )


@record
def main(arguments: list[str]) -> None:
    """Run this rank's part; see the module's docstring."""
    ranks = current_ranks()
    if arguments[0] == "--threads":
        (Path(arguments[1]) / f"rank{ranks.rank}.txt").write_text(os.environ["OMP_NUM_THREADS"])
        return
    torch.set_num_threads(1)
    if arguments[0] == "--die":
        if ranks.rank == int(arguments[1]):
            raise ValueError("the reason it died")
        return
    with process_group(ranks, torch.device("cpu")):
        model, _ = train_tiny(train_config(precision=arguments[1], max_steps=6), ranks=ranks, log=print)
        torch.save(model.state_dict(), Path(arguments[0]) / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1:])
