"""What `benchmarks.quantization` measures on: a float checkpoint, training text to calibrate on, text to score.

The one idea: nothing that is scored was seen. A finished run has all three in its `artifacts`; its val is scored. The
recorded figures are of a folder DATA with a checkpoint, a tokenizer and a sample of documents, named below, on whose
first documents checkpoints were trained; the rest are scored. Training documents are split by content hash into those
that calibration draws from and those kept for choosing exponents and the like, which no measurement here reads. Seeds
are disjoint draws of calibration sequences.

Axes: N calibration sequences, T position, M tokens of the scored stream, D documents.
"""

import argparse
import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from benchmarks.results import ROOT
from pipeline.base.artifacts import TABLE
from pipeline.base.checks import require
from pipeline.base.files import sha256_of_file
from pipeline.corpus.corpora import text_digest
from pipeline.corpus.encoding import encode_documents
from pipeline.corpus.prepare import split_of
from pipeline.data.batches import calibration_sequences
from pipeline.data.byte_count import ByteTable, byte_table, count_bytes
from pipeline.data.manifest import listed_shards, open_listed, read_manifest
from pipeline.data.tokenizer import load_tokenizer
from pipeline.interop.adopt import read_community
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.network import LoopedUNet, build

DOCUMENTS = "fineweb_docs.jsonl"
TOKENIZER = "fineweb_1024_bpe.model"
NUM_DRAWS = 2
CALIBRATION_TOKENS = 65536
_TRAINED_DOCUMENTS = 160
_KEPT_FRAC = 0.2
"""Share of the training documents that calibration leaves to the choice of settings."""


class Family(NamedTuple):
    """A checkpoint of one layout, imported like anybody's."""

    checkpoint: Path
    """In the folder DATA, unless absolute; its JSON lies beside it."""
    result: str
    """Name of the file that keeps what was measured, and of the plot."""
    remedy: str
    """What makes the checkpoint."""


FAMILIES = {
    "crawler": Family(
        Path("checkpoint_4f1c_d256.safetensors"),
        "quantization",
        "a file of DATA; to measure a run of your own, `dvc repro` and name its `artifacts`",
    ),
    "looped-unet": Family(
        ROOT / "artifacts" / "bench" / "looped_unet_d256.safetensors",
        "quantization_looped_unet",
        "the file that `python -m benchmarks.quantization.second_checkpoint DATA` makes",
    ),
}
"""Layout -> its checkpoint; the second is of our own training."""


class ScoredStream(NamedTuple):
    """Whole documents, BOS before each, as one stream; target j is token j + 1."""

    tokens_M: np.ndarray
    bytes_N: np.ndarray
    """Bytes of each target."""
    document_N: np.ndarray
    """Document of each target; a BOS belongs to the document that it opens."""
    context_tokens: int

    def document_bytes(self) -> np.ndarray:
        """Return the bytes of each document, (D,)."""
        return np.bincount(self.document_N, self.bytes_N)


class Material(NamedTuple):
    """All that a measurement starts from."""

    family: str
    """One of `FAMILIES`, or a name of a run's own."""
    model: LoopedUNet
    draws: tuple[Tensor, ...]
    """Calibration ids (N, T) int64, one tensor per seed, disjoint."""
    scored: ScoredStream


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names what is measured on."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        type=Path,
        default=ROOT / "artifacts",
        help="`artifacts` of a finished run (default: this checkout's), or the folder of the recorded figures: "
        f"{FAMILIES['crawler'].checkpoint} with its .json, {TOKENIZER} and {DOCUMENTS}",
    )


def read_sample(folder: Path) -> tuple[list[str], list[str]]:
    """Return the documents that checkpoints are trained on, and those held out."""
    texts = [json.loads(line)["text"] for line in (folder / DOCUMENTS).read_text("utf-8").splitlines()]
    return texts[:_TRAINED_DOCUMENTS], texts[_TRAINED_DOCUMENTS:]


def load_material(folder: Path, family: str = "crawler") -> Material:
    """Read a finished run's `artifacts`, or tokenizer and documents in `folder` and the checkpoint of a family.

    ValueError, one line, when the checkpoint is missing.
    """
    checkpoint = checkpoint_of(folder, family)
    if is_run(folder):
        return run_material(folder, checkpoint)
    community = read_community(checkpoint, family, checkpoint.with_suffix(".json"), False, print)
    model = build(community.config).eval()
    model.load_state_dict(community.state)
    context_tokens = community.config.context_tokens
    processor = load_tokenizer(folder / TOKENIZER)
    table = byte_table(processor)
    trained, held_out = read_sample(folder)
    seen = {text_digest(text) for text in trained}
    require(
        not any(text_digest(text) in seen for text in held_out), "documents", "a held-out document trained on", "none"
    )
    pool = [text for text in trained if split_of(text_digest(text), _KEPT_FRAC) == "train"]
    num_sequences = CALIBRATION_TOKENS // context_tokens
    ids_NT = calibration_sequences(
        [encode_documents(processor, table, pool).tokens_M], context_tokens, NUM_DRAWS * num_sequences
    )
    documents = [encode_documents(processor, table, [text]).tokens_M for text in held_out]
    draws = tuple(ids_NT[draw::NUM_DRAWS] for draw in range(NUM_DRAWS))
    return Material(family, model, draws, scored_stream(documents, table, context_tokens))


def checkpoint_of(folder: Path, family: str = "crawler") -> Path:
    """Return the checkpoint of a family, or of a run's first seed; ValueError, one line, when it is missing."""
    if is_run(folder):
        checkpoints = sorted(folder.glob(TABLE["checkpoint"].path.format(seed="*")))
        require(checkpoints != [], "checkpoint", f"none in {folder / 'seeds'}", "one; run `dvc repro`")
        return checkpoints[0]
    checkpoint = folder / FAMILIES[family].checkpoint
    require(checkpoint.is_file(), "checkpoint", str(checkpoint), FAMILIES[family].remedy)
    return checkpoint


def exit_without_checkpoint(folder: Path) -> None:
    """End the program with one line where there is nothing to measure."""
    try:
        checkpoint_of(folder)
    except ValueError as error:
        raise SystemExit(str(error)) from None


def is_run(folder: Path) -> bool:
    """Return whether a folder is the `artifacts` of a run."""
    return (folder / TABLE["manifest"].path).is_file()


def run_material(artifacts: Path, checkpoint: Path) -> Material:
    """Return the checkpoint of a finished run with the run's own text: train to calibrate on, val to score."""
    model = load_checkpoint(checkpoint).eval()
    context_tokens, train_M = model.config.context_tokens, run_tokens(artifacts, "train")
    num_sequences = min(CALIBRATION_TOKENS, train_M.size // NUM_DRAWS) // context_tokens
    ids_NT = calibration_sequences([train_M], context_tokens, NUM_DRAWS * num_sequences)
    processor, tokens_M = load_tokenizer(artifacts / TABLE["tokenizer"].path), run_tokens(artifacts, "val")
    documents = np.split(tokens_M, np.flatnonzero(tokens_M == processor.bos_id())[1:])
    return Material(
        f"run-{sha256_of_file(checkpoint)[:12]}",
        model,
        tuple(ids_NT[draw::NUM_DRAWS] for draw in range(NUM_DRAWS)),
        scored_stream(documents, byte_table(processor), context_tokens),
    )


def run_tokens(artifacts: Path, split: Literal["train", "val"]) -> np.ndarray:
    """Return the stream of a split of a finished run, uint16 (M,)."""
    manifest = artifacts / TABLE["manifest"].path
    return np.concatenate(open_listed(listed_shards(manifest, split), read_manifest(manifest)["vocab_size"]))


def scored_stream(documents: list[np.ndarray], table: ByteTable, context_tokens: int) -> ScoredStream:
    """Return the stream of `documents`: the tokens of each, BOS first."""
    tokens_M = np.concatenate(documents)
    document_M = np.repeat(np.arange(len(documents)), [len(tokens) for tokens in documents])
    return ScoredStream(tokens_M, count_bytes(tokens_M, table), document_M[1:], context_tokens)
