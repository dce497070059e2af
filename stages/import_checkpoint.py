"""`fairway import`: a community checkpoint takes the place of a trained one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stages.shell.console import params_path_option, seal, seed_option
from stages.shell.rules import check_params


@click.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--layout", help="Family of the program: crawler, crawler-pervisit or looped-unet. Default: what --config says."
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON of the program's constructor arguments, context_tokens optionally among them.",
)
@seed_option
@click.option("--drop-unread", is_flag=True, help="Leave out tensors that no forward pass reads.")
@params_path_option
def import_checkpoint(
    checkpoint: Path, layout: str | None, config_file: Path, seed: int, drop_unread: bool, params_path: str
) -> None:
    """Place a community CHECKPOINT (.pt or .safetensors) where training would have, so that nothing has to train.

    Writes artifacts/seeds/SEED/train/ and section `model` of params.yaml, and commits the stage to DVC: `dvc repro`
    then runs calibrate onwards. `dvc repro prepare` must have run, with the checkpoint's tokenizer.
    """
    from pipeline.base.artifacts import outputs_of, path_of
    from pipeline.base.checks import require
    from pipeline.base.config import load_params
    from pipeline.base.files import require_file

    require_file(checkpoint, "checkpoint", [".safetensors", ".pt", ".pth"])
    require_file(config_file, "--config", [".json"])
    check_params(params_path)

    from pipeline.data.manifest import read_manifest
    from pipeline.interop.adopt import place_checkpoint, plain_model_section, read_community

    params = load_params(params_path, ["seeds", "train", "launch"])
    require(seed in params.seeds, "--seed", seed, f"one of seeds in {params_path} ({list(params.seeds)})")
    vocab_size = read_manifest(path_of("manifest"))["vocab_size"]
    notes: list[str] = []
    community = read_community(checkpoint, layout, config_file, drop_unread, notes.append)
    require(
        community.config.vocab_size == vocab_size,
        "checkpoint: vocab_size",
        community.config.vocab_size,
        f"{vocab_size}, the vocabulary of the prepared shards: set data.vocab_size, model.vocab_size and "
        "data.tokenizer_model to the checkpoint's and run `dvc repro prepare`",
    )
    changes, params_text = _with_model_section(Path(params_path), plain_model_section(community.config))
    sections = {"model": community.config, "train": params.train, "launch": params.launch.result_settings()}
    inputs, note = [checkpoint, path_of("manifest")], f"{checkpoint}, seed {seed}"
    stage = seal("import_checkpoint", sections, inputs, outputs_of("train", seed=seed), 0, note, seed)
    for line in [*notes, *changes]:
        stage.log(line)
    report = place_checkpoint(community, seed, stage.provenance, stage.log)
    with _written_for_good(Path(params_path), params_text):
        _commit_to_dvc(seed)
    stage.summary(
        f"import: seed {seed}, {report['model_params']:,} parameters, {community.config.context_tokens} tokens of "
        f"context, loss {report['final_train_loss']:.4f} nats on training tokens",
        f"        {path_of('checkpoint', seed=seed)}; `dvc repro` goes on with calibrate",
    )


def _with_model_section(path: Path, values: dict) -> tuple[list[str], bytes]:
    """Return what differs from section `model` of the file, a line per key, and the file with the section in place."""
    from pipeline.recipes.recipes import section_values, value_differences, with_section

    content = path.read_bytes()
    changed = value_differences(section_values(path, "model"), values, "model.")
    if changed:
        content = with_section(content.decode(), "model", values).encode()
    return [f"{path}: {change.key}: {change.before} -> {change.after}" for change in changed], content


@contextmanager
def _written_for_good(path: Path, content: bytes) -> Iterator[None]:
    """Write `content` to a file, and what was there before when the body fails."""
    from pipeline.base.files import write_bytes

    before = path.read_bytes()
    if content != before:
        write_bytes(path, content)
    try:
        yield
    except BaseException:
        if content != before:
            write_bytes(path, before)
        raise


def _commit_to_dvc(seed: int) -> None:
    """Tell DVC that the train stage of `seed` is up to date; ValueError with DVC's reason when it cannot be told."""
    command = [sys.executable, "-m", "dvc", "commit", "--force", f"train@{seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise ValueError(f"dvc commit -f train@{seed}: {reason}; `dvc repro` would train: fix it and import again")
