"""`fairway evaluate`: artifact (or float checkpoint) + val shards -> scores, ledger."""

import click

from stages.console import Stage, params_option, seed_option


@click.command()
@seed_option
@click.option("--item", required=True, help="An entry of evaluate.protocols; `float` scores the float checkpoint.")
@params_option
def evaluate(seed: int, item: str, params_path: str) -> None:
    """Score the artifact, read back from disk, under one protocol.

    Reads sections `evaluate` and `launch`, the artifact (item `float`: the checkpoint), the val shards and the byte
    table. Writes artifacts/seeds/SEED/evaluate/scores-ITEM.json and ledger-ITEM.npz.
    """
    import dataclasses

    import numpy as np

    from pipeline.artifacts import path_of, write_json
    from pipeline.checkpoint import load_checkpoint
    from pipeline.checks import require
    from pipeline.config import load_params
    from pipeline.data.byte_count import load_byte_table
    from pipeline.data.shards import open_shards, shard_paths
    from pipeline.quant.artifact_model import load_artifact_model
    from pipeline.scoring.ledger import save_ledger
    from pipeline.scoring.run import score_item
    from pipeline.training.launch import resolve_device

    params = load_params(params_path, ["evaluate", "launch"])
    require(item in params.evaluate.protocols, "--item", item, f"one of {', '.join(params.evaluate.protocols)}")
    protocol = params.evaluate.protocols[item]
    weights = path_of("checkpoint" if item == "float" else "model", seed=seed)
    device = resolve_device(params.launch.device, 0)
    note = f"{item}, {device}, seed {seed}"
    stage = Stage(
        "evaluate", {"protocol": protocol}, [weights, path_of("byte_table"), path_of("manifest")], rank=0, note=note
    )
    model = load_checkpoint(weights) if item == "float" else load_artifact_model(weights)
    tokens_M = np.concatenate(open_shards(shard_paths(path_of("val_shards"), "val"), model.config.vocab_size))
    table = load_byte_table(path_of("byte_table"))
    with stage.progress(f"evaluate {item}", "targets") as progress:
        ledger = score_item(model, tokens_M, table, protocol, device, params.evaluate.batch_tokens, progress)
    scores = {
        "item": item,
        "weights": "float" if item == "float" else "artifact",
        "protocol": dataclasses.asdict(protocol),
        "val_loss": ledger.val_loss,
        "val_bpb": ledger.val_bpb,
        "nats": ledger.total_nats,
        "bytes": ledger.total_bytes,
        "targets": len(tokens_M) - 1,
        "tokens": len(tokens_M),
        "seconds": stage.seconds,
        "provenance": stage.provenance,
    }
    scores_path = path_of("scores", seed=seed, item=item)
    save_ledger(path_of("ledger", seed=seed, item=item), ledger)
    write_json(scores_path, scores)
    stage.summary(
        f"evaluate: seed {seed}, {item}: {ledger.val_bpb:.4f} bpb, {ledger.val_loss:.4f} nats per token",
        f"          {len(tokens_M) - 1:,} targets, {ledger.total_bytes:,} bytes; {scores_path}",
    )
