"""`fairway calibrate`: checkpoint + train shards -> Hessians."""

from typing import TYPE_CHECKING

import click

from stages.shell.console import params_option, seal, seed_option
from stages.shell.ranks import run_on_ranks

if TYPE_CHECKING:
    from pipeline.base.config import Params
    from pipeline.base.ranks import Ranks


@click.command()
@seed_option
@params_option
def calibrate(seed: int, params_path: str) -> None:
    """Collect second moments of every matrix's inputs, per loop for looped blocks, on training tokens.

    Where calibrate.mixture is set, also fit the constants of mixtures to the first training tokens, and say what they
    gain on the next. Reads sections `calibrate` and `launch`, the checkpoint and the train shards; with
    calibrate.sweeps the model is observed on its own quantized trajectory. With launch.num_processes above 1 it runs
    itself under torchrun, with the same result up to rounding. Writes artifacts/seeds/SEED/calibrate/.
    """
    from pipeline.base.config import load_params

    params = load_params(params_path, ["calibrate", "launch"])
    run_on_ranks("calibrate", seed, params_path, params.launch, lambda ranks: _calibrate_rank(params, seed, ranks))


def _calibrate_rank(params: "Params", seed: int, ranks: "Ranks") -> None:
    from pipeline.base.artifacts import outputs_of, path_of, save_tensors, write_json
    from pipeline.base.checks import counted
    from pipeline.base.files import sha256_of_file
    from pipeline.calibration.calibrate import calibrate as collect
    from pipeline.calibration.mixtures import collect_mixtures, mixture_gains
    from pipeline.data.batches import calibration_sequences
    from pipeline.data.manifest import listed_shards, open_listed, read_manifest
    from pipeline.launching.processes import process_group, resolve_device
    from pipeline.model.checkpoint import hessian_identity, load_checkpoint
    from pipeline.quant.statistics import check_statistics

    checkpoint, hessians = path_of("checkpoint", seed=seed), path_of("hessians", seed=seed)
    device = resolve_device(params.launch.device, ranks.local_rank)
    sections = {"calibrate": params.calibrate, "device": params.launch.device}
    note = f"{device} x{ranks.world_size}, seed {seed}"
    outputs = outputs_of("calibrate", seed=seed)
    stage = seal("calibrate", sections, [checkpoint, path_of("manifest")], outputs, ranks.rank, note, seed)
    model = load_checkpoint(checkpoint).to(device)
    shards = open_listed(
        listed_shards(path_of("manifest"), "train"), model.config.vocab_size, check_content=ranks.rank == 0
    )
    ids_NT = calibration_sequences(shards, model.config.context_tokens, params.calibrate.num_sequences)
    with stage.progress("calibrate", "batches") as progress, process_group(ranks, device):
        statistics = collect(model, ids_NT, params.calibrate, ranks, device, progress)
        gains, mixture = {}, params.calibrate.mixture
        if mixture is not None:
            stage.phase("fitting the constants of mixtures")
            bos_id = read_manifest(path_of("manifest"))["bos_id"]
            fitted = collect_mixtures(model, shards, bos_id, mixture, ranks, device)
            gains = mixture_gains(model, shards, fitted, mixture, ranks, device)
            statistics |= fitted
    if ranks.rank == 0:
        check_statistics(statistics)
        save_tensors(hessians, statistics, hessian_identity(checkpoint, params.calibrate))
        digests = {str(hessians): sha256_of_file(hessians)}
        report = {"tokens": ids_NT.numel(), "seconds": stage.seconds, "outputs_sha256": digests, "mixtures": gains}
        write_json(path_of("calibrate_report", seed=seed), {**report, "provenance": stage.provenance})
    stage.summary(
        f"calibrate: seed {seed}, {ids_NT.numel():,} tokens, {counted(params.calibrate.sweeps, 'sweep')}",
        "".join(
            f"           mixture {name}: {gain['network']:.4f} -> {gain['mixed']:.4f} nats per token of further text\n"
            for name, gain in gains.items()
        )
        + f"           {len(statistics)} statistics; {hessians}",
    )
