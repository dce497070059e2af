"""The float checkpoint on disk, with its model config inside.

Checked by: tests/model/test_checkpoint.py.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base.artifacts import read_tensors, save_tensors
from pipeline.base.checks import one_line, require
from pipeline.base.config import parse_value
from pipeline.base.files import sha256_of_file
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet

LARGEST_WEIGHT = 65504.0
"""The largest float16: nothing larger passes through into an artifact, and activations would overflow long before."""
_NAMED = 3
"""So many tensors are named of each kind of misfit."""


def save_checkpoint(path: Path, model: LoopedUNet, model_config: ModelConfig, meta: Mapping[str, Any]) -> None:
    """Write a float checkpoint with its model config and `meta` inside."""
    save_tensors(path, model.state_dict(), {"model": dataclasses.asdict(model_config), **meta})


def hessian_identity(checkpoint: Path, calibrate: object) -> dict[str, Any]:
    """Return what calibration statistics belong to: the checkpoint's digest and section `calibrate`, a dataclass."""
    settings = json.loads(json.dumps(dataclasses.asdict(calibrate)))  # type: ignore  # as a file has it: no tuples
    return {"checkpoint_sha256": sha256_of_file(checkpoint), "calibrate": settings}


def load_checkpoint(path: Path) -> LoopedUNet:
    """Return the float model that `save_checkpoint` stored; ValueError when config and weights disagree."""
    state, meta = read_tensors(path)
    config = parse_value(ModelConfig, meta.get("model"), f"{path}: model")
    shapes = {name: tensor.shape for name, tensor in state.items()}
    check_shapes(config, shapes, f"{path}: weights do not fit the model config inside")
    for name, tensor in state.items():
        check_dense(name, tensor, str(path))
        check_finite(name, tensor, str(path))
    model = LoopedUNet.empty(config)
    model.load_state_dict(state)
    return model


def check_dense(name: str, tensor: Tensor, where: str) -> None:
    """Raise ValueError naming a tensor that is not dense floating point with every number in memory."""
    kind = ["nested" if tensor.is_nested else str(tensor.layout), str(tensor.dtype), tensor.device.type]
    is_plain = kind[::2] == ["torch.strided", "cpu"] and tensor.is_floating_point()
    field, expected = f"{where}: {one_line(name, 80)}", "a dense floating-point tensor"
    require(is_plain, field, " ".join(kind).replace("torch.", ""), expected)
    num_bytes, stored_bytes = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    require(num_bytes <= stored_bytes, field, f"{num_bytes} bytes that repeat {stored_bytes}", expected)


def check_finite(name: str, tensor: Tensor, where: str) -> None:
    """Raise ValueError naming a tensor that holds a number that is not finite or absurdly large."""
    largest = float(tensor.detach().float().abs().amax()) if tensor.numel() else 0.0
    require(
        largest <= LARGEST_WEIGHT,
        f"{where}: {name}",
        float(f"{largest:.4g}"),
        f"finite numbers of at most {LARGEST_WEIGHT:.0f}",
    )


def check_shapes(config: ModelConfig, shapes: Mapping[str, Sequence[int]], what: str) -> None:
    """Raise ValueError `<what>: ...` naming tensors that a network of `config` has not, or in another shape."""
    misfit = name_misfits(network_shapes(config, len(shapes), what), shapes)
    if misfit:
        raise ValueError(f"{what}: {misfit}")


def network_shapes(config: ModelConfig, num_tensors: int, what: str) -> dict[str, torch.Size]:
    """Return the shape of every tensor of a network, allocating none.

    Raises ValueError `<what>: ...` when so many tensors cannot be such a network's, or no network has such sizes.
    """
    schedule, choke = config.schedule, None if config.looped_mlp is None else config.looped_mlp.choke
    least = schedule.num_blocks
    if choke is not None:
        least += schedule.looped_blocks * schedule.num_passes * (choke.groups if choke.shape == "grouped" else 1)
    require(least <= num_tensors, f"{what}: number of tensors", num_tensors, f"at least {least} by the config")
    try:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in LoopedUNet(config).state_dict().items()}
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond what torch counts with
        raise ValueError(f"{what}: no network has the sizes of the config ({one_line(error)})") from None


def name_misfits(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> str:
    """Return the first tensors that are missing, extra or misshapen as one short line, "" when all fit."""
    missing = [f"missing {name}" for name in wanted if name not in found]
    extra = [f"extra {one_line(name, 80)}" for name in found if name not in wanted]
    misshapen = [
        f"{name} has shape {one_line(tuple(found[name]), 80)}, expected {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    parts = []
    for kind in (missing, extra, misshapen):
        parts += [*kind[:_NAMED], f"and {len(kind) - _NAMED} more"] if len(kind) > _NAMED else kind
    return "; ".join(parts)
