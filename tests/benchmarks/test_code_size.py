"""The program that only decodes: small, and right."""

import runpy

import numpy as np

from benchmarks.code_size import decoder_program
from pipeline.codec.container import QuantizedTensor, dequantize, write_artifact
from pipeline.quant.trellis_search import PathSearch

_DECODER_BYTES = 3300


def test_a_small_decoder_reads_an_artifact(repo, tmp_path, monkeypatch):
    wanted_RC = np.random.default_rng(0).normal(size=(200, 30)) * 5
    on_path_R = np.arange(200) % 5 > 0
    code_RC = PathSearch([200], on_path_R, 8).codes(wanted_RC).astype(np.int8)
    steps = np.linspace(0.1, 0.2, 200).astype(np.float16), np.linspace(1, 2, 30).astype(np.float16)
    tensors = {"w": QuantizedTensor(code_RC, *steps, 8, on_path_R), "b": np.arange(7, dtype=np.float32)}
    write_artifact(tmp_path / "model.fwy", tensors, {})
    program = decoder_program(repo)
    (tmp_path / "decode.py").write_bytes(program)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("decode.py")
    weights = np.load("weights.npz")
    assert np.array_equal(weights["w"], dequantize(tensors)["w"])
    assert np.array_equal(weights["b"], tensors["b"])
    assert len(program) <= _DECODER_BYTES
