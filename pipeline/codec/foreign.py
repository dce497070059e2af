"""Artifacts from anywhere: whatever the bytes are, they cost bounded memory and end in a model or one `ArtifactError`.

The one idea: everything that decoding allocates is checked before, against limits and against the shapes; the decoder
itself trusts what a digest guards. A record carries only that decoder, for the artifact that it made.

Source: ours.
Checked by: tests/codec/test_container.py (mutations, bombs), tests/model/test_checkpoint.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import brotli

from pipeline.base.checks import require
from pipeline.base.config import parse_value
from pipeline.codec.container import (
    CODE_DTYPES,
    MAX_AXES,
    MAX_CODE_AXIS,
    MAX_CODES,
    PASSTHROUGH_DTYPES,
    ArtifactTensors,
    Entry,
    QuantizedTensor,
    Words,
    count_codes,
    decode_sections,
    is_sound,
    most_codes,
    take_coders,
)
from pipeline.codec.restore import dequantized_model
from pipeline.codec.sections import SECTION_LIMITS, ArtifactError, StoredSection, stored_sections
from pipeline.codec.tables import MAX_MAGNITUDE_BITS, NUM_CLASSES
from pipeline.codec.trellis import TRELLIS_STATES
from pipeline.mixture.mixing import Mixtures, checked_mixtures
from pipeline.model.checkpoint import check_shapes
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet

_MAX_TENSORS = 1 << 10
_READ_BYTES = 1 << 16


def load_artifact_model(path: Path) -> tuple[LoopedUNet, Mixtures]:
    """Return the dequantized model of an artifact, built from the config inside, and its mixtures by name.

    Raises ArtifactError.
    """
    content = path.read_bytes()
    try:
        tensors, meta = decode_foreign_artifact(content)
        config = parse_value(ModelConfig, meta.get("model"), "model")
        mixtures = checked_mixtures(parse_value(Mixtures, meta.get("mixtures", {}), "mixtures"))
        shapes = {
            name: (each.codes if isinstance(each, QuantizedTensor) else each).shape for name, each in tensors.items()
        }
        check_shapes(config, shapes, "the artifact does not fit the model config inside")
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return dequantized_model(tensors, config), mixtures


def decode_foreign_artifact(content: bytes) -> tuple[ArtifactTensors, dict]:
    """Invert `encode_artifact` for content that may be hostile; raises ValueError."""
    sections = {section.name: _raw_section(section) for section in stored_sections(content)}
    _check_values(_checked_entries(sections["header"]), sections)
    tensors, meta = decode_sections(sections)
    for name, tensor in tensors.items():
        require(is_sound(tensor), f"tensor {name!r:.80}", "others", "finite values, steps above 0")
    return tensors, meta


def _checked_entries(header: bytes) -> list[Entry]:
    """Return the tensors that a header declares; raises ValueError unless all of it is sound."""
    try:
        document = json.loads(header)
    except (ValueError, RecursionError):
        raise ValueError("the header is not JSON") from None
    require(isinstance(document, dict) and set(document) == {"meta", "tensors"}, "header", document, "meta and tensors")
    meta, entries = document["meta"], document["tensors"]
    require(isinstance(meta, dict), "header: meta", meta, "an object")
    few = isinstance(entries, list) and len(entries) <= _MAX_TENSORS
    require(few, "header: tensors", entries, f"a list of at most {_MAX_TENSORS}")
    layout = [_checked_entry(entry) for entry in entries]
    require(len({entry.name for entry in layout}) == len(layout), "header", "a tensor twice", "every name once")
    return layout


def _checked_entry(entry: object) -> Entry:
    require(isinstance(entry, list) and len(entry) == 3, "header: tensor", entry, "[name, dtype, shape]")
    name, dtype, shape = cast(list, entry)
    require(isinstance(name, str), "header: name of a tensor", name, "a string")
    known = isinstance(dtype, str) and dtype in CODE_DTYPES + PASSTHROUGH_DTYPES
    require(known, "header: dtype of a tensor", dtype, f"one of {CODE_DTYPES + PASSTHROUGH_DTYPES}")
    is_codes = dtype in CODE_DTYPES
    # Zero would let another axis be of any size.
    most = MAX_CODE_AXIS if is_codes else MAX_CODES
    sized = isinstance(shape, list) and all(type(size) is int and 0 < size <= most for size in shape)
    require(sized, "header: shape of a tensor", shape, f"axes from 1 to {most}")
    fits = len(shape) == 2 if is_codes else len(shape) <= MAX_AXES
    require(fits, "header: shape of a tensor", shape, f"at most {MAX_AXES} axes, two of codes")
    return Entry(name, dtype, tuple(shape))


def _check_values(layout: list[Entry], sections: Mapping[str, bytes]) -> None:
    """Raise ValueError where a layout wants more codes than the file can hold, or a coder parameter is out of range."""
    declared, most = count_codes(layout), most_codes(sections["codes"])
    require(declared <= most, "header: codes", declared, f"at most {most}, what the stored bytes allow")
    for matrix, *steps, states in take_coders(Words(sections["values"]), sum(entry.is_codes() for entry in layout))[1]:
        vectors = [matrix.loads, matrix.profile, matrix.rows, matrix.columns, *steps]
        sound = 0 <= matrix.bits <= MAX_MAGNITUDE_BITS and states in (1, *TRELLIS_STATES)
        sound &= all(0 <= row < NUM_CLASSES for _, row in vectors)
        require(sound, "section values: coder", (matrix, *steps, states), "bits, classes and states in range")


def _raw_section(section: StoredSection) -> bytes:
    """Return the raw bytes of a section, never holding more than a read beyond those that it declares."""
    name, stored, raw_length = section
    limit = SECTION_LIMITS[name]
    require(raw_length <= limit, f"section {name}: bytes", raw_length, f"at most {limit}")
    raw = stored if name == "codes" else _decompressed(name, stored, raw_length)
    require(len(raw) == raw_length, f"section {name}: bytes", len(raw), f"{raw_length}, as declared")
    return raw


def _decompressed(name: str, stored: bytes, most_bytes: int) -> bytes:
    """Return what a brotli stream holds; raises ValueError unless it is sound and no longer than `most_bytes`."""
    decoder, pending, parts, size = brotli.Decompressor(), stored, [], 0
    try:
        while not decoder.is_finished() and size <= most_bytes:
            part = decoder.process(pending, output_buffer_limit=min(most_bytes - size, 1 << 24) + _READ_BYTES)
            if not part and not decoder.is_finished() and decoder.can_accept_more_data():
                break
            parts.append(part)
            size, pending = size + len(part), b""
    except brotli.error:
        pass
    require(decoder.is_finished(), f"section {name}: bytes", size, f"{most_bytes} of a sound brotli stream")
    return b"".join(parts)
