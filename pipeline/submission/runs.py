"""What the stages of one seed left behind, read back for the record.

Checked by: tests/submission/test_runs.py.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.artifacts import path_of, read_json
from pipeline.codec.container import read_artifact
from pipeline.model.config import ModelConfig
from pipeline.progress import Log
from pipeline.submission.log_lines import artifact_score_lines
from pipeline.submission.prove import prove
from pipeline.submission.record import SeedRun, artifact_name

PROOF_TIMEOUT_SECONDS = 3600.0
"""Longest time that rescoring one seed may take."""


def read_run(seed: int, items: Sequence[str]) -> SeedRun:
    """Return the reports, scores (of `float` and every item, in order), artifact and training log of one seed."""
    return SeedRun(
        seed=seed,
        artifact=path_of("model", seed=seed),
        train=read_json(path_of("train_report", seed=seed)),
        calibrate=read_json(path_of("calibrate_report", seed=seed)),
        quantize=read_json(path_of("quantize_report", seed=seed)),
        scores={item: read_json(path_of("scores", seed=seed, item=item)) for item in ("float", *items)},
        log=path_of("train_log", seed=seed).read_text(),
    )


def check_model_config(artifact: Path, config: ModelConfig) -> None:
    """Raise ValueError naming the first key in which an artifact's model differs from section `model`."""
    _, meta = read_artifact(artifact)
    for key, wanted in dataclasses.asdict(config).items():
        found = meta.get("model", {}).get(key)
        found = tuple(found) if isinstance(found, list) else found
        if found != wanted:
            raise ValueError(f"model.{key}: got {wanted!r}, expected {found!r} as in {artifact}; run `dvc repro` first")


def prove_runs(folder: Path, runs: Sequence[SeedRun], data_dir: Path, tokenizer: Path, log: Log) -> None:
    """Rescore every seed's artifact with the shipped program; raises ProofError when a score differs in any digit.

    The fresh process gets as many threads as this one: a sum split over more threads rounds differently.
    """
    for run in runs:
        prove(
            folder, data_dir, tokenizer, artifact_name(runs, run.seed), artifact_score_lines(list(run.scores.values())),
            timeout_seconds=PROOF_TIMEOUT_SECONDS, environment={"OMP_NUM_THREADS": str(torch.get_num_threads())},
            log=log,
        )  # fmt: skip
