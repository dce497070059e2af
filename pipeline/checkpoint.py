"""The float checkpoint on disk, with its model config inside.

Checked by: tests/test_checkpoint.py.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_tensors, save_tensors
from pipeline.config import parse_value
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build


def save_checkpoint(path: Path, model: LoopedUNet, model_config: ModelConfig, meta: Mapping[str, Any]) -> None:
    """Write a float checkpoint with its model config and `meta` inside."""
    save_tensors(path, model.state_dict(), {"model": dataclasses.asdict(model_config), **meta})


def load_checkpoint(path: Path) -> LoopedUNet:
    """Return the float model that `save_checkpoint` stored; ValueError when config and weights disagree."""
    state, meta = read_tensors(path)
    model = build(parse_value(ModelConfig, meta.get("model"), f"{path}: model"))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit the model config inside: {error}") from None
    return model
