"""A tiny model with the toy tokenizer, opened, for the tests of this room."""

from pathlib import Path

import torch

from pipeline.inference.source import FinishedModel, open_model
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.network import LoopedUNet
from tests.networks import TINY, changed, randomised

CONFIG = changed(TINY, {"vocab_size": 512})


def random_model(seed: int = 0) -> LoopedUNet:
    """Return a network of 512 pieces in which every parameter matters, sure of little."""
    return randomised(CONFIG, seed).eval()


def opened(folder: Path, tokenizer: Path) -> FinishedModel:
    """Return a random checkpoint, written to a folder and opened with a tokenizer of 512 pieces."""
    path = folder / "checkpoint.safetensors"
    save_checkpoint(path, random_model(), CONFIG, {})
    return open_model(path, tokenizer, torch.device("cpu"))
