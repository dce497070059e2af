"""What the stages of one seed left behind, read back for the record.

Checked by: tests/stages/test_pipeline.py.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipeline.base.artifacts import STATE, params_digest, path_of, read_json, read_text, write_json
from pipeline.base.config import Params
from pipeline.base.files import sha256_of_file
from pipeline.base.progress import Log
from pipeline.codec.container import read_artifact
from pipeline.codec.sections import ArtifactError
from pipeline.model.config import ModelConfig
from pipeline.record.prove import prove
from pipeline.record.record import SeedRun, artifact_name
from pipeline.record.statements import artifact_score_lines


def read_run(seed: int, headline: str) -> SeedRun:
    """Return the reports, scores (of `float` and the headline), artifact and training log of one seed.

    Raises ValueError for files that are absent, damaged, or not those that their report names.
    """
    train, train_log = read_json(path_of("train_report", seed=seed)), path_of("train_log", seed=seed)
    log = read_text(train_log)
    if train.get("outputs_sha256", {}).get(str(train_log)) != sha256_of_file(train_log):
        raise ValueError(f"{train_log}: not the file that train's report names; run `dvc repro`")
    return SeedRun(
        seed=seed,
        artifact=path_of("model", seed=seed),
        train=train,
        calibrate=read_json(path_of("calibrate_report", seed=seed)),
        quantize=read_json(path_of("quantize_report", seed=seed)),
        scores={item: read_json(path_of("scores", seed=seed, item=item)) for item in ("float", headline)},
        log=log,
    )


def check_model_config(artifact: Path, config: ModelConfig) -> None:
    """Raise ValueError naming the first key in which an artifact's model differs from section `model`."""
    try:
        _, meta = read_artifact(artifact)
    except ArtifactError as error:
        raise ValueError(f"{error}; run `dvc repro`") from None
    plain = json.loads(json.dumps(dataclasses.asdict(config)))  # as the artifact stores it: lists, no tuples
    for key, wanted in plain.items():
        found = meta.get("model", {}).get(key)
        if found != wanted:
            raise ValueError(f"model.{key}: got {wanted!r}, expected {found!r} as in {artifact}; run `dvc repro` first")


def check_settings(run: SeedRun, params: Params) -> None:
    """Raise ValueError naming the first stage of a seed whose report was made under other sections than `params`.

    The sections are those each stage puts into its provenance.
    """
    reports: list[tuple[str, dict, dict[str, object]]] = [
        ("train", run.train, {"model": params.model, "train": params.train, "launch": params.launch.result_settings()}),
        ("calibrate", run.calibrate, {"calibrate": params.calibrate, "device": params.launch.device}),
        ("quantize", run.quantize, {"quantize": params.quantize, "budget": params.budget}),
    ]
    for item, score in run.scores.items():
        reports.append((f"evaluate, item {item}", score, {"protocol": params.evaluate.protocols[item]}))
    for stage, report, sections in reports:
        if report.get("provenance", {}).get("params_sha256") != params_digest(sections):
            raise ValueError(f"report of {stage}, seed {run.seed}: made with other settings; run `dvc repro`")


def prove_runs(
    folder: Path,
    runs: Sequence[SeedRun],
    data_dir: Path,
    tokenizer: Path,
    environment: Mapping[str, str],
    log: Log,
    phase: Log,
) -> None:
    """Rescore every seed's artifact with the shipped program; raises ProofError when a score or digest differs.

    The digests are those its log in the folder states: code, artifact, tokenizer, val shards, config. The fresh process
    gets `environment` and as many threads as this one: a sum split over more threads rounds differently. What this
    checkout proved before, with the same digests, scores, variables (but PATH) and requirements, is not proven again.
    `phase` hears which seed it is, `log` what the program prints.
    """
    environment = {**environment, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for number, run in enumerate(runs, 1):
        log_text = (folder / f"train_seed{run.seed}.log").read_text("utf-8")
        digests = [line for line in log_text.splitlines() if line.startswith("sha256 ")]
        expected = digests + artifact_score_lines(list(run.scores.values()))
        kernels = {name: value for name, value in environment.items() if name != "PATH"}
        proof = {
            "lines": expected,
            "seed": run.seed,
            "environment": kernels,
            "python": sys.version,
            "requirements": (folder / "requirements.txt").read_text("utf-8"),
        }
        receipt = STATE / "proofs" / f"{params_digest(proof)}.json"
        which = f"seed {run.seed} ({number} of {len(runs)})"
        if receipt.exists():
            phase(f"{which} was proven before ({receipt.parent})")
            continue
        phase(f"proving {which}: train_gpt.py scores its artifact")
        prove(
            folder,
            data_dir,
            tokenizer,
            artifact_name(runs, run.seed),
            expected,
            seed=run.seed,
            environment=environment,
            log=log,
        )
        write_json(receipt, proof)
