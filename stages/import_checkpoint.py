"""`fairway import`: a community checkpoint takes the place of a trained one."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stages.shell.console import ROOT, params_path_option, seal, seed_option
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

    Writes artifacts/seeds/SEED/train/ and section `model` of params.yaml, of section `package` the texts that a recipe
    says of its own model, and commits the stage to DVC: `dvc repro` then runs calibrate onwards. `dvc repro prepare`
    must have run, with the checkpoint's tokenizer.

    \b
    fairway import final_model.pt --config arguments.json --seed 444
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

    params = load_params(params_path, ["seeds", "data", "train", "launch"])
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
    path, texts = Path(params_path), _package_texts(Path(params_path), checkpoint.name, community.origin["layout"])
    with_model, params_text = _with_section(path, path.read_bytes(), "model", plain_model_section(community.config))
    with_texts, params_text = _with_section(path, params_text, "package", texts)
    _check_text(params_text)
    sections = {"model": community.config, "train": params.train, "launch": params.launch.result_settings()}
    inputs, note = [checkpoint, path_of("manifest")], f"{checkpoint}, seed {seed}"
    stage = seal("import_checkpoint", sections, inputs, outputs_of("train", seed=seed), 0, note, seed)
    for line in [*notes, *with_model, *with_texts]:
        stage.log(line)
    if params.data.source != "fineweb" and not params.data.val_files:
        stage.log(
            f"warning: what {checkpoint.name} was trained on is not known: val may hold text that it has seen, and its "
            "score then means nothing; set data.val_files to text that it cannot have seen (data.val_frac: null), or "
            "take the published shards (data.source: fineweb), run `dvc repro prepare` and import again"
        )
    report = place_checkpoint(community, seed, stage.provenance, stage.log)
    with _written_for_good(path, params_text):
        _commit_to_dvc(seed)
    stage.summary(
        f"import: seed {seed}, {report['model_params']:,} parameters, {community.config.context_tokens} tokens of "
        f"context, loss {report['final_train_loss']:.4f} nats on training tokens",
        f"        {path_of('checkpoint', seed=seed)}; `dvc repro` goes on with calibrate",
    )


def _with_section(path: Path, content: bytes, section: str, values: dict) -> tuple[list[str], bytes]:
    """Return what differs from a section of a file's `content`, a line per key, and the content with it in place."""
    from pipeline.base.config import parse_yaml
    from pipeline.recipes.recipes import value_differences, with_section

    changed = value_differences(parse_yaml(content.decode())[section], values, f"{section}.")
    if changed:
        content = with_section(content.decode(), section, values).encode()
    return [f"{path}: {change.key}: {change.before} -> {change.after}" for change in changed], content


def _package_texts(path: Path, file: str, layout: str) -> dict:
    """Return section `package` with texts of an imported model where those of a recipe, or of an import, stand."""
    from pipeline.recipes.recipes import recipe_names, recipe_path, section_values

    values, folder = section_values(path, "package"), ROOT / "recipes"
    shipped = [section_values(recipe_path(folder, name), "package") for name in recipe_names(folder)]
    texts = {
        "name": f"Imported {Path(file).stem}",
        "blurb": f"Imported weights {file} (layout {layout}), trained elsewhere; quantized and scored by Fairway.",
        "track": "non-record",
    }
    for key, text in texts.items():
        if str(values[key]).startswith("Imported ") or values[key] in [recipe[key] for recipe in shipped]:
            values[key] = text
    return values


def _check_text(content: bytes) -> None:
    """Raise ValueError, one line, unless the content of a configuration is sound."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_bytes(content)
        try:
            check_params(str(path))
        except ValueError as error:
            raise ValueError(f"{error}; section `model` would be the checkpoint's: set this, import again") from None


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
