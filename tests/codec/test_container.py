"""The container: exact round trips, and one ArtifactError for every damage."""

import hashlib
import json
import random
import struct
import tracemalloc

import brotli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.codec import ArtifactError, QuantizedTensor, dequantize, read_artifact, write_artifact
from pipeline.codec.container import decode_artifact, encode_artifact

_SIDES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)
_STEPS = st.floats(2**-24, 1000, width=16)


@st.composite
def quantized_tensors(draw):
    codes = draw(hnp.arrays(draw(st.sampled_from([np.int8, np.int16])), _SIDES))
    return QuantizedTensor(codes, draw(hnp.arrays(np.float16, codes.shape[0], elements=_STEPS)))


_FINITE = {"allow_nan": False, "allow_infinity": False}
_PASSTHROUGH = st.one_of(
    hnp.arrays(np.float16, hnp.array_shapes(min_dims=0, max_side=5), elements=st.floats(width=16, **_FINITE)),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_side=5), elements=st.floats(width=32, **_FINITE)),
)
_META = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-9, 9), st.text(max_size=5), st.none()), max_size=3)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.one_of(quantized_tensors(), _PASSTHROUGH), max_size=5), _META)
def test_round_trip_is_exact(tensors, meta):
    content = encode_artifact(tensors, meta)
    back, back_meta = decode_artifact(content)
    assert list(back) == list(tensors)
    assert back_meta == meta
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor):
            assert same(back[name].codes, tensor.codes)
            assert same(back[name].step, tensor.step)
        else:
            assert same(back[name], np.asarray(tensor))
    assert encode_artifact(back, back_meta) == content


def sample():
    generator = np.random.default_rng(0)
    return {
        "a.weight": QuantizedTensor(generator.integers(-31, 32, (20, 30), np.int8), np.full(20, 0.01, np.float16)),
        "gain": generator.standard_normal(9).astype(np.float16),
        "b.weight": QuantizedTensor(generator.integers(-500, 500, (3, 4), np.int16), np.full(3, 0.5, np.float16)),
    }


def test_file_and_values(tmp_path):
    path = tmp_path / "model.fwy"
    assert write_artifact(path, sample(), {"bits": 6}) == path.stat().st_size
    tensors, meta = read_artifact(path)
    values = dequantize(tensors)
    assert meta == {"bits": 6}
    assert values["a.weight"].dtype == np.float32
    expected = np.float32(sample()["a.weight"].codes[4, 7]) * np.float32(np.float16(0.01))
    assert values["a.weight"][4, 7] == expected
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"model\.fwy: truncated"):
        read_artifact(path)


def mutate(content, generator):
    kind = generator.randrange(4)
    data = bytearray(content)
    at = generator.randrange(len(data))
    if kind == 0:
        data[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = generator.randbytes(generator.randrange(1, 9))
    else:
        data[at : at + 8] = generator.randbytes(8)
    return bytes(data)


def test_mutants_are_refused():
    content = encode_artifact(sample(), {"k": 1})
    generator = random.Random(7)
    for _ in range(10_000):
        mutant = mutate(content, generator)
        if mutant != content:
            with pytest.raises(ArtifactError) as caught:
                decode_artifact(mutant)
            assert "\n" not in str(caught.value)


def forge(header, codes=b"", steps=b"", passthrough=b"", raw=None):
    """Return a file with sound digests around hostile sections; `raw` overrides declared raw lengths."""
    parts = [header if isinstance(header, bytes) else json.dumps(header).encode(), codes, steps, passthrough]
    stored = [brotli.compress(part, quality=5) for part in parts]
    lengths = [len(part) for part in parts] if raw is None else raw
    table = b"".join(
        struct.pack("<II8s", len(s), n, hashlib.sha256(s).digest()[:8]) for s, n in zip(stored, lengths, strict=True)
    )
    return b"FWYA\x01" + table + b"".join(stored)


def one(dtype, shape):
    return {"meta": {}, "tensors": [["w", dtype, shape]]}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"FWYA", b"FWYA\x09" + bytes(64), b"PK\x03\x04" + bytes(100),
        forge(b"not json"), forge(b"[" * 100_000), forge([]), forge({"meta": 1, "tensors": []}),
        forge({"meta": {}, "tensors": [["w", "float16"]]}),
        forge(one("object", [1])), forge(one("float16", [-1])), forge(one("float16", [0, 10**12])),
        forge(one("float16", [True])), forge(one("float16", [1] * 9)), forge(one("int8", [4]), bytes(4), bytes(8)),
        forge(one("int8", [10**9, 10**9])), forge(one("float16", [2]), passthrough=bytes(3)),
        forge(one("float16", [1]), passthrough=b"\x00\x7c"),
        forge(one("int8", [1, 1]), b"\x01", b"\x00\x00"), forge(one("int8", [1, 1]), b"\x01", b"\x00\xbc"),
        forge({"meta": {}, "tensors": [["w", "float16", [1]], ["w", "float16", [1]]]}, passthrough=bytes(4)),
        forge(one("int8", [2, 2]), bytes(5), bytes([0, 0, 60, 60]), raw=[45, 4, 4, 0]),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(content):
    with pytest.raises(ArtifactError):
        decode_artifact(content)


def test_a_bomb_is_cut_off_before_it_expands():
    header = json.dumps(one("int8", [1, 100])).encode()
    bomb = forge(header, bytes(1 << 28), bytes([0, 60]), raw=[len(header), 100, 2, 0])
    assert len(bomb) < 10_000
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="section codes"):
        decode_artifact(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros(3, np.float64), "float16 or float32"), (np.full(2, np.inf, np.float16), "finite"),
        (np.zeros((0, 3), np.float16), "empty"),
        (QuantizedTensor(np.zeros((2, 2), np.int32), np.ones(2, np.float16)), "int8 or int16"),
        (QuantizedTensor(np.zeros((2, 2), np.int8), np.ones(3, np.float16)), "shape"),
        (QuantizedTensor(np.zeros((2, 2), np.int8), np.zeros(2, np.float16)), "positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_back_is_not_written(tensor, message):
    with pytest.raises(ValueError, match=message):
        encode_artifact({"w": tensor}, {})
