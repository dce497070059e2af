"""The record program: trains, calibrates, quantizes, decodes and scores in one process group, from one file.

`flatten.py` flattens this module and everything it reaches into train_gpt.py; the call of `main` with the resolved
recipe is appended there. It calls the same functions as the stages, in the same order, so that equal weights give an
equal artifact and an equal artifact gives equal scores. No rich, click, DVC or YAML is reachable from here.

Checked by: tests/stages/test_pipeline.py, and by `fairway package`, which runs the result.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.base.checks import FairwayError, require_always
from pipeline.base.files import sha256_of_file, write_bytes
from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks, from_rank_zero, share_from_rank_zero
from pipeline.calibration.calibrate import calibrate
from pipeline.calibration.mixtures import collect_mixtures
from pipeline.codec.container import read_artifact
from pipeline.codec.restore import dequantized_model
from pipeline.data.batches import calibration_sequences
from pipeline.data.byte_count import ByteTable, piece_table
from pipeline.data.shards import open_shards, shard_paths
from pipeline.data.tokenizer import load_tokenizer
from pipeline.launching.processes import current_ranks, process_group, resolve_device
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import BudgetConfig, CalibrateConfig, QuantizeConfig
from pipeline.quant.fit import fit_to_budget
from pipeline.quant.statistics import Statistics, mixture_meta
from pipeline.record.statements import count_lines, digest_line, score_line, size_lines, time_line
from pipeline.scoring.config import Protocol
from pipeline.scoring.ledger import LEDGER_COLUMNS
from pipeline.scoring.run import score_item
from pipeline.training.config import TrainConfig
from pipeline.training.run import train_from_shards


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The resolved configuration that a record carries inside."""

    seed: int
    meta: dict[str, Any]
    """What the artifact says of itself."""
    device: str
    attention: str
    model: ModelConfig
    train: TrainConfig
    calibrate: CalibrateConfig
    quantize: QuantizeConfig
    budget: BudgetConfig
    protocols: dict[str, Protocol]
    """What the artifact is scored under: one, by the name of its ledger."""
    score_name: str
    """What the line of the score is called."""
    batch_tokens: int
    """Tokens per forward pass of scoring."""
    silent_tokens: tuple[int, ...] | None
    """Markers of capitals, which stand for no byte; None where the tokenizer has none."""


def settings_digest(recipe: Recipe) -> str:
    """Return the hex sha256 of a recipe's values by field name but for the seed, which the command line may replace."""
    return hashlib.sha256(json.dumps(asdict(replace(recipe, seed=0)), sort_keys=True).encode()).hexdigest()


def seeded_digest(settings: str, seed: int) -> str:
    """Return the hex sha256 that tells runs apart: of the digest of their settings and of their seed."""
    return hashlib.sha256(f"{settings} {seed}".encode()).hexdigest()


def main(recipe: Recipe, settings: str) -> None:
    """Run the record with the seed of the command line; what a judge can resolve ends in one line and exit status 1.

    `settings`: the `settings_digest` of the recipe, of which a record may carry no more than it uses.
    """
    arguments = _parse_arguments(recipe)
    try:
        _run_record(replace(recipe, seed=arguments.seed), settings, arguments)
    except (ValueError, OSError, FairwayError) as error:
        sys.exit(f"train_gpt.py: error: {error}")


def _run_record(recipe: Recipe, settings: str, arguments: argparse.Namespace) -> None:
    """Train and compress unless `--evaluate-only` names an artifact, then score it."""
    ranks = current_ranks()
    device = resolve_device(recipe.device, ranks.local_rank)
    inputs = _open_inputs(recipe, arguments)
    if arguments.ledger:
        arguments.ledger.mkdir(parents=True, exist_ok=True)
    with process_group(ranks, device):
        artifact = arguments.evaluate_only or arguments.output
        if arguments.evaluate_only is None:
            model = _train_record(recipe, arguments, inputs.table.leading_space_V, ranks, device)
            statistics = calibrate_record(recipe, model, arguments.data, inputs.bos_id, ranks, device)
            meta = recipe.meta
            if recipe.calibrate.mixture is not None:
                meta = {**meta, **mixture_meta(statistics)}
            fit = fit_to_budget(model.cpu(), statistics, recipe.quantize, recipe.budget, meta, silent, ranks)
            if ranks.rank == 0:
                write_bytes(artifact, fit.content)
        digest = seeded_digest(settings, recipe.seed)
        _score_artifact(recipe, digest, artifact, inputs, device, arguments.ledger, ranks)


def calibrate_record(
    recipe: Recipe, model: LoopedUNet, data: Path, bos_id: int, ranks: Ranks, device: torch.device
) -> Statistics:
    """Return the calibration statistics of a trained model, the same on every rank."""
    shards = open_shards(shard_paths(data, "train"), recipe.model.vocab_size)
    ids_NT = calibration_sequences(shards, recipe.model.context_tokens, recipe.calibrate.num_sequences)
    statistics = calibrate(model, ids_NT, recipe.calibrate, ranks, device, silent)
    if recipe.calibrate.mixture is not None:
        statistics |= collect_mixtures(model, shards, bos_id, recipe.calibrate.mixture, ranks, device)
    return statistics


def _parse_arguments(recipe: Recipe) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train, compress and score this record.")
    parser.add_argument("--seed", type=int, default=recipe.seed, help="training seed")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with *train_*.bin and *val_*.bin")
    parser.add_argument("--tokenizer", type=Path, help="SentencePiece .model; default: the first in tokenizers/")
    parser.add_argument("--evaluate-only", type=Path, metavar="ARTIFACT", help="score this artifact, train nothing")
    parser.add_argument("--ledger", type=Path, help="score each val shard by itself, write nats per target here")
    parser.add_argument("--output", type=Path, default=Path("model.fwy"), help="where the trained artifact goes")
    return parser.parse_args()


def _train_record(
    recipe: Recipe, arguments: argparse.Namespace, leading_space_V: np.ndarray, ranks: Ranks, device: torch.device
) -> LoopedUNet:
    shards = open_shards(shard_paths(arguments.data, "train"), recipe.model.vocab_size, check_ids=ranks.rank == 0)
    return train_from_shards(
        recipe.model, recipe.train, shards, recipe.seed, ranks, device, say, silent, recipe.attention, leading_space_V
    )[0]


class ScoringInputs(NamedTuple):
    """What scoring reads besides the artifact."""

    paths: list[Path]
    tokens_M: np.ndarray
    table: ByteTable
    bos_id: int


def _open_inputs(recipe: Recipe, arguments: argparse.Namespace) -> ScoringInputs:
    """Open what only scoring needs, on every rank before training: a bad file must not cost a run."""
    tokenizer = arguments.tokenizer or next(iter(sorted(Path("tokenizers").glob("*.model"))), Path("tokenizer.model"))
    val_paths = shard_paths(arguments.data, "val")
    tokens_M = np.concatenate(open_shards(val_paths, recipe.model.vocab_size))
    processor = load_tokenizer(tokenizer)
    require_always(
        processor.vocab_size() == recipe.model.vocab_size,
        f"{tokenizer}: vocabulary",
        processor.vocab_size(),
        f"{recipe.model.vocab_size}, the model's",
    )
    table = piece_table(processor)
    if recipe.silent_tokens is not None:
        table.base_V[[*recipe.silent_tokens]] = 0
    return ScoringInputs([tokenizer, *val_paths], tokens_M, table, processor.bos_id())


def _score_artifact(
    recipe: Recipe,
    config_digest: str,
    artifact: Path,
    inputs: ScoringInputs,
    device: torch.device,
    folder: Path | None,
    ranks: Ranks,
) -> None:
    """Score the val stream on all ranks; rank 0, which alone reads the artifact, prints.

    With a `folder` score each val shard by itself instead, and leave the rows there.
    """
    started, tokens_M, tell = time.perf_counter(), inputs.tokens_M, say if ranks.rank == 0 else _keep_silent
    if ranks.rank == 0:
        sizes = size_lines(Path(sys.argv[0]).stat().st_size, artifact.stat().st_size)
        for line in (*sizes, *count_lines(len(tokens_M), len(tokens_M) - 1)):
            say(line)
        for path in (Path(sys.argv[0]), artifact, *inputs.paths):
            say(digest_line(sha256_of_file(path), path.name))
        say(digest_line(config_digest, "config"))
        tensors, meta = read_artifact(artifact)
        model = dequantized_model(tensors, recipe.model)
    else:
        model, meta = LoopedUNet.empty(recipe.model), None
    model.eval()
    share_from_rank_zero(model.state_dict().values(), ranks)
    ((item, protocol),) = recipe.protocols.items()
    mixtures = {} if protocol.mixture is None else from_rank_zero(meta, ranks).get("mixtures", {})
    ledgers = []
    for stream_M in [tokens_M] if folder is None else open_shards(inputs.paths[1:], recipe.model.vocab_size):
        ledger = score_item(
            model, stream_M, inputs.table, protocol, device, recipe.batch_tokens, silent, ranks, mixtures
        )
        tell(score_line(recipe.score_name, ledger.val_loss, ledger.val_bpb))
        ledgers.append(ledger)
    if folder is not None and ranks.rank == 0:
        columns: Any = {name: np.concatenate([getattr(rows, name) for rows in ledgers]) for name in LEDGER_COLUMNS}
        columns["lengths"] = [rows.num_targets for rows in ledgers]
        np.savez(folder / f"{item}.npz", protocol=json.dumps(ledgers[0].protocol), **columns)
    tell(time_line(time.perf_counter() - started))


def _keep_silent(line: str) -> None:
    """Print nothing: rank 0 speaks."""


def say(line: str) -> None:
    """Print one log line at once."""
    print(line, flush=True)
