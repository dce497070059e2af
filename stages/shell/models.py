"""Which model a command uses: options that `sample` and `score` share."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.shell.console import log
from stages.shell.rules import check_params

if TYPE_CHECKING:
    from pipeline.inference.source import FinishedModel

tokenizer_option = click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="The model's tokenizer. Default: tokenizers/*.model beside the weights, else artifacts/data/tokenizer.model.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the model runs.",
)


def open_source(source: Path | None, tokenizer: Path | None, device: str, params_path: str) -> "FinishedModel":
    """Return the model that the options name; None: the artifact of the first seed, else its checkpoint.

    What was opened is said on stderr: the weights, the tokenizer and the device.
    """
    path = default_source(params_path) if source is None else source

    import torch

    from pipeline.base.checks import require
    from pipeline.inference.source import open_model
    from pipeline.launching.processes import resolve_device

    usable = device != "cuda" or torch.cuda.is_available()
    require(usable, "--device", device, "auto or cpu: this machine has no usable CUDA device")
    place = resolve_device(device, 0)
    opened = open_model(path, tokenizer, place)
    log(f"model {opened.weights} | {place}\ntokenizer {opened.tokenizer}")
    return opened


def default_source(params_path: str) -> Path:
    """Return the artifact of the first seed of params.yaml, else its checkpoint; ValueError when there is neither."""
    from pipeline.base.artifacts import path_of

    seed = check_params(params_path).seeds[0]
    artifact, checkpoint = path_of("model", seed=seed), path_of("checkpoint", seed=seed)
    if not artifact.exists() and not checkpoint.exists():
        raise ValueError(f"{artifact}: no such file; run `dvc repro`, or name a checkpoint, artifact or record folder")
    return artifact if artifact.exists() else checkpoint
