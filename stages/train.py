"""`fairway train`: shards -> float checkpoint, report, curve, log."""

import sys
from typing import TYPE_CHECKING

import click

from pipeline.checks import FairwayError
from stages.console import Stage, params_option, seed_option

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.training.launch import Ranks


@click.command()
@seed_option
@params_option
@click.option("--dry-run", is_flag=True, help="Print the schedule as a table and train nothing.")
@click.option("--step-ms", type=float, help="Assumed milliseconds per step of a dry run; a clock budget needs it.")
def train(seed: int, params_path: str, dry_run: bool, step_ms: float | None) -> None:
    """Train the float checkpoint of one seed: Muon on matrices, AdamW on the rest.

    Reads sections `model`, `train`, `launch` and the train shards. With launch.num_processes above 1 it runs itself
    under torchrun; started by torchrun (several machines), it joins that group. Writes artifacts/seeds/SEED/train/.
    """
    from pipeline.config import load_params
    from pipeline.training.launch import current_ranks, torchrun
    from pipeline.training.schedule_table import schedule_table

    params = load_params(params_path, ["model", "train", "launch"])
    if dry_run:
        click.echo(schedule_table(params.train, params.model.schedule, None if step_ms is None else step_ms / 1000))
        return
    ranks = current_ranks()
    if ranks.world_size > 1:
        _train_under_torchrun(params, seed, ranks)
    elif params.launch.num_processes > 1:
        torchrun("stages.cli", ["train", "--seed", str(seed), "--params", params_path], params.launch.num_processes)
    else:
        _train_rank(params, seed, ranks)


def _train_under_torchrun(params: "Params", seed: int, ranks: "Ranks") -> None:
    """Run one rank; an error goes to torchrun's error file, from which the parent prints one line for all ranks."""
    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        record(_train_rank)(params, seed, ranks)
    except (ValueError, OSError, FairwayError):
        sys.exit(1)


def _train_rank(params: "Params", seed: int, ranks: "Ranks") -> None:
    from pipeline.artifacts import path_of, read_json, write_json
    from pipeline.checkpoint import save_checkpoint
    from pipeline.checks import require
    from pipeline.files import write_bytes
    from pipeline.training.launch import resolve_device
    from pipeline.training.run import curve_csv, train_from_shards, train_report

    device = resolve_device(params.launch.device, ranks.local_rank)
    note = f"{device} x{ranks.world_size}, seed {seed}"
    stage = Stage("train", vars(params), [path_of("manifest")], ranks.rank, note)
    vocab_size = read_json(path_of("manifest"))["vocab_size"]
    require(params.model.vocab_size == vocab_size, "model.vocab_size", params.model.vocab_size,
            f"{vocab_size}, the vocabulary of the prepared shards")  # fmt: skip
    lines: list[str] = []
    with stage.progress("train", "steps") as progress:
        model, result = train_from_shards(
            params.model, params.train, path_of("train_shards"), seed, ranks, device, lines.append, progress
        )
    if ranks.rank == 0:
        save_checkpoint(path_of("checkpoint", seed=seed), model, params.model, {"seed": seed, **result.regime})
        report = train_report(model, result, seed, device, ranks)
        write_json(path_of("train_report", seed=seed), {**report, "provenance": stage.provenance})
        write_bytes(path_of("curve", seed=seed), curve_csv(result).encode())
        write_bytes(path_of("train_log", seed=seed), ("\n".join(lines) + "\n").encode())
    stage.summary(
        f"train: seed {seed}, {result.steps} steps, {result.tokens:,} tokens, loss {result.final_train_loss:.4f} nats",
        f"       {result.tokens / result.seconds:,.0f} tokens/s; {path_of('checkpoint', seed=seed)}",
    )
