"""`fairway import`: a community checkpoint takes the place of a trained one."""

import subprocess
import sys
from pathlib import Path

import click

from stages.console import Stage, params_option, seed_option


@click.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--layout", help="Family of the program: crawler, crawler-pervisit or looped-unet.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), required=True,
              help="JSON of the program's constructor arguments, context_tokens optionally among them.")  # fmt: skip
@seed_option
@click.option("--drop-unread", is_flag=True, help="Leave out tensors that no forward pass reads.")
@params_option
def import_checkpoint(checkpoint: Path, layout: str | None, config_file: Path, seed: int, drop_unread: bool,
                      params_path: str) -> None:  # fmt: skip
    """Place a community CHECKPOINT (.pt or .safetensors) where training would have, so that nothing has to train.

    Writes artifacts/seeds/SEED/train/ and section `model` of params.yaml, and commits the stage to DVC: `dvc repro`
    then runs calibrate onwards. `dvc repro prepare` must have run, with the checkpoint's tokenizer.
    """
    from pipeline.artifacts import path_of, read_json
    from pipeline.checks import require
    from pipeline.config import load_params
    from pipeline.interop.adopt import place_checkpoint, plain_model_section, read_community

    params = load_params(params_path, ["seeds", "train", "launch"])
    require(seed in params.seeds, "--seed", seed, f"one of seeds in {params_path} ({list(params.seeds)})")
    vocab_size = read_json(path_of("manifest"))["vocab_size"]
    notes: list[str] = []
    community = read_community(checkpoint, layout, config_file, drop_unread, notes.append)
    require(community.config.vocab_size == vocab_size, "checkpoint: vocab_size", community.config.vocab_size,
            f"{vocab_size}, the vocabulary of the prepared shards: set data.vocab_size, model.vocab_size and "
            "data.tokenizer_model to the checkpoint's and run `dvc repro prepare`")  # fmt: skip
    changes = _write_model_section(Path(params_path), plain_model_section(community.config))
    sections = {"model": community.config, "train": params.train, "launch": params.launch.result_settings()}
    stage = Stage("import_checkpoint", sections, [checkpoint, path_of("manifest")], 0, f"{checkpoint}, seed {seed}")
    for line in [*notes, *changes]:
        stage.log(line)
    report = place_checkpoint(community, seed, stage.provenance, stage.log)
    _commit_to_dvc(seed)
    stage.summary(
        f"import: seed {seed}, {report['model_params']:,} parameters, {community.config.context_tokens} tokens of "
        f"context, loss {report['final_train_loss']:.4f} nats on training tokens",
        f"        {path_of('checkpoint', seed=seed)}; `dvc repro` goes on with calibrate",
    )


def _write_model_section(path: Path, values: dict) -> list[str]:
    """Write section `model` unless it is equal already, and return what changed, a line per key."""
    from pipeline.files import write_bytes
    from pipeline.recipes import section_values, value_differences, with_section

    changed = value_differences(section_values(path, "model"), values, "model.")
    if changed:
        write_bytes(path, with_section(path.read_text("utf-8"), "model", values).encode())
    return [f"{path}: {change.key}: {change.before} -> {change.after}" for change in changed]


def _commit_to_dvc(seed: int) -> None:
    """Tell DVC that the train stage of `seed` is up to date; ValueError with DVC's reason when it cannot be told."""
    command = [sys.executable, "-m", "dvc", "commit", "--force", f"train@{seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise ValueError(f"dvc commit -f train@{seed}: {reason}; `dvc repro` would train: fix it and import again")
