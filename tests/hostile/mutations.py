"""Structure-aware damage: valid content with bytes, JSON values or tensors replaced by what no writer would write."""

import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

_WHOLE = (0, 1, -1, 2, 3, 255, 256, 65536, 65537, 2**31 - 1, 2**31, 2**63, -(2**63), 10**26, 10**30, 10**400)
_BROKEN = (0.0, -0.0, 0.5, -0.5, 1e-300, 1e300, float("inf"), -float("inf"), float("nan"))
_TEXTS = ("", "x", "a" * 9, "444", "null", "size", "x" * 3000, "\u2581", "\0", "\ud800")
_LISTS: tuple[list, ...] = ([], [[]], [None], [0, 0], [-1], [0] * 9, list(range(300)), [[[[1]]]])
_MAPPINGS: tuple[dict, ...] = (
    {},
    {"kind": "core"},
    {"kind": "blocks"},
    {"size": 1},
    {"": 1},
    {"kind": None},
    {"kind": []},
)
ODD_VALUES = (None, True, False, *_WHOLE, *_BROKEN, *_TEXTS, *_LISTS, *_MAPPINGS)


def damaged_bytes(content: bytes, choose: random.Random) -> bytes:
    """Return `content` with bits flipped, a part overwritten, cut out or repeated, or its end missing."""
    kind, at = choose.randrange(4), choose.randrange(len(content) or 1)
    length = choose.choice((1, 2, 4, 8, 100))
    if kind == 0:
        return content[:at]
    middle = {1: bytes(choose.choices(range(256), k=length)), 2: b"", 3: content[at : at + length] * 2}[kind]
    return content[:at] + middle + content[at + length :]


def damaged_value(value: object, choose: random.Random) -> object:
    """Return plain data with one value somewhere inside replaced, a key dropped, renamed or added, entries repeated."""
    if isinstance(value, dict) and value and choose.random() < 0.85:
        key = choose.choice(list(value))
        rest = {name: each for name, each in value.items() if name != key}
        action = choose.random()
        if action < 0.1:
            return rest
        if action < 0.15:
            return {**rest, choose.choice((f"{key}_", "size", "nfiles", "", "a b", "x" * 2000, "../x")): value[key]}
        if action < 0.2:
            return {**value, choose.choice((key, "added")): choose.choice((*ODD_VALUES, *value.values()))}
        return {**value, key: damaged_value(value[key], choose)}
    if isinstance(value, list) and value and choose.random() < 0.7:
        at = choose.randrange(len(value))
        if choose.random() < 0.2:
            return [*value, *[value[at]] * choose.choice((1, 10, 5000))]
        return [*value[:at], damaged_value(value[at], choose), *value[at + 1 :]]
    return choose.choice(ODD_VALUES)


def damaged_tensor(tensor: torch.Tensor, choose: random.Random) -> torch.Tensor:
    """Return a tensor of another dtype, shape or value."""
    ways: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor.to(torch.int8),
        lambda: tensor > 0,
        lambda: tensor.to(torch.complex64),
        lambda: tensor.double(),
        lambda: tensor.bfloat16(),
        lambda: tensor[None].clone(),
        lambda: tensor.flatten()[:1].clone(),
        lambda: torch.zeros_like(tensor),
        lambda: torch.full(tensor.shape, choose.choice((float("nan"), 1e30, -1e9))),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.reshape(-1, 1).clone(),
        lambda: torch.zeros(0),
    )
    return choose.choice(ways)()


def damage_a_member(path: Path, choose: random.Random) -> None:
    """Damage one array inside an .npz, which stays a sound archive."""
    with np.load(path) as file:
        arrays = dict(file)
    damaged = choose.choice(list(arrays))
    with zipfile.ZipFile(path, "w", choose.choice((zipfile.ZIP_STORED, zipfile.ZIP_LZMA))) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            archive.writestr(f"{name}.npy", damaged_bytes(content, choose) if name == damaged else content)


def reads_or_refuses(read: Callable[[], object], error: type[Exception] | tuple[type[Exception], ...]) -> None:
    """Let a reader read; it may refuse with `error`, in one short line, and takes a few seconds at most."""
    started, line = time.monotonic(), ""
    try:
        read()
    except error as refusal:
        line = str(refusal)
    assert "\n" not in line
    assert len(line) < 1000
    assert time.monotonic() - started < 5
