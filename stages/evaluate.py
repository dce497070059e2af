"""`fairway evaluate`: artifact (or float checkpoint) + val shards -> scores, ledger."""

from typing import TYPE_CHECKING

import click

from stages.shell.console import params_option, seal, seed_option
from stages.shell.ranks import run_on_ranks
from stages.shell.rules import check_corpus

if TYPE_CHECKING:
    from pipeline.base.config import Params
    from pipeline.base.ranks import Ranks


@click.command()
@seed_option
@click.option("--item", required=True, help="An entry of evaluate.protocols; `float` scores the float checkpoint.")
@params_option
def evaluate(seed: int, item: str, params_path: str) -> None:
    """Score the artifact, read back from disk, under one protocol.

    Reads sections `evaluate` and `launch`, the artifact (item `float`: the checkpoint), the val shards and the byte
    table. A protocol without context_tokens, null, has the model's. With launch.num_processes above 1 it runs itself
    under torchrun, with the same result. Stops early when it cannot end within evaluate.limit_seconds. Writes
    artifacts/seeds/SEED/evaluate/scores-ITEM.json and ledger-ITEM.npz.
    """
    from pipeline.base.checks import require
    from pipeline.base.config import load_params

    params = load_params(params_path, ["evaluate", "launch", "model"])
    require(item in params.evaluate.protocols, "--item", item, f"one of {', '.join(params.evaluate.protocols)}")
    run_on_ranks(
        "evaluate",
        seed,
        params_path,
        params.launch,
        lambda ranks: _evaluate_rank(params, seed, item, params_path, ranks),
        ["--item", item],
    )


def _evaluate_rank(params: "Params", seed: int, item: str, params_path: str, ranks: "Ranks") -> None:
    import numpy as np

    from pipeline.base.artifacts import outputs_of, path_of, write_json
    from pipeline.base.checks import require
    from pipeline.codec.foreign import load_artifact_model
    from pipeline.codec.sections import ArtifactError
    from pipeline.data.byte_count import load_byte_table
    from pipeline.data.manifest import listed_shards, open_listed, read_manifest
    from pipeline.launching.processes import process_group, resolve_device
    from pipeline.model.checkpoint import load_checkpoint
    from pipeline.scoring.clock import ScoringClock
    from pipeline.scoring.ledger import save_ledger
    from pipeline.scoring.report import score_report
    from pipeline.scoring.run import score_item

    protocol = params.evaluate.protocols[item]
    weights = path_of("checkpoint" if item == "float" else "model", seed=seed)
    device = resolve_device(params.launch.device, ranks.local_rank)
    note = f"{item}, {device} x{ranks.world_size}, seed {seed}"
    inputs = [weights, path_of("byte_table"), path_of("manifest")]
    outputs = outputs_of("evaluate", seed=seed, item=item)
    stage = seal("evaluate", {"protocol": protocol}, inputs, outputs, ranks.rank, note, seed, item)
    check_corpus(params_path)
    try:
        model, mixtures = (load_checkpoint(weights), {}) if item == "float" else load_artifact_model(weights)
    except ArtifactError as error:
        raise ValueError(f"{error}; run `dvc repro`") from None
    context, wanted = model.config.context_tokens, params.model.context_tokens  # wanted: of protocols too
    require(context == wanted, "model.context_tokens", wanted, f"{context}, as in {weights}; run `dvc repro`")
    decoded = stage.seconds
    shards = open_listed(
        listed_shards(path_of("manifest"), "val"), model.config.vocab_size, check_content=ranks.rank == 0
    )
    tokens_M = np.concatenate(shards)
    table, manifest = load_byte_table(path_of("byte_table")), read_manifest(path_of("manifest"))
    loaded = stage.seconds
    with stage.progress(f"evaluate {item}", "targets") as progress, process_group(ranks, device):
        clock = ScoringClock(params.evaluate.limit_seconds if ranks.rank == 0 else None, loaded, progress)
        size = params.evaluate.batch_tokens
        ledger = score_item(model, tokens_M, table, protocol, device, size, clock, ranks, mixtures)
    phases = {"decode": decoded, "load": loaded - decoded, **clock.seconds()}
    report = score_report(item, ledger, tokens_M, manifest)
    scores_path = path_of("scores", seed=seed, item=item)
    run = {"num_processes": ranks.world_size, "seconds": {**phases, "total": stage.seconds}}
    if ranks.rank == 0:
        save_ledger(path_of("ledger", seed=seed, item=item), ledger)
        write_json(scores_path, {**report, **run, "provenance": stage.provenance})
    stage.summary(
        f"evaluate: seed {seed}, {item}: {ledger.val_bpb:.4f} bpb, {ledger.val_loss:.4f} nats per token",
        f"          {len(tokens_M) - 1:,} targets, {ledger.total_bytes:,} bytes; {scores_path}",
    )
