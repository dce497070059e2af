"""The container: exact round trips, and one line for every damage."""

import contextlib
import hashlib
import json
import random
import struct
import time
import tracemalloc

import brotli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.base.closure import import_closure
from pipeline.codec import ArtifactError, QuantizedTensor, dequantize, read_artifact, write_artifact
from pipeline.codec.container import decode_artifact, encode_artifact
from pipeline.codec.foreign import decode_foreign_artifact
from pipeline.codec.sections import SECTION_LIMITS, split_sections

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


@settings(max_examples=60)
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
    with pytest.raises(ArtifactError, match=r"model\.fwy: sha256 of section codes: got "):
        read_artifact(path)


def test_a_record_carries_the_reader_of_its_own_artifact_only(repo):
    carried = {path.name for path in import_closure("pipeline.record.program", repo) if path.parent.name == "codec"}
    assert {"container.py", "restore.py", "sections.py"} <= carried
    assert "foreign.py" not in carried


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
    for _ in range(7_000):
        mutant = mutate(content, generator)
        if mutant != content:
            with pytest.raises(ValueError, match=r"^[^\n]*$"):
                decode_foreign_artifact(mutant)


@pytest.mark.parametrize("section", SECTION_LIMITS)
def test_mutants_with_sound_digests_are_refused_or_decode(section):
    raw = split_sections(encode_artifact(sample(), {"k": 1}))
    generator, refused = random.Random(8), 0
    for _ in range(1_000):
        content = forge(*({**raw, section: mutate(raw[section], generator)}.values()))
        with contextlib.suppress(ValueError):
            refused += 1
            decode_foreign_artifact(content)
            refused -= 1
    # Most bytes of the header and of the passthrough tensors mean something else, not nothing, when changed.
    assert refused > {"header": 400, "values": 400, "codes": 970}[section]


def forge(header, values=b"", codes=b"", raw=None):
    """Return a file with sound digests around hostile sections; `raw` overrides declared raw lengths."""
    parts = [header if isinstance(header, bytes) else json.dumps(header).encode(), values, codes]
    stored = [brotli.compress(parts[0], quality=5), brotli.compress(values, quality=5), codes]
    lengths = [len(part) for part in parts] if raw is None else raw
    table = b"".join(
        struct.pack("<II8s", len(s), n, hashlib.sha256(s).digest()[:8]) for s, n in zip(stored, lengths, strict=True)
    )
    return b"FWYA\x03" + table + b"".join(stored)


def one(dtype, shape):
    return {"meta": {}, "tensors": [["w", dtype, shape]]}


def planes(*words):
    return np.array(words, np.uint16).view(np.uint8).reshape(-1, 2).T.tobytes()


_LANE = struct.pack("<I", 1 << 16)
_ZEROS = [0] * 14 + [1]  # a tensor without a trellis
_ONE = 0x3C00  # as float16
_STEP = (0, *_ZEROS, _ONE, _ONE)


def test_the_forger_can_also_forge_a_sound_file():
    tensors, _ = decode_foreign_artifact(forge(one("int8", [1, 1]), planes(*_STEP), _LANE))
    assert tensors["w"].codes.tolist() == [[0]]
    assert tensors["w"].step.tolist() == [1.0]
    assert decode_foreign_artifact(forge(one("float16", [1]), planes(0, _ONE), _LANE))[0]["w"].tolist() == [1.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"FWYA",
        b"FWYA\x09" + bytes(64),
        b"PK\x03\x04" + bytes(100),
        forge(b"not json"),
        forge(b"[" * 100_000),
        forge([]),
        forge({"meta": 1, "tensors": []}),
        forge({"meta": {}, "tensors": [["w", "float16"]]}),
        forge(b"9" * 10_000),
        forge(one("object", [1])),
        forge(one("float16", [-1])),
        forge(one("float16", [0, 10**12])),
        forge(one("float16", [True])),
        forge(one("float16", [1] * 9)),
        forge(one("int8", [4]), planes(*_STEP), _LANE),
        forge({"meta": {}, "tensors": [["w", "float16", [1]]] * 2}, planes(0, _ONE, _ONE), _LANE),
        forge({"meta": {}, "tensors": [[str(k), "float16", []] for k in range(2000)]}, planes(0, *[0] * 2000), _LANE),
        # too many codes
        forge(one("int8", [10**9, 10**9]), planes(*_STEP), _LANE),
        forge(one("int8", [1 << 21, 1]), b"", _LANE),
        # values: half a word, too short, excesses of nothing, infinity
        forge(one("float16", [2]), planes(0, _ONE)[:-1], _LANE),
        forge(one("float16", [2]), planes(0, _ONE), _LANE),
        forge(one("float16", [1]), planes(0, _ONE, 7), _LANE),
        forge(one("float16", [1]), planes(0, 0x7C00), _LANE),
        forge(one("float16", [1 << 26] * 8), planes(0, 0), _LANE),
        # steps: zero, negative, a level that is not there
        forge(one("int8", [1, 1]), planes(0, *_ZEROS, 0, _ONE), _LANE),
        forge(one("int8", [1, 1]), planes(0, *_ZEROS, _ONE, 0), _LANE),
        forge(one("int8", [1, 1]), planes(0, *_ZEROS, 0xBC00, _ONE), _LANE),
        forge(one("int8", [1, 1]), planes(1, *_ZEROS[:10], 7, 0, 0, 0, 1, _ONE), _LANE + bytes(2)),
        forge(one("int8", [1, 1]), planes(60000, *_ZEROS, _ONE, _ONE), _LANE),
        # coder parameters: nine bits, classes out of range
        forge(one("int8", [1, 1]), planes(0, 9, *_ZEROS[1:], _ONE, _ONE), _LANE),
        forge(one("int8", [1, 1]), planes(0, 1, 0, 128, *_ZEROS[3:], _ONE, _ONE), _LANE),
        forge(one("int8", [1, 1]), planes(0, 1, 0, 0xFFFF, *_ZEROS[3:], _ONE, _ONE), _LANE),
        # states of no known trellis
        forge(one("int8", [1, 1]), planes(0, *_ZEROS[:-1], 2, _ONE, _ONE), _LANE),
        forge(one("int8", [1, 1]), planes(0, *_ZEROS[:-1], 0, _ONE, _ONE), _LANE),
        # codes: no states, a state below the range, words of nothing
        forge(one("int8", [1, 1]), planes(*_STEP)),
        forge(one("int8", [1, 1]), planes(*_STEP), bytes(4)),
        forge(one("int8", [1, 1]), planes(*_STEP), _LANE + bytes(2)),
    ],
)
def test_hostile_files_are_refused(content):
    with pytest.raises(ValueError, match=r"^[^\n]*$"):
        decode_foreign_artifact(content)


def test_steps_of_columns_come_back_and_multiply():
    """On few levels, where they are coded, and on many, where they are stored; all ones are none."""
    generator = np.random.default_rng(0)
    codes_RC = generator.integers(-9, 10, (40, 24), dtype=np.int8)
    for row_steps, column_steps in (
        ([0.5, 0.25], [1.0, 2.0]),
        (generator.random(40) + 0.1, generator.random(24) + 0.1),
    ):
        step_R = np.resize(np.array(row_steps, np.float16), 40)
        step_C = np.resize(np.array(column_steps, np.float16), 24)
        content = encode_artifact({"w": QuantizedTensor(codes_RC, step_R, step_C)}, {})
        stored = decode_foreign_artifact(content)[0]["w"]
        for found, expected in zip(stored[:3], (codes_RC, step_R, step_C), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
        value_RC = dequantize({"w": stored})["w"]
        assert np.array_equal(value_RC, codes_RC * (step_R.astype(np.float32)[:, None] * step_C.astype(np.float32)))
    plain = QuantizedTensor(codes_RC, step_R, np.ones(24, np.float16))
    assert decode_artifact(encode_artifact({"w": plain}, {}))[0]["w"].column_step is None
    with pytest.raises(ValueError, match="step of w"):
        encode_artifact({"w": QuantizedTensor(codes_RC, step_R, step_C[:-1])}, {})


def test_more_codes_than_the_stored_bytes_allow_are_refused():
    many = forge(one("int8", [1 << 13, 1 << 13]), planes(*_STEP, *[_ONE] * (2 * (1 << 13) - 2)), _LANE * 2048)
    with pytest.raises(ValueError, match="codes: got 67108864"):
        decode_foreign_artifact(many)


def test_the_old_format_is_refused_in_one_line():
    content = b"FWYA\x02" + encode_artifact(sample(), {})[5:]
    with pytest.raises(ValueError, match=r"^format version: got 2, expected 3: quantize again$"):
        decode_foreign_artifact(content)


def test_an_integer_that_does_not_fit_is_refused():
    tensors = {"w": QuantizedTensor(np.array([[3, 200]], np.int16), np.ones(1, np.float16))}
    raw = split_sections(encode_artifact(tensors, {}))
    narrow = raw["header"].replace(b"int16", b"int8")
    with pytest.raises(ValueError, match="code: got 200, expected one that int8"):
        decode_foreign_artifact(forge(narrow, raw["values"], raw["codes"]))


@pytest.mark.parametrize("section", ["header", "values"])
def test_a_bomb_is_cut_off_before_it_expands(section):
    sound = {"header": json.dumps(one("int8", [1, 1])).encode(), "values": planes(*_STEP), "codes": _LANE}
    lengths = [len(part) for part in sound.values()]
    bomb = forge(*{**sound, section: bytes(1 << 28)}.values(), raw=lengths)
    assert len(bomb) < 10_000
    assert measured(bomb, f"section {section}")[1] < 1 << 24


def measured(content, message=None):
    """Return (seconds, peak bytes) of decoding, which must fail with `message` if that is given."""

    def decode():
        with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
            decode_foreign_artifact(content)

    started = time.process_time()
    decode()
    seconds = time.process_time() - started
    tracemalloc.start()
    decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


def test_little_work_and_memory_can_be_asked_for_with_few_bytes():
    codes_RC = np.zeros((1 << 11, 1 << 12), np.int8)
    codes_RC[0, 0] = -1
    idle = encode_artifact({"w": QuantizedTensor(codes_RC, np.ones(len(codes_RC), np.float16))}, {})
    assert len(idle) < 20_000
    many = {str(k): QuantizedTensor(np.full((1, 1), k % 256, np.int16), np.ones(1, np.float16)) for k in range(1024)}
    largest = forge(one("float32", [1 << 24]), bytes((1 << 26) - 4), _LANE)
    for content, message in (idle, None), (encode_artifact(many, {}), None), (largest, "words left"):
        seconds, peak = measured(content, message)
        assert seconds < 2
        assert peak < 1 << 30


def test_steps_on_few_levels_cost_few_bits():
    generator = np.random.default_rng(0)
    codes_RC = generator.integers(-3, 4, (4096, 8), np.int8)
    exponent_R = np.rint(generator.normal(-40, 2, 4096))
    sizes = [
        len(encode_artifact({"w": QuantizedTensor(codes_RC, np.exp2(e / 8).astype(np.float16))}, {}))
        for e in (exponent_R, np.full(4096, -40.0))
    ]
    entropy_bits = 0.5 * np.log2(2 * np.pi * np.e * 4)
    # The levels themselves are some 18 words, 0.07 bit of a step.
    assert (sizes[0] - sizes[1]) * 8 / 4096 < entropy_bits + 0.2


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros(3, np.float64), "float16 or float32"),
        (np.full(2, np.inf, np.float16), "finite"),
        (np.zeros((0, 3), np.float16), "empty"),
        (QuantizedTensor(np.zeros((2, 2), np.int32), np.ones(2, np.float16)), "int8 or int16"),
        (QuantizedTensor(np.zeros((2, 2), np.int8), np.ones(3, np.float16)), "shape"),
        (QuantizedTensor(np.zeros((2, 2), np.int8), np.zeros(2, np.float16)), "positive"),
        (QuantizedTensor(np.zeros((1, (1 << 20) + 1), np.int8), np.ones(1, np.float16)), "axes at most"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tensor, message):
    with pytest.raises(ValueError, match=message):
        encode_artifact({"w": tensor}, {})
