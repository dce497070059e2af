"""The artifact file: quantized tensors and passthrough tensors in one small, self-describing, pickle-free container.

The one idea: everything the decoder allocates is declared first, checked against limits and against the shapes, and
guarded by a digest, so that a damaged or hostile file costs bounded memory and ends in one `ArtifactError`.

Layout (little endian): magic, version; for each of the four sections (header, codes, steps, passthrough) its stored
length, its raw length and the first 8 bytes of the sha256 of its stored bytes; then the stored sections, each one
brotli stream, nothing after them. The header is compact JSON: the caller's `meta` and a list of tensors
[name, dtype, shape]. Sections hold the tensors' bytes in that order as byte planes (all low bytes of a tensor, then
all next ones), because brotli models bytes: codes column by column (columns differ more in spread than
rows do once each row has its own step, and a static model per stretch is what brotli has), steps one float16 per row.

Axes: R rows, C columns.
Source: ours.
Checked by: tests/codec/test_container.py (round trips, mutations, bombs).
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import brotli
import numpy as np

from pipeline.checks import FairwayError, require
from pipeline.files import write_bytes

ARTIFACT_MAGIC = b"FWYA"
ARTIFACT_VERSION = 1
_SECTIONS = ("header", "codes", "steps", "passthrough")
_PREFIX = struct.Struct("<4sB")
_SECTION_ENTRY = struct.Struct("<II8s")
_RAW_LIMITS = {"header": 1 << 20, "codes": 1 << 27, "steps": 1 << 24, "passthrough": 1 << 26}
"""Largest raw bytes a section may declare: several times what any record needs, and little memory for a bomb."""
_BROTLI_BEST = {"quality": 11, "lgwin": 24}
_BROTLI_CODES = {"quality": 10, "lgwin": 10, "lgblock": 22}
"""Codes hold no repeats, only drifting statistics: measured, a small window with large blocks is a little smaller than
the best quality with the largest window, in a third of the time."""
_BROTLI = {name: _BROTLI_CODES if name == "codes" else _BROTLI_BEST for name in _SECTIONS}
_CODE_DTYPES = ("int8", "int16")
_PASSTHROUGH_DTYPES = ("float16", "float32")
_MAX_AXES = 8
_READ_BYTES = 1 << 16


class ArtifactError(FairwayError):
    """An artifact file is damaged, hostile or not one of ours."""


class QuantizedTensor(NamedTuple):
    """A matrix on a grid: value = codes * step of the row."""

    codes: np.ndarray
    """int8 or int16, (R, C)."""
    step: np.ndarray
    """float16, (R,), positive."""
    column_step: np.ndarray | None = None
    """float16, (C,), positive: a further factor by column; None is 1."""


ArtifactTensors = dict[str, QuantizedTensor | np.ndarray]


def encode_artifact(tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict) -> bytes:
    """Return the file content for `tensors` (passthrough arrays are float16 or float32) and the JSON dict `meta`.

    Deterministic. Raises ValueError for tensors of other types, or too large to read back.
    """
    raw = {name: b"".join(parts) for name, parts in _raw_sections(tensors, meta).items()}
    for name, content in raw.items():
        require(len(content) <= _RAW_LIMITS[name], f"artifact section {name}", f"{len(content)} bytes",
                f"at most {_RAW_LIMITS[name]}, which is what the reader accepts")  # fmt: skip
    stored = [brotli.compress(raw[name], **_BROTLI[name]) for name in _SECTIONS]
    entries = [
        _SECTION_ENTRY.pack(len(content), len(raw[name]), _digest(content))
        for name, content in zip(_SECTIONS, stored, strict=True)
    ]
    return b"".join([_PREFIX.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION), *entries, *stored])


def write_artifact(path: Path, tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict) -> int:
    """Write `encode_artifact` atomically to `path` and return its length in bytes."""
    content = encode_artifact(tensors, meta)
    write_bytes(Path(path), content)
    return len(content)


def read_artifact(path: Path) -> tuple[ArtifactTensors, dict]:
    """Return (tensors, meta) of the file at `path`; raises ArtifactError for anything that is not a sound artifact."""
    content = Path(path).read_bytes()
    try:
        return decode_artifact(content)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None


def decode_artifact(content: bytes) -> tuple[ArtifactTensors, dict]:
    """Invert `encode_artifact`; raises ArtifactError."""
    entries, stored = _split_sections(content)
    header = _decompress(stored["header"], entries["header"], "header")
    layout, meta = _parse_header(header)
    expected = {"codes": 0, "steps": 0, "passthrough": 0}
    for _, dtype, shape in layout:
        code_dtype, has_columns = _split_dtype(dtype)
        if code_dtype in _CODE_DTYPES:
            expected["steps"] += 2 * (shape[0] + shape[1] * has_columns)
        expected["codes" if code_dtype in _CODE_DTYPES else "passthrough"] += _num_bytes(code_dtype, shape)
    for name, size in expected.items():
        if entries[name] != size:
            raise ArtifactError(f"section {name} declares {entries[name]} bytes, its tensors need {size}")
    sections = {name: memoryview(_decompress(stored[name], entries[name], name)) for name in expected}
    return _take_tensors(layout, sections), meta


def dequantize(tensors: Mapping[str, QuantizedTensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Return every tensor as float32: codes * float32(step), passthrough widened."""
    return {
        name: tensor.codes.astype(np.float32) * full_step(tensor).reshape(len(tensor.step), -1)
        if isinstance(tensor, QuantizedTensor)
        else tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }


def full_step(tensor: QuantizedTensor) -> np.ndarray:
    """Return the float32 steps of a tensor's codes: (R,), or (R, C) when columns have factors of their own."""
    step_R = tensor.step.astype(np.float32)
    return step_R if tensor.column_step is None else step_R[:, None] * tensor.column_step.astype(np.float32)


def _raw_sections(tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict) -> dict[str, list[bytes]]:
    layout: list[list] = []
    sections: dict[str, list[bytes]] = {name: [] for name in _SECTIONS}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
        has_columns = isinstance(tensor, QuantizedTensor) and tensor.column_step is not None
        layout.append([name, main.dtype.name + "/columns" * has_columns, list(main.shape)])
        if isinstance(tensor, QuantizedTensor):
            sections["codes"].append(_to_planes(tensor.codes.T))
            sections["steps"] += [_to_planes(s) for s in (tensor.step, tensor.column_step) if s is not None]
        else:
            sections["passthrough"].append(_to_planes(tensor))
    header = json.dumps({"meta": meta, "tensors": layout}, separators=(",", ":"), sort_keys=True, allow_nan=False)
    sections["header"].append(header.encode())
    return sections


def _check_tensor(name: str, tensor: QuantizedTensor | np.ndarray) -> None:
    main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
    require(main.size > 0 and main.ndim <= _MAX_AXES, name, main.shape, f"no empty axis and at most {_MAX_AXES} axes")
    if isinstance(tensor, QuantizedTensor):
        codes, step, column_step = tensor
        require(codes.dtype.name in _CODE_DTYPES and codes.ndim == 2, f"codes of {name}",
                f"{codes.dtype} {codes.shape}", "a two-axis int8 or int16 array")  # fmt: skip
        for axis, factor in enumerate((step, column_step)):
            if axis == 1 and factor is None:
                continue
            require(factor.dtype == np.float16 and factor.shape == codes.shape[axis : axis + 1], f"step of {name}",
                    f"{factor.dtype} {factor.shape}", f"float16 of shape ({codes.shape[axis]},)")  # fmt: skip
            require(_is_sound_step(factor), f"step of {name}", "zero, negative or not finite", "positive finite steps")
    else:
        require(tensor.dtype.name in _PASSTHROUGH_DTYPES, name, str(tensor.dtype), "float16 or float32")
        require(bool(np.isfinite(tensor).all()), name, "values that are not finite", "finite values")


def _split_dtype(dtype: str) -> tuple[str, bool]:
    """Return the dtype of a header entry and whether its columns have steps."""
    name, _, mark = dtype.partition("/")
    return name, bool(mark)


def _is_sound_step(step: np.ndarray) -> bool:
    return bool((np.isfinite(step) & (step > 0)).all())


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()[:8]


def _to_planes(array: np.ndarray) -> bytes:
    """Return the bytes of `array` in C order, plane by plane of its items' little-endian bytes."""
    flat = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    return flat.view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes()


def _from_planes(planes: memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `_to_planes`."""
    item = np.dtype(dtype).newbyteorder("<")
    interleaved = np.frombuffer(planes, np.uint8).reshape(item.itemsize, -1).T
    return np.ascontiguousarray(interleaved).reshape(-1).view(item).astype(dtype, copy=False).reshape(shape)


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _split_sections(content: bytes) -> tuple[dict[str, int], dict[str, memoryview]]:
    """Return each section's declared raw length and its stored bytes, digests verified."""
    prefix_bytes = _PREFIX.size + len(_SECTIONS) * _SECTION_ENTRY.size
    if content[: len(ARTIFACT_MAGIC)] != ARTIFACT_MAGIC:
        raise ArtifactError("not an artifact: wrong magic bytes")
    if len(content) < prefix_bytes:
        raise ArtifactError(f"truncated: {len(content)} bytes hold no section table")
    version = _PREFIX.unpack_from(content)[1]
    if version != ARTIFACT_VERSION:
        raise ArtifactError(f"format version {version}, this program reads version {ARTIFACT_VERSION}")
    raw_lengths, stored, offset = {}, {}, prefix_bytes
    for name, (length, raw_length, digest) in zip(_SECTIONS, _section_entries(content, prefix_bytes), strict=True):
        if raw_length > _RAW_LIMITS[name]:
            raise ArtifactError(f"section {name} declares {raw_length} bytes, the limit is {_RAW_LIMITS[name]}")
        payload = memoryview(content)[offset : offset + length]
        if len(payload) != length:
            raise ArtifactError(f"truncated: section {name} ends {length - len(payload)} bytes early")
        if _digest(payload) != digest:
            raise ArtifactError(f"section {name} is damaged: its sha256 does not match")
        raw_lengths[name], stored[name], offset = raw_length, payload, offset + length
    if offset != len(content):
        raise ArtifactError(f"{len(content) - offset} bytes follow the last section")
    return raw_lengths, stored


def _section_entries(content: bytes, prefix_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    return _SECTION_ENTRY.iter_unpack(content[_PREFIX.size : prefix_bytes])


def _decompress(stored: memoryview, raw_length: int, name: str) -> bytes:
    """Return exactly `raw_length` bytes of a brotli stream, never holding more than a read beyond them."""
    decoder = brotli.Decompressor()
    parts, size, pending = [], 0, bytes(stored)
    try:
        while not decoder.is_finished():
            part = decoder.process(pending, output_buffer_limit=min(raw_length - size, 1 << 24) + _READ_BYTES)
            starved = not part and decoder.can_accept_more_data()
            parts.append(part)
            size, pending = size + len(part), b""
            if size > raw_length or (starved and not decoder.is_finished()):
                raise ArtifactError(f"section {name} does not hold the {raw_length} bytes it declares")
    except brotli.error:
        raise ArtifactError(f"section {name} is not a sound brotli stream") from None
    if size != raw_length:
        raise ArtifactError(f"section {name} holds {size} bytes, it declares {raw_length}")
    return b"".join(parts)


def _parse_header(header: bytes) -> tuple[list[tuple[str, str, tuple[int, ...]]], dict]:
    """Return the tensor list and `meta`, every entry checked."""
    try:
        document = json.loads(header)
    except (ValueError, RecursionError):
        raise ArtifactError("the header is not JSON") from None
    if not isinstance(document, dict) or set(document) != {"meta", "tensors"}:
        raise ArtifactError("the header does not hold meta and tensors")
    if not isinstance(document["meta"], dict) or not isinstance(document["tensors"], list):
        raise ArtifactError("the header's meta is no object or its tensors are no list")
    layout = [_parse_entry(entry) for entry in document["tensors"]]
    if len({name for name, _, _ in layout}) != len(layout):
        raise ArtifactError("the header names a tensor twice")
    return layout, document["meta"]


def _parse_entry(entry: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(entry, list) or len(entry) != 3:
        raise ArtifactError("a tensor entry of the header is not [name, dtype, shape]")
    name, dtype, shape = entry
    known = isinstance(dtype, str) and dtype.removesuffix("/columns") in _CODE_DTYPES + _PASSTHROUGH_DTYPES
    if not isinstance(name, str) or not known or not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise ArtifactError("a tensor entry of the header has a bad name, dtype or shape")
    # Zero would let another axis be of any size.
    if not all(type(size) is int and 0 < size <= max(_RAW_LIMITS.values()) for size in shape):
        raise ArtifactError("a tensor entry of the header has a bad axis")
    if (dtype.endswith("/columns") or dtype in _CODE_DTYPES) and len(shape) != 2:
        raise ArtifactError("a quantized tensor of the header has not two axes")
    return name, dtype, tuple(shape)


def _take_tensors(layout: list[tuple[str, str, tuple[int, ...]]], sections: dict[str, memoryview]) -> ArtifactTensors:
    """Cut the raw sections into arrays, in header order; their lengths are known to fit."""
    offsets = dict.fromkeys(sections, 0)

    def take(section: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        start = offsets[section]
        offsets[section] += _num_bytes(dtype, shape)
        return _from_planes(sections[section][start : offsets[section]], dtype, shape)

    tensors: ArtifactTensors = {}
    for name, dtype, shape in layout:
        dtype, has_columns = _split_dtype(dtype)
        if dtype in _CODE_DTYPES:
            codes_RC = np.ascontiguousarray(take("codes", dtype, shape[::-1]).T)
            step_R = take("steps", "float16", shape[:1])
            quantized = QuantizedTensor(codes_RC, step_R, take("steps", "float16", shape[1:]) if has_columns else None)
            if not all(_is_sound_step(step) for step in quantized[1:] if step is not None):
                raise ArtifactError(f"tensor {name} has a step that is zero, negative or not finite")
            tensors[name] = quantized
        else:
            array = take("passthrough", dtype, shape)
            if not np.isfinite(array).all():
                raise ArtifactError(f"tensor {name} holds values that are not finite")
            tensors[name] = array
    return tensors
