"""`fairway calibrate`: checkpoint + train shards -> Hessian bundle."""

import click

from stages.console import Stage, params_option, seed_option


@click.command()
@seed_option
@params_option
def calibrate(seed: int, params_path: str) -> None:
    """Collect second moments of every matrix's inputs, per loop for looped blocks, on training tokens.

    Reads sections `calibrate` and `launch`, the checkpoint and the train shards; looped blocks are observed on their
    own quantized trajectory. Writes artifacts/seeds/SEED/calibrate/.
    """
    from pipeline.artifacts import path_of, save_tensors, write_json
    from pipeline.checkpoint import hessian_identity, load_checkpoint
    from pipeline.config import load_params
    from pipeline.data.batches import calibration_sequences
    from pipeline.data.shards import open_shards, shard_paths
    from pipeline.quant.loop_aware import calibrate as collect
    from pipeline.training.launch import resolve_device

    params = load_params(params_path, ["calibrate", "launch"])
    checkpoint = path_of("checkpoint", seed=seed)
    device = resolve_device(params.launch.device, 0)
    sections = {"calibrate": params.calibrate, "device": params.launch.device}
    stage = Stage("calibrate", sections, [checkpoint, path_of("manifest")], rank=0, note=f"{device}, seed {seed}")
    model = load_checkpoint(checkpoint).to(device)
    shards = open_shards(shard_paths(path_of("train_shards"), "train"), model.config.vocab_size)
    ids_NT = calibration_sequences(shards, model.config.context_tokens, params.calibrate.num_sequences)
    with stage.progress("calibrate", "batches") as progress:
        bundle = collect(model, ids_NT, params.calibrate, device, progress)
    save_tensors(path_of("hessians", seed=seed), bundle, hessian_identity(checkpoint, params.calibrate))
    report = {"tokens": ids_NT.numel(), "seconds": stage.seconds, "provenance": stage.provenance}
    write_json(path_of("calibrate_report", seed=seed), report)
    stage.summary(
        f"calibrate: seed {seed}, {ids_NT.numel():,} tokens, {params.calibrate.sweeps} sweeps",
        f"           {len(bundle)} statistics; {path_of('hessians', seed=seed)}",
    )
