"""A model that is ready to be used, from whatever holds one: a float checkpoint, an artifact, a record folder.

The one idea: weights and tokenizer belong together, and nothing in a file of weights says which tokenizer it was
trained with. So the one beside the weights is taken before any other, one with another vocabulary is refused, and
whoever opens a model is told both paths.

Source: none.
Checked by: tests/inference/test_source.py.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import sentencepiece
import torch

from pipeline.base.artifacts import path_of
from pipeline.base.checks import require
from pipeline.base.files import require_file
from pipeline.codec.foreign import load_artifact_model
from pipeline.data.byte_count import ByteTable, byte_table
from pipeline.data.tokenizer import load_tokenizer
from pipeline.mixture.mixing import Mixtures
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.network import LoopedUNet

ARTIFACT, CHECKPOINT = ".fwy", ".safetensors"
_MOST_PIECES = 1 << 16
"""Tokens are 16 bits wide in shards, and wherever text is encoded."""


class FinishedModel(NamedTuple):
    """Weights and tokenizer, which belong together."""

    weights: Path
    tokenizer: Path
    model: LoopedUNet
    """In evaluation mode, on its device."""
    mixtures: Mixtures
    """Constants of counts that protocols may mix in; a checkpoint has none."""
    processor: sentencepiece.SentencePieceProcessor
    table: ByteTable


def open_model(
    source: Path, tokenizer: Path | None = None, device: torch.device | Literal["cpu", "cuda"] = "cpu"
) -> FinishedModel:
    """Return the model of a checkpoint, an artifact or a record folder, with its tokenizer (None: `tokenizer_of`).

    Raises ValueError or ArtifactError, one line, for what is missing, damaged or does not fit together.
    """
    weights = weights_of(source)
    if tokenizer is not None:
        require_file(tokenizer, "--tokenizer", [".model"])
    path = tokenizer or tokenizer_of(weights)
    model, mixtures = (load_checkpoint(weights), {}) if weights.suffix == CHECKPOINT else load_artifact_model(weights)
    processor = load_tokenizer(path)
    pieces, expected = processor.vocab_size(), min(model.config.vocab_size, _MOST_PIECES)
    remedy = f"{expected}, as {weights} has: name the tokenizer that it was trained with by --tokenizer"
    require(pieces == expected, f"{path}: pieces", pieces, remedy)
    require(processor.bos_id() >= 0, f"{path}: BOS", "no such piece", "one, with which documents begin")
    return FinishedModel(weights, path, model.to(device).eval(), mixtures, processor, byte_table(processor))


def weights_of(source: Path) -> Path:
    """Return the file of weights that `source` is or, for a record folder, its artifact of the first seed."""
    if not source.is_dir():
        require_file(source, "SOURCE", [ARTIFACT, CHECKPOINT])
        expected = f"a {ARTIFACT} or {CHECKPOINT} file or a record folder; `fairway import` takes other checkpoints"
        require(source.suffix in (ARTIFACT, CHECKPOINT), "SOURCE", str(source), expected)
        return source
    named = [(_seed_of(path), path) for path in source.glob("model*.fwy") if path.is_file()]
    found = {seed: path for seed, path in named if seed is not None}
    if not found:
        raise ValueError(
            f"SOURCE: {source}/ holds neither model.fwy nor model_seedN.fwy, expected a record folder of this project "
            "or a file of weights"
        )
    return found[min(found)]


def tokenizer_of(weights: Path) -> Path:
    """Return the tokenizer in `tokenizers/` beside the weights, else that of the prepared data.

    Raises ValueError when there is none, or more than one beside the weights.
    """
    beside, prepared = sorted((weights.parent / "tokenizers").glob("*.model")), path_of("tokenizer")
    names = [path.name for path in beside]
    require(len(beside) <= 1, f"{weights.parent}/tokenizers", names, "one .model file: choose it with --tokenizer")
    if not beside and not prepared.exists():
        raise ValueError(
            f"{prepared}: no such file, nor tokenizers/ beside {weights}; name the model's tokenizer by --tokenizer, "
            "or run `dvc repro`"
        )
    return beside[0] if beside else prepared


def _seed_of(path: Path) -> tuple[int, int] | None:
    """Return an order of a record's artifacts by their names, None for another file's."""
    if path.name == "model.fwy":
        return 0, 0
    seed = re.fullmatch(r"model_seed(\d{1,19})\.fwy", path.name)
    return (1, int(seed[1])) if seed else None
