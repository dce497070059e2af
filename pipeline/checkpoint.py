"""The float checkpoint on disk, with its model config inside.

Checked by: tests/test_checkpoint.py.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_tensors, save_tensors
from pipeline.config import parse_value
from pipeline.files import sha256_of_file
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build


def save_checkpoint(path: Path, model: LoopedUNet, model_config: ModelConfig, meta: Mapping[str, Any]) -> None:
    """Write a float checkpoint with its model config and `meta` inside."""
    save_tensors(path, model.state_dict(), {"model": dataclasses.asdict(model_config), **meta})


def hessian_identity(checkpoint: Path, calibrate: object) -> dict[str, Any]:
    """Return what a Hessian bundle belongs to: the checkpoint's digest and the section `calibrate` (a dataclass)."""
    return {"checkpoint_sha256": sha256_of_file(checkpoint), "calibrate": dataclasses.asdict(calibrate)}  # type: ignore


def load_checkpoint(path: Path) -> LoopedUNet:
    """Return the float model that `save_checkpoint` stored; ValueError when config and weights disagree."""
    state, meta = read_tensors(path)
    model = build(parse_value(ModelConfig, meta.get("model"), f"{path}: model"))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path}: weights do not fit the model config inside: {first}") from None
    return model
