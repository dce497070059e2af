"""The model of the integers: exact for anything, and on weights at its codelength, below the general coders."""

import lzma

import brotli
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from scipy.special import ndtr

from pipeline.codec.coders import TensorCoder, VectorCoder, coders_to_words
from pipeline.codec.integers import EXACT, IntegerReader, IntegerWriter
from pipeline.codec.range_coder import num_lanes
from pipeline.codec.tables import TABLE_BITS
from pipeline.quant.trellis_search import PathSearch


def round_trip(matrices):
    writer = IntegerWriter()
    parameters = [writer.add_matrix(codes_RC) for codes_RC in matrices]
    lanes = num_lanes(sum(codes_RC.size for codes_RC in matrices))
    stream, excess_N = writer.stream(lanes), np.concatenate([np.zeros(0, "<u2"), *writer.excess])
    reader = IntegerReader(stream, excess_N, lanes)
    for codes_RC, coder in zip(matrices, parameters, strict=True):
        back_RC = np.zeros_like(codes_RC)
        reader.take_matrix(back_RC, 1, coder)
        assert np.array_equal(back_RC, codes_RC)
    reader.check_end()
    return stream, excess_N, parameters


@settings(max_examples=80)
@given(
    st.lists(
        st.sampled_from([np.int8, np.int16]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
        ),
        max_size=3,
    )
)
def test_any_matrix_round_trips(matrices):
    round_trip(matrices)


def spiked(shape, dtype=np.int8):
    codes_RC = np.zeros(shape, dtype)
    codes_RC[-1, -1] = np.iinfo(dtype).min
    return codes_RC


@pytest.mark.parametrize(
    "codes_RC",
    [
        np.zeros((3, 5), np.int8),
        np.full((300, 4), -128, np.int8),
        np.full((4, 300), 32767, np.int16),
        np.arange(-128, 128, dtype=np.int8)[:, None],
        np.arange(-128, 128, dtype=np.int8)[None],
        np.arange(-(1 << 15), 1 << 15, 7, dtype=np.int16)[None],
        spiked((1, 1)),
        spiked((700, 500)),
        spiked((700, 500), np.int16),
        np.eye(99, dtype=np.int8),
        np.outer([1, 0, 40], [-2, 0, 9]).astype(np.int16),
        np.tile(np.int8([[1], [-1], [0]]), (1, 1000)),
        spiked((1, 1 << 19)),
        spiked((1 << 19, 1)),
        np.tile(np.arange(-128, 128, dtype=np.int8), (300, 1)),
        np.tile(np.int16([30000] + [-250] * 700), (99, 1)),
    ],
)
def test_extreme_matrices_round_trip(codes_RC):
    round_trip([codes_RC])


@settings(max_examples=60)
@given(hnp.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 31743)))
def test_vectors_are_kept_exactly_when_told_to(value_N):
    writer = IntegerWriter()
    coder, kept_N = writer.add_vector(value_N, EXACT)
    assert np.array_equal(kept_N, value_N)
    reader = IntegerReader(writer.stream(1), np.concatenate(writer.excess), 1)
    assert np.array_equal(reader.take_indices(len(value_N), 31744, coder), value_N)
    reader.check_end()


def compressed_sizes(matrices):
    raw = b"".join(np.ascontiguousarray(codes_RC.T).tobytes() for codes_RC in matrices)
    return {
        "brotli": len(brotli.compress(raw, quality=11, lgwin=24)),
        "zstd": len(zstandard.ZstdCompressor(level=22).compress(raw)),
        "lzma": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }


def coded_and_model_bytes(matrices):
    stream, excess_N, parameters = round_trip(matrices)
    coders = [TensorCoder(coder, VectorCoder(), VectorCoder(), 1) for coder in parameters]
    side = np.concatenate([coders_to_words(coders), excess_N])
    coded = len(stream) + len(brotli.compress(side.view(np.uint8).reshape(-1, 2).T.tobytes(), quality=11))
    model = 0.0
    for codes_RC in matrices:
        writer = IntegerWriter()
        writer.add_matrix(codes_RC)
        runs = writer.runs[4:]  # after the vectors
        model += sum(float(np.sum(TABLE_BITS - np.log2(frequency_N))) for _, frequency_N in runs) / 8
    return coded, model


def test_trained_weights_cost_their_codelength_and_less_than_any_general_coder(shared):
    tensors = load_file(shared / "data/checkpoint_4f1c_d256.safetensors").values()
    weights = [w.float().numpy() for w in tensors if w.ndim == 2 and w.numel() > 1 << 15]
    matrices = [
        np.clip(np.rint(w_RC * 31 / (4.2 * w_RC.std(1, keepdims=True))), -31, 31).astype(np.int8) for w_RC in weights
    ]
    assert sum(codes_RC.size for codes_RC in matrices) > 3_000_000
    coded, model = coded_and_model_bytes(matrices)
    assert model <= coded <= 1.003 * model
    part = matrices[::5]  # the other coders take their time
    assert coded_and_model_bytes(part)[0] < min(compressed_sizes(part).values())


def test_the_model_is_at_the_entropy_of_scale_mixtures():
    generator = np.random.default_rng(5)
    scale_RC = np.exp2(generator.normal(2, 0.4, (400, 1)) + generator.normal(0, 0.7, 600))
    codes_RC = np.rint(generator.standard_normal((400, 600)) * scale_RC).astype(np.int16)
    _, model = coded_and_model_bytes([codes_RC])
    own = ndtr((codes_RC + 0.5) / scale_RC) - ndtr((codes_RC - 0.5) / scale_RC)
    # Indices on a grid of 2^(1/8), estimated from 400 or 600 samples each: 0.002 bit; table rounding 0.001.
    assert model * 8 / codes_RC.size < -np.log2(own).mean() + 0.003


@pytest.mark.parametrize("states", [1, 8])
def test_one_loud_column_costs_the_others_nothing(states):
    """Indices are those of the shortest code: by second moments the loud column would speak for all rows."""
    generator = np.random.default_rng(7)
    scale_RC = 0.8 * np.exp(0.3 * generator.normal(size=(400, 1)) + 0.4 * generator.normal(size=300))
    scale_RC[:, 7] *= 60
    weight_RC = generator.normal(size=(400, 300)) * scale_RC
    whole_RC = np.rint(weight_RC)
    own = ndtr((whole_RC + 0.5) / scale_RC) - ndtr((whole_RC - 0.5) / scale_RC)
    writer = IntegerWriter()
    if states == 1:
        writer.add_matrix(whole_RC.astype(np.int32))
    else:
        on_path_R = np.ones(400, bool)
        writer.add_matrix(PathSearch([400], on_path_R, states).codes(2 * weight_RC).astype(np.int32), states, on_path_R)
    # Indices spread over an octave cost 4 to 5 bits. Paths at half steps have the entropy of whole steps.
    entropy, indices = -np.log2(np.maximum(own, 1e-300)).sum(), 700 * 4.5
    assert writer.num_bits() < 1.002 * entropy + indices


def test_quiet_rows_scatter_no_indices():
    """Where nearly all codes are 0, small indices are all alike: none of them may cost an excess."""
    generator = np.random.default_rng(8)
    scale_R1 = np.where(np.arange(400) % 2, 4.0, 0.2)[:, None]
    writer = IntegerWriter()
    writer.add_matrix(np.rint(generator.normal(size=(400, 300)) * scale_R1).astype(np.int32))
    assert not any(excess_N.any() for excess_N in writer.excess[:4])


def test_what_rows_share_is_stored_once():
    generator = np.random.default_rng(6)
    noise_RC, profile_C = generator.normal(0, 4, (900, 200)), generator.normal(0, 12, 200)
    loads_R1 = np.concatenate([np.zeros(500), generator.normal(1, 0.3, 400)])[:, None]
    plain, mixed = (np.rint(values).astype(np.int8) for values in (noise_RC, noise_RC + loads_R1 * profile_C))
    assert round_trip([plain])[2][0][1:3] == (VectorCoder(), VectorCoder())
    # 200 profile values and 900 loads of some 10 bits each; without them the 400 rows cost 1.7 bits more per code.
    assert coded_and_model_bytes([mixed])[0] < coded_and_model_bytes([plain])[0] + 1500
