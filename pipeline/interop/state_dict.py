"""The state dict in a community's checkpoint file: read without running its code, taken out of what is around it.

The one idea: what can be unwrapped in one way is, and said; of anything else the line says how to do it by hand.

Checked by: tests/interop/test_interop.py
"""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pipeline.base.checks import explain_failure, one_line, require
from pipeline.base.files import require_file, unpacked_bytes
from pipeline.base.progress import Log

SUFFIXES = (".safetensors", ".pt", ".pth")
_HOLDERS = ("model", "state_dict", "model_state_dict")
"""Where scripts keep a state dict, beside optimizer, step and the like."""
_DEEPEST = 3
"""So many keys are followed: a dict may hold itself."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before names."""
_EXPECTED = (
    f"a state dict: tensors by name and nothing else, at the top or under one of {', '.join(_HOLDERS)}; "
    "torch.save(model.state_dict(), FILE) writes one"
)


def read_state_dict(path: Path, log: Log) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors`, `.pt` or `.pth` file by name; `log` is told what was unwrapped.

    Raises ValueError, one line, for a file that is absent, damaged, or not unwrapped in one way.
    """
    require_file(path, "checkpoint", SUFFIXES)
    require(path.suffix in SUFFIXES, f"checkpoint: {path}", path.suffix, f"one of {', '.join(SUFFIXES)}")
    held, around = _without_holders(_read(path), path)
    tensors, prefix = _without_prefix(_checked(held, path))
    notes = [f"the state dict lies under {around}"] if around else []
    notes += [f"the names of all {len(tensors)} tensors begin with {prefix}"] if prefix else []
    if notes:
        log(f"unwrapped: {'; '.join(notes)}")
    return tensors


def _read(path: Path) -> Any:
    """Return what a file holds; never runs code from the file."""
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_ends(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensor that `load_community` refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever the bytes make them
        call = "safetensors.torch.save_file" if path.suffix == ".safetensors" else "torch.save"
        remedy = f"expected tensors by name: fetch it anew, or write it with {call}(model.state_dict(), FILE)"
        raise ValueError(f"checkpoint: {path} is unreadable ({_torch_reason(error)}); {remedy}") from None


def _check_ends(path: Path) -> None:
    """Raise ValueError unless a file begins as those of torch.save do, and ends as an archive that is not packed."""
    with open(path, "rb") as file:
        start = file.read(24)
    is_archive = start.startswith(b"PK\3\4")
    require(is_archive or start.startswith(b"\x80"), "first bytes", start, "those of a file that torch.save writes")
    if is_archive:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is truncated: the list of its members, at its end, is missing")
        unpacked, num_bytes = unpacked_bytes(path), path.stat().st_size
        require(unpacked <= num_bytes, "unpacked size", unpacked, f"the file's, {num_bytes}, as torch.save writes")


def _torch_reason(error: Exception) -> str:
    """Return in words why a file could not be read, without torch's advice to run whatever code it holds."""
    said = str(error)
    if found := re.search(r"GLOBAL (\S+)", said):
        return f"beside tensors it holds {one_line(found[1], 80)}, whose code is not run"
    if "WeightsUnpickler error" in said or "weights_only" in said:
        return "it is damaged, or holds more than tensors"
    return explain_failure(error)


def _without_holders(held: Any, path: Path) -> tuple[Any, str]:
    """Return what lies at the end of a chain of keys that hold weights, and the chain with what lies beside it."""
    keys: list[str] = []
    beside: list[str] = []
    while isinstance(held, dict) and len(keys) < _DEEPEST:
        found = [key for key, value in held.items() if _holds_weights(key, value)]
        if not found:
            break
        if found[1:] or found[0] not in _HOLDERS:
            raise ValueError(f"checkpoint: {path}: {_by_hand(path, [*keys, found[0]], found)}")
        beside += [one_line(key, 40) for key in held if key != found[0]]
        keys, held = [*keys, found[0]], held[found[0]]
    others = f", beside {one_line(', '.join(beside))}" if beside else ""
    return held, f"{'.'.join(keys)}{others}" if keys else ""


def _holds_weights(key: object, value: object) -> bool:
    """Return whether an entry is a state dict, or is called like one: a dict with matrices in it."""
    if not isinstance(value, dict):
        return False
    is_called_so = isinstance(key, str) and key in _HOLDERS and bool(value)
    return is_called_so or any(isinstance(each, Tensor) and each.ndim > 1 for each in value.values())


def _by_hand(path: Path, keys: list[str], found: list[str]) -> str:
    """Return how to take a state dict out of a wrapper that is not unwrapped."""
    chain = "".join(f"[{one_line(repr(key), 40)}]" for key in keys)
    names = one_line(", ".join(map(repr, found)), 100)
    return (
        f"got weights under {names}, expected them under one of {', '.join(_HOLDERS)}; save those you want alone, as "
        f"in torch.save(torch.load({path.name!r}, map_location='cpu', weights_only=True){chain}, 'weights.pt')"
    )


def _checked(held: Any, path: Path) -> dict[str, Tensor]:
    """Return a dict of tensors by name; ValueError says what else was found."""
    where = f"checkpoint: {path}"
    require(isinstance(held, dict), where, one_line(type(held).__name__), _EXPECTED)
    for name, value in held.items():
        what = one_line(f"{type(value).__name__} under {name!r}", 80)
        require(isinstance(name, str) and isinstance(value, Tensor), where, what, _EXPECTED)
    return held


def _without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors without what data-parallel and compiled modules put before all names, and that."""
    prefix = ""
    while tensors and (outer := [each for each in _PREFIXES if all(n.startswith(prefix + each) for n in tensors)]):
        prefix += outer[0]
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix
