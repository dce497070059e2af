"""`fairway train`: shards -> float checkpoint, report, curve, log."""

import sys
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from stages.shell.console import Stage, params_option, seal, seed_option
from stages.shell.ranks import run_on_ranks
from stages.shell.rules import check_corpus

if TYPE_CHECKING:
    import torch

    from pipeline.base.config import Params
    from pipeline.base.ranks import Ranks
    from pipeline.model.network import LoopedUNet
    from pipeline.training.journal import TrainResult
    from pipeline.training.snapshot import Snapshots


@click.command()
@seed_option
@params_option
@click.option("--dry-run", is_flag=True, help="Print the schedule and the memory of a step; train nothing.")
@click.option("--step-ms", type=float, help="Assumed milliseconds per step of a dry run; without, steps alone end it.")
@click.option("--machine", metavar="NAME", help="Machine, as 8xh100, of which a dry run projects the seconds.")
def train(seed: int, params_path: str, dry_run: bool, step_ms: float | None, machine: str | None) -> None:
    """Train the float checkpoint of one seed: Muon on matrices, AdamW on the rest.

    Reads sections `model`, `train`, `launch` and the train shards. With launch.num_processes above 1 it runs itself
    under torchrun; started by torchrun (several machines), it joins that group. Writes artifacts/seeds/SEED/train/.
    Stopped by Ctrl-C (exit code 130) or SIGTERM (143), or killed, it continues from its last snapshot when run again.
    """
    from pipeline.base.config import load_params

    if not dry_run and (step_ms, machine) != (None, None):
        raise click.UsageError("--step-ms and --machine tell a dry run how fast a machine is: add --dry-run.")
    if dry_run:
        from stages.shell.dry_run import dry_run_text

        click.echo(dry_run_text(params_path, step_ms, machine))
        return
    params = load_params(params_path, ["model", "train", "launch"])
    run_on_ranks("train", seed, params_path, params.launch, lambda ranks: _train_rank(params, seed, params_path, ranks))


def _train_rank(params: "Params", seed: int, params_path: str, ranks: "Ranks") -> None:
    import torch._dynamo  # noqa: F401 optimizers would load it later, where a signal leaves the stage's lock

    from pipeline.base.artifacts import outputs_of, path_of
    from pipeline.data.byte_count import load_byte_table
    from pipeline.data.manifest import listed_shards, open_listed
    from pipeline.launching.processes import StoppedError, resolve_device
    from pipeline.reports.training import train_report
    from pipeline.training.precision import precision_warning, resolve_precision
    from pipeline.training.run import train_from_shards

    device = resolve_device(params.launch.device, ranks.local_rank)
    precision = resolve_precision(params.train.precision, device)
    note = f"{device} x{ranks.world_size} {precision}, seed {seed}"
    sections = {**vars(params), "launch": params.launch.result_settings()}
    inputs = [path_of("manifest"), *[path_of("byte_table")] * params.model.reads_spaces]
    stage = seal("train", sections, inputs, outputs_of("train", seed=seed), ranks.rank, note, seed)
    if warning := precision_warning(params.train.precision, device):
        stage.log(warning)
    check_corpus(params_path)
    listed = listed_shards(path_of("manifest"), "train")
    shards = open_listed(listed, params.model.vocab_size, check_content=ranks.rank == 0)
    lines: list[str] = []
    snapshots = _open_snapshots(params, seed, ranks, device, precision, stage, lines)
    try:
        shown = stage.progress("train", "steps", params.train.batch_tokens, params.train.max_steps)
        with shown as progress, snapshots or nullcontext():
            model, result = train_from_shards(
                params.model,
                params.train,
                shards,
                seed,
                ranks,
                device,
                lines.append,
                progress,
                params.launch.attention,
                load_byte_table(path_of("byte_table")).leading_space_V if params.model.reads_spaces else None,
                snapshots,
            )
    except StoppedError as stop:
        stage.log(f"train: {stop}")
        sys.exit(stop.exit_code)
    if ranks.rank == 0:
        report = train_report(model, result, precision, seed, device, ranks)
        report["resumed_at_steps"] = snapshots.resumed_at_steps if snapshots else []
        report |= {"stage_seconds": stage.seconds, "provenance": stage.provenance}
        _write_outputs(model, result, seed, lines, report)
    last, ending = result.last, _ending(result, params.train.max_steps)
    if snapshots:
        snapshots.discard()
    stage.summary(
        f"train: seed {seed}, {ending}, {last['tokens']:,} tokens, loss {last['loss']:.4f} nats",
        f"       {last['tokens'] / last['seconds']:,.0f} tokens/s; {path_of('checkpoint', seed=seed)}",
    )


def _write_outputs(
    model: "LoopedUNet", result: "TrainResult", seed: int, lines: list[str], report: dict[str, Any]
) -> None:
    """Write checkpoint, log, curve and the report, which names their digests."""
    from pipeline.base.artifacts import path_of, write_json
    from pipeline.base.files import sha256_of_file, write_bytes
    from pipeline.model.checkpoint import save_checkpoint
    from pipeline.reports.training import curve_csv

    checkpoint, log = path_of("checkpoint", seed=seed), path_of("train_log", seed=seed)
    save_checkpoint(checkpoint, model, model.config, {"seed": seed, **result.regime})
    write_bytes(log, ("\n".join(lines) + "\n").encode())
    write_bytes(path_of("curve", seed=seed), curve_csv(result).encode())
    digests = {str(path): sha256_of_file(path) for path in (checkpoint, log)}
    write_json(path_of("train_report", seed=seed), {**report, "outputs_sha256": digests})


def _ending(result: "TrainResult", max_steps: int | None) -> str:
    """Return how many steps a run took, and that the clock stopped it where it did."""
    steps, limit = result.last["step"], f" of {max_steps}" if max_steps else ""
    return f"{steps} steps" if result.ended_by == "steps" else f"stopped by the clock after {steps}{limit} steps"


def _open_snapshots(
    params: "Params", seed: int, ranks: "Ranks", device: "torch.device", precision: str, stage: Stage, lines: list[str]
) -> "Snapshots | None":
    """Return the snapshots of exactly this run: equal parameters, shards, processes, device, precision and torch."""
    from pipeline.base.artifacts import STATE
    from pipeline.training.snapshot import Snapshots

    if params.launch.snapshot_seconds is None:
        return None
    launch = {**params.launch.result_settings(), "num_processes": ranks.world_size, "device": device.type}
    identity = {
        "seed": seed,
        "model": asdict(params.model),
        "train": asdict(params.train),
        "launch": launch,
        "manifest_sha256": next(iter(stage.provenance["inputs_sha256"].values()), None),
        "precision": precision,
        "torch": version("torch"),
    }
    return Snapshots(STATE / f"train-{seed}", identity, params.launch.snapshot_seconds, ranks, device, lines, stage.log)
