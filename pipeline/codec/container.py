"""The artifact file: quantized tensors and passthrough tensors in one small, self-describing, pickle-free container.

Three sections. The header is compact JSON: the caller's `meta` and a list of tensors [name, dtype, shape]. Codes is the
range coder's stream: for every quantized tensor, in header order, its row indices, column indices and codes, then the
row and column steps of all where they lie on few levels. Values holds the rest as 16-bit words, all low bytes before
all high bytes, because brotli models bytes: coder parameters, step levels or steps, passthrough tensors, excesses of
large integers.

The reader here is for one's own artifacts: it checks magic, version and digests. `foreign.py` is for files of others.

Axes: R rows, C columns, L step levels.
Source: ours.
Checked by: tests/codec/test_container.py.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.base.checks import require
from pipeline.base.files import write_bytes
from pipeline.codec.coders import NUM_WORDS, MatrixCoder, TensorCoder, VectorCoder, coders_of_words, coders_to_words
from pipeline.codec.integers import EXACT, IntegerReader, IntegerWriter
from pipeline.codec.range_coder import num_lanes
from pipeline.codec.sections import ArtifactError, join_sections, split_sections
from pipeline.codec.trellis import TRELLIS_STATES

CODE_DTYPES = ("int8", "int16")
PASSTHROUGH_DTYPES = ("float16", "float32")
MAX_AXES = 8
MAX_CODE_AXIS = 1 << 20
MAX_CODES = 1 << 26
_FREE_CODES = 1 << 24
"""So many codes may be declared in any file, and so many more for each stored byte: bounds the time of a bomb."""
_CODES_PER_BYTE = 16
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


class Entry(NamedTuple):
    """A tensor of the header; codes are quantized, the others pass through."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def is_codes(self) -> bool:
        """Return whether the tensor is quantized."""
        return self.dtype in CODE_DTYPES

    def size(self) -> int:
        """Return how many numbers it holds."""
        return math.prod(self.shape)


CodedTensor = tuple[MatrixCoder, IntegerWriter]
"""The codes of a tensor, ready for the range coder: all that takes long of an encoding."""


def code_tensor(tensor: QuantizedTensor) -> CodedTensor:
    """Return the coded codes of a tensor; ValueError for codes that are no paths of its trellis."""
    writer = IntegerWriter()
    return writer.add_matrix(tensor.codes, tensor.states, tensor.on_path), writer


def encode_artifact(
    tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict, coded: Mapping[str, CodedTensor] | None = None
) -> bytes:
    """Return the file content for `tensors` (passthrough arrays are float16 or float32) and the JSON dict `meta`.

    `coded`: the quantized tensors where they are coded already. Deterministic. Raises ValueError for tensors of other
    types, or too large to read back.
    """
    layout = []
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
        layout.append(Entry(name, main.dtype.name, main.shape))
    header = json.dumps({"meta": meta, "tensors": layout}, separators=(",", ":"), sort_keys=True, allow_nan=False)
    quantized = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
    plain = [tensor for tensor in tensors.values() if not isinstance(tensor, QuantizedTensor)]
    writer = IntegerWriter()
    matrices = []
    for name, tensor in quantized.items():
        matrix, integers = coded[name] if coded else code_tensor(tensor)
        matrices.append(matrix)
        writer.join(integers)
    factors = [_to_words(factor) for tensor in quantized.values() for factor in tensor.factors()]
    levels, steps, vectors = _write_steps(writer, factors)
    states = [tensor.states for tensor in quantized.values()]
    coders = list(map(TensorCoder, matrices, vectors[::2], vectors[1::2], states))
    numbers = [np.array([len(levels)], "<u2"), coders_to_words(coders)]
    words = [*numbers, levels, *steps, *map(_to_words, plain), *writer.excess]
    planes = np.concatenate(words).view(np.uint8).reshape(-1, 2).T.tobytes()
    num_codes = count_codes(layout)
    stream = writer.stream(num_lanes(num_codes))
    most = most_codes(stream)
    require(num_codes <= most, "artifact codes", num_codes, f"at most {most}, which is what the reader accepts")
    return join_sections({"header": header.encode(), "values": planes, "codes": stream})


def write_artifact(path: Path, tensors: Mapping[str, QuantizedTensor | np.ndarray], meta: dict) -> int:
    """Write `encode_artifact` atomically to `path` and return its length in bytes."""
    content = encode_artifact(tensors, meta)
    write_bytes(Path(path), content)
    return len(content)


def read_artifact(path: Path) -> tuple[ArtifactTensors, dict]:
    """Return (tensors, meta) of the file at `path`, one of our own; raises ArtifactError for a damaged one."""
    content = Path(path).read_bytes()
    try:
        return decode_artifact(content)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from None


def decode_artifact(content: bytes) -> tuple[ArtifactTensors, dict]:
    """Invert `encode_artifact`; raises ValueError for damaged content."""
    return decode_sections(split_sections(content))


def decode_sections(sections: Mapping[str, bytes]) -> tuple[ArtifactTensors, dict]:
    """Return (tensors, meta) of the raw sections of a file; raises ValueError where they contradict each other."""
    header = json.loads(sections["header"])
    layout = [Entry(name, dtype, tuple(shape)) for name, dtype, shape in header["tensors"]]
    quantized = [entry for entry in layout if entry.is_codes()]
    words = Words(sections["values"])
    num_levels, coders = take_coders(words, len(quantized))
    levels = words.take(num_levels, "<f2")
    steps = [words.take(0 if num_levels else size, "<f2") for entry in quantized for size in entry.shape]
    tensors: ArtifactTensors = {
        entry.name: words.take(entry.size(), entry.dtype).reshape(entry.shape)
        for entry in layout
        if not entry.is_codes()
    }
    reader = IntegerReader(sections["codes"], words.rest(), num_lanes(count_codes(layout)))
    codes = [np.zeros(entry.shape, entry.dtype) for entry in quantized]
    on_paths = [
        reader.take_matrix(code_RC, coder.states, coder.matrix) for code_RC, coder in zip(codes, coders, strict=True)
    ]
    if num_levels:
        steps = [
            levels[reader.take_indices(size, num_levels, vector)]
            for entry, coder in zip(quantized, coders, strict=True)
            for size, vector in zip(entry.shape, (coder.row_steps, coder.column_steps), strict=True)
        ]
    reader.check_end()
    for entry, coder, code_RC, on_path_R in zip(quantized, coders, codes, on_paths, strict=True):
        step_R, step_C, *steps = steps
        column_step = None if (step_C == 1).all() else step_C
        on_path = on_path_R if on_path_R.any() else None
        tensors[entry.name] = QuantizedTensor(code_RC, step_R, column_step, coder.states, on_path)
    return {entry.name: tensors[entry.name] for entry in layout}, header["meta"]


def dequantize(tensors: Mapping[str, QuantizedTensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Return every tensor as float32: codes * (row step * column step, in float32), passthrough widened."""
    return {
        name: tensor.codes.astype(np.float32) * tensor.full_step()
        if isinstance(tensor, QuantizedTensor)
        else tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }


def count_codes(layout: list[Entry]) -> int:
    """Return the number of codes of all quantized tensors."""
    return sum(entry.size() for entry in layout if entry.is_codes())


def most_codes(stream: bytes) -> int:
    """Return how many codes a file may declare beside its section of codes."""
    return min(_FREE_CODES + _CODES_PER_BYTE * len(stream), MAX_CODES)


def is_sound(tensor: QuantizedTensor | np.ndarray) -> bool:
    """Return whether all values are finite, and steps positive."""
    if isinstance(tensor, QuantizedTensor):
        return all(bool((np.isfinite(factor) & (factor > 0)).all()) for factor in tensor.factors())
    return bool(np.isfinite(tensor).all())


def _check_tensor(name: str, tensor: QuantizedTensor | np.ndarray) -> None:
    main = tensor.codes if isinstance(tensor, QuantizedTensor) else tensor
    require(main.size > 0 and main.ndim <= MAX_AXES, name, main.shape, f"no empty axis and at most {MAX_AXES} axes")
    if isinstance(tensor, QuantizedTensor):
        codes = tensor.codes
        require(
            codes.dtype.name in CODE_DTYPES and codes.ndim == 2 and max(codes.shape) <= MAX_CODE_AXIS,
            f"codes of {name}",
            f"{codes.dtype} {codes.shape}",
            f"a two-axis int8 or int16 array, axes at most {MAX_CODE_AXIS}",
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
        require(is_sound(tensor), f"step of {name}", "zero, negative or not finite", "positive finite steps")
    else:
        require(tensor.dtype.name in PASSTHROUGH_DTYPES, name, str(tensor.dtype), "float16 or float32")
        require(is_sound(tensor), name, "values that are not finite", "finite values")


def _write_steps(
    writer: IntegerWriter, steps: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], list[VectorCoder]]:
    """Return levels (uint16), the steps as they are where there are none, and how the coded ones are coded."""
    joined = np.concatenate([np.zeros(0, "<u2"), *steps])
    levels, index = np.unique(joined, return_inverse=True)
    if len(levels) * _STEPS_PER_LEVEL >= len(joined):
        return levels[:0], steps, [VectorCoder()] * len(steps)
    parts = np.split(index, np.cumsum([len(step) for step in steps])[:-1])
    return levels, [], [writer.add_vector(part, EXACT)[0] for part in parts]


def _to_words(array: np.ndarray) -> np.ndarray:
    """Return the items of `array` in C order as 16-bit words, the low word first."""
    return np.ascontiguousarray(array).reshape(-1).astype(array.dtype.newbyteorder("<"), copy=False).view("<u2")


class Words:
    """The 16-bit words of section values, taken in order."""

    def __init__(self, planes: bytes) -> None:
        """Join the planes of low and high bytes."""
        pairs = np.frombuffer(planes, np.uint8).reshape(2, -1).T
        self._words = np.ascontiguousarray(pairs).reshape(-1).view("<u2")

    def take(self, num: int, dtype: str) -> np.ndarray:
        """Return the next `num` items; raises ValueError when there are fewer."""
        item = np.dtype(dtype).newbyteorder("<")
        size = num * item.itemsize // 2
        part, self._words = self._words[:size], self._words[size:]
        require(len(part) == size, "section values: words left", len(part), f"{size} or more")
        return part.view(item).astype(dtype)

    def rest(self) -> np.ndarray:
        """Return all words that are left."""
        return self._words


def take_coders(words: Words, num_tensors: int) -> tuple[int, list[TensorCoder]]:
    """Return the number of step levels and the coder parameters of all quantized tensors: the first words."""
    num_levels = int(words.take(1, "<u2")[0])
    return num_levels, coders_of_words(words.take(NUM_WORDS * num_tensors, "<u2"))
