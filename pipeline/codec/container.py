"""The artifact file: quantized tensors and passthrough tensors in one small, self-describing, pickle-free container.

The one idea: everything the decoder allocates is declared first, checked against limits and against the shapes, and
guarded by a digest, so that a damaged or hostile file costs bounded memory and ends in one `ArtifactError`.

Three sections. The header is compact JSON: the caller's `meta` and a list of tensors [name, dtype, shape]. Codes is the
range coder's stream: for every quantized tensor, in header order, its row indices, column indices and codes, then the
row and column steps of all where they lie on few levels. Values holds the rest as 16-bit words, all low bytes before
all high bytes, because brotli models bytes: coder parameters, step levels or steps, passthrough tensors, excesses of
large integers.

Axes: R rows, C columns, P coder parameters of a tensor, L step levels.
Source: ours.
Checked by: tests/codec/test_container.py (round trips, mutations, bombs).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.base.checks import require
from pipeline.base.files import write_bytes
from pipeline.codec.integers import EXACT, NUM_MATRIX_PARAMETERS, IntegerReader, IntegerWriter
from pipeline.codec.range_coder import num_lanes
from pipeline.codec.sections import ArtifactError, join_sections, split_sections
from pipeline.codec.tables import MAX_MAGNITUDE_BITS, NUM_CLASSES
from pipeline.codec.trellis import TRELLIS_STATES

_CODE_DTYPES = ("int8", "int16")
_PASSTHROUGH_DTYPES = ("float16", "float32")
_MAX_AXES = 8
_MAX_CODE_AXIS = 1 << 20
_MAX_TENSORS = 1 << 10
_MAX_CODES = 1 << 26
_FREE_CODES = 1 << 24
"""So many codes may be declared in any file, and so many more for each stored byte: bounds the time of a bomb."""
_CODES_PER_BYTE = 16
_VECTOR_LIMITS = ((-(1 << 15), 1 << 15), (0, NUM_CLASSES))
_PARAMETER_LIMITS = (
    (0, MAX_MAGNITUDE_BITS + 1),
    *_VECTOR_LIMITS * 4,
    _VECTOR_LIMITS[0],
    *_VECTOR_LIMITS * 2,
    (1, 1 << 15),
)
"""Of a quantized tensor: those of `IntegerWriter.add_matrix`, offset and class of its row and column levels, states."""
_NUM_PARAMETERS = len(_PARAMETER_LIMITS)
_STEPS_PER_LEVEL = 8
"""Steps are coded as levels where more than so many share one on average."""


class QuantizedTensor(NamedTuple):
    """A matrix on a grid: value = codes * (step of the row * step of the column)."""

    codes: np.ndarray
    """int8 or int16, (R, C)."""
    step: np.ndarray
    """float16, (R,), positive."""
    column_step: np.ndarray | None = None
    """float16, (C,), positive; None is 1 everywhere."""
    states: int = 1
    """Of the trellis whose paths the codes are, down each column; 1 is none."""
    on_path: np.ndarray | None = None
    """bool, (R,): rows on these paths, the others have even codes; None is none."""

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of rows and of columns."""
        ones_C = np.ones(self.codes.shape[1], np.float16)
        return self.step, ones_C if self.column_step is None else self.column_step

    def full_step(self) -> np.ndarray:
        """Return the float32 steps of the codes: (R, 1), or (R, C) when columns have steps of their own."""
        step_R1 = self.step.astype(np.float32)[:, None]
        return step_R1 if self.column_step is None else step_R1 * self.column_step.astype(np.float32)


ArtifactTensors = dict[str, QuantizedTensor | np.ndarray]
_Layout = list[tuple[str, str, tuple[int, ...]]]


def encode_artifact(tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict) -> bytes:
    """Return the file content for `tensors` (passthrough arrays are float16 or float32) and the JSON dict `meta`.

    Deterministic. Raises ValueError for tensors of other types, or too large to read back.
    """
    layout: _Layout = []
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
        layout.append((name, main.dtype.name, main.shape))
    header = json.dumps({"meta": meta, "tensors": layout}, separators=(",", ":"), sort_keys=True, allow_nan=False)
    quantized = [tensor for tensor in tensors.values() if isinstance(tensor, QuantizedTensor)]
    plain = [tensor for tensor in tensors.values() if not isinstance(tensor, QuantizedTensor)]
    writer = IntegerWriter()
    parameters = [writer.add_matrix(tensor.codes, tensor.states, tensor.on_path) for tensor in quantized]
    factors = [_to_words(factor) for tensor in quantized for factor in tensor.factors()]
    levels, steps, places = _write_steps(writer, factors)
    states = [(tensor.states,) for tensor in quantized]
    rows = zip(parameters, places[::2], places[1::2], states, strict=True)
    table = [len(levels), *(value for parts in rows for part in parts for value in part)]
    words = [np.array(table, "<i2").view("<u2"), levels, *steps, *map(_to_words, plain), *writer.excess]
    planes = np.concatenate(words).view(np.uint8).reshape(-1, 2).T.tobytes()
    stream = writer.stream(num_lanes(_num_codes(layout)))
    require(
        _num_codes(layout) <= _most_codes(stream),
        "artifact codes",
        _num_codes(layout),
        f"at most {_most_codes(stream)}, which is what the reader accepts",
    )
    return join_sections({"header": header.encode(), "values": planes, "codes": stream})


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
    sections = split_sections(content)
    layout, meta = _parse_header(sections["header"])
    num_codes, stream = _num_codes(layout), sections["codes"]
    if num_codes > _most_codes(stream):
        raise ArtifactError(f"the header declares {num_codes} codes, the stored bytes allow {_most_codes(stream)}")
    values = _Words(sections["values"])
    quantized = [(name, dtype, shape) for name, dtype, shape in layout if dtype in _CODE_DTYPES]
    num_levels = int(values.take(1, "uint16")[0])
    table = values.take(_NUM_PARAMETERS * len(quantized), "int16").reshape(-1, _NUM_PARAMETERS)
    least, limit = np.array(_PARAMETER_LIMITS).T
    if not np.isin(table[:, -1], (1, *TRELLIS_STATES)).all() or (table < least).any() or (table >= limit).any():
        raise ArtifactError("section values holds an unsound coder parameter")
    levels = values.take(num_levels, "float16")
    steps = [values.take(0 if num_levels else size, "float16") for _, _, shape in quantized for size in shape]
    tensors: ArtifactTensors = {
        name: values.take(math.prod(shape), dtype).reshape(shape)
        for name, dtype, shape in layout
        if dtype in _PASSTHROUGH_DTYPES
    }
    reader = IntegerReader(stream, values.rest(), num_lanes(num_codes))
    parameters = table.tolist()
    codes = [np.zeros(shape, dtype) for _, dtype, shape in quantized]
    on_paths = [
        reader.take_matrix(codes_RC, coder[-1], *coder[:NUM_MATRIX_PARAMETERS])
        for codes_RC, coder in zip(codes, parameters, strict=True)
    ]
    if num_levels:
        steps = [
            levels[reader.take_indices(shape[axis], num_levels, *coder[NUM_MATRIX_PARAMETERS + 2 * axis :][:2])]
            for (_, _, shape), coder in zip(quantized, parameters, strict=True)
            for axis in (0, 1)
        ]
    reader.finish()
    for k, (name, _, _) in enumerate(quantized):
        step_R, step_C = steps[2 * k : 2 * k + 2]
        states, on_path_R = parameters[k][-1], on_paths[k]
        tensors[name] = QuantizedTensor(
            codes[k], step_R, None if (step_C == 1).all() else step_C, states, on_path_R if on_path_R.any() else None
        )
    for name, tensor in tensors.items():
        if not _is_sound(tensor):
            raise ArtifactError(f"tensor {name!r} has a step that is not positive or a value that is not finite")
    return {name: tensors[name] for name, _, _ in layout}, meta


def dequantize(tensors: Mapping[str, QuantizedTensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Return every tensor as float32: codes * (row step * column step, in float32), passthrough widened."""
    return {
        name: tensor.codes.astype(np.float32) * tensor.full_step()
        if isinstance(tensor, QuantizedTensor)
        else tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }


def _check_tensor(name: str, tensor: QuantizedTensor | np.ndarray) -> None:
    main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
    require(main.size > 0 and main.ndim <= _MAX_AXES, name, main.shape, f"no empty axis and at most {_MAX_AXES} axes")
    if isinstance(tensor, QuantizedTensor):
        codes = tensor.codes
        require(
            codes.dtype.name in _CODE_DTYPES and codes.ndim == 2 and max(codes.shape) <= _MAX_CODE_AXIS,
            f"codes of {name}",
            f"{codes.dtype} {codes.shape}",
            f"a two-axis int8 or int16 array, axes at most {_MAX_CODE_AXIS}",
        )
        require(
            tensor.states in (1, *TRELLIS_STATES), f"states of {name}", tensor.states, f"1 or one of {TRELLIS_STATES}"
        )
        on_path = tensor.on_path
        require(
            on_path is None or (tensor.states > 1 and on_path.shape == codes.shape[:1]),
            f"on_path of {name}",
            None if on_path is None else on_path.shape,
            "a trellis, and an entry for each row",
        )
        for factor, size in zip(tensor.factors(), codes.shape, strict=True):
            require(
                factor.dtype == np.float16 and factor.shape == (size,),
                f"step of {name}",
                f"{factor.dtype} {factor.shape}",
                f"float16 of shape ({size},)",
            )
        require(_is_sound(tensor), f"step of {name}", "zero, negative or not finite", "positive finite steps")
    else:
        require(tensor.dtype.name in _PASSTHROUGH_DTYPES, name, str(tensor.dtype), "float16 or float32")
        require(_is_sound(tensor), name, "values that are not finite", "finite values")


def _is_sound(tensor: QuantizedTensor | np.ndarray) -> bool:
    if isinstance(tensor, QuantizedTensor):
        return all(bool((np.isfinite(factor) & (factor > 0)).all()) for factor in tensor.factors())
    return bool(np.isfinite(tensor).all())


def _num_codes(layout: _Layout) -> int:
    return sum(math.prod(shape) for _, dtype, shape in layout if dtype in _CODE_DTYPES)


def _most_codes(stream: bytes) -> int:
    return min(_FREE_CODES + _CODES_PER_BYTE * len(stream), _MAX_CODES)


def _write_steps(writer: IntegerWriter, steps: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], list[tuple]]:
    """Return levels (uint16) and the coder parameters of every tensor's steps, or the steps as they are."""
    joined = np.concatenate([np.zeros(0, "<u2"), *steps])
    levels, index = np.unique(joined, return_inverse=True)
    if len(levels) * _STEPS_PER_LEVEL >= len(joined):
        return levels[:0], steps, [(0, 0)] * len(steps)
    parts = np.split(index, np.cumsum([len(step) for step in steps])[:-1])
    return levels, [], [writer.add_vector(part, EXACT)[:2] for part in parts]


def _to_words(array: np.ndarray) -> np.ndarray:
    """Return the items of `array` in C order as 16-bit words, the low word first."""
    return np.ascontiguousarray(array).reshape(-1).astype(array.dtype.newbyteorder("<"), copy=False).view("<u2")


class _Words:
    """The 16-bit words of section values, taken in order."""

    def __init__(self, planes: bytes) -> None:
        if len(planes) % 2:
            raise ArtifactError("section values holds half a word")
        pairs = np.frombuffer(planes, np.uint8).reshape(2, -1).T
        self._words = np.ascontiguousarray(pairs).reshape(-1).view("<u2")

    def take(self, num: int, dtype: str) -> np.ndarray:
        """Return the next `num` items; raises ArtifactError when there are fewer."""
        item = np.dtype(dtype).newbyteorder("<")
        size = num * item.itemsize // 2
        if size > len(self._words):
            raise ArtifactError("section values ends before its last tensor")
        part, self._words = self._words[:size], self._words[size:]
        return part.view(item).astype(dtype)

    def rest(self) -> np.ndarray:
        """Return all words that are left."""
        return self._words


def _parse_header(header: bytes) -> tuple[_Layout, dict]:
    """Return the tensor list and `meta`, every entry checked."""
    try:
        document = json.loads(header)
    except (ValueError, RecursionError):
        raise ArtifactError("the header is not JSON") from None
    if not isinstance(document, dict) or set(document) != {"meta", "tensors"}:
        raise ArtifactError("the header does not hold meta and tensors")
    meta, entries = document["meta"], document["tensors"]
    if not isinstance(meta, dict) or not isinstance(entries, list) or len(entries) > _MAX_TENSORS:
        raise ArtifactError(f"the header's meta is no object or its tensors are no list of at most {_MAX_TENSORS}")
    layout = [_parse_entry(entry) for entry in entries]
    if len({name for name, _, _ in layout}) != len(layout):
        raise ArtifactError("the header names a tensor twice")
    return layout, meta


def _parse_entry(entry: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(entry, list) or len(entry) != 3:
        raise ArtifactError("a tensor entry of the header is not [name, dtype, shape]")
    name, dtype, shape = entry
    known = isinstance(dtype, str) and dtype in _CODE_DTYPES + _PASSTHROUGH_DTYPES
    if not isinstance(name, str) or not known or not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise ArtifactError("a tensor entry of the header has a bad name, dtype or shape")
    is_codes = dtype in _CODE_DTYPES
    # Zero would let another axis be of any size.
    if not all(type(size) is int and 0 < size <= (_MAX_CODE_AXIS if is_codes else _MAX_CODES) for size in shape):
        raise ArtifactError("a tensor entry of the header has a bad axis")
    if is_codes and len(shape) != 2:
        raise ArtifactError("a quantized tensor of the header has not two axes")
    return name, dtype, tuple(shape)
