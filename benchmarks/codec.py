"""The coder of the artifact's integers against general coders and against its own model.

Run `python -m benchmarks.codec ARTIFACT`. All coders get the same integers: the codes of every quantized tensor, column
by column, which suits the others best. `fairway` counts all it stores for them: the stream with its lane states and
scale indices, coder parameters and excesses. The model codelength is the sum of -log2 of the codes' table frequencies
alone. Seconds are wall seconds of one thread, the least of three for `fairway`.
"""

import argparse
import lzma
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import brotli
import numpy as np
import torch
import zstandard

from benchmarks.results import ROOT, write_result
from pipeline.codec.coders import MatrixCoder
from pipeline.codec.container import QuantizedTensor, encode_artifact, read_artifact
from pipeline.codec.integers import IntegerReader, IntegerWriter
from pipeline.codec.range_coder import num_lanes
from pipeline.codec.tables import TABLE_BITS
from pipeline.reports.training import hardware_name

_LONG_CODES = 30_000_000
_Result = TypeVar("_Result")


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__.split("\n")[0])
    parser.add_argument("artifact", type=Path, help="as artifacts/seeds/444/quantize/model.fwy")
    path = parser.parse_args().artifact
    tensors, meta = read_artifact(path)
    matrices = [tensor.codes for tensor in tensors.values() if isinstance(tensor, QuantizedTensor)]
    num_codes = sum(codes_RC.size for codes_RC in matrices)
    rows = {"fairway": _measure_fairway(matrices, 3), **_measure_others(matrices)}
    model_bytes = sum(map(_model_bytes, matrices))
    print(f"{path}: {num_codes} codes, model codelength {model_bytes:.0f} bytes")
    print(f"{'coder':16} {'bytes':>10} {'over model':>11} {'encode s':>9} {'decode s':>9}")
    for name, row in rows.items():
        over = row["bytes"] / model_bytes
        print(f"{name:16} {row['bytes']:10} {over:11.5f} {row['encode_seconds']:9.3f} {row['decode_seconds']:9.3f}")
    plain_bytes = sum(_plain_bytes(tensor) for tensor in tensors.values())
    file_bytes = len(encode_artifact(tensors, meta))
    print(
        f"file {file_bytes} bytes, {file_bytes / (model_bytes + plain_bytes):.5f} of model codelength and the "
        f"{plain_bytes} bytes of steps and passthrough tensors as float16"
    )
    copies = -(-_LONG_CODES // num_codes)
    long_row = _measure_fairway(matrices * copies, 1)
    seconds = "encode {encode_seconds:.2f} s, decode {decode_seconds:.2f} s".format(**long_row)
    print(f"{copies * num_codes} codes: {seconds}")
    measured: dict[str, Any] = {
        "artifact": path.name,
        "codes": num_codes,
        "model_bytes": round(model_bytes),
        "coders": rows,
        "file_bytes": file_bytes,
        "plain_bytes": plain_bytes,
        "long": {"codes": copies * num_codes, **long_row},
    }
    print(write_result("codec", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def _measure_fairway(matrices: list[np.ndarray], repeats: int) -> dict[str, Any]:
    lanes = num_lanes(sum(codes_RC.size for codes_RC in matrices))

    def encode() -> tuple[bytes, np.ndarray, list[MatrixCoder]]:
        writer = IntegerWriter()
        parameters = [writer.add_matrix(codes_RC) for codes_RC in matrices]
        return writer.stream(lanes), np.concatenate(writer.excess), parameters

    def decode() -> None:
        reader = IntegerReader(stream, excess_N, lanes)
        for codes_RC, coder in zip(matrices, parameters, strict=True):
            back_RC = np.zeros_like(codes_RC)
            reader.take_matrix(back_RC, 1, coder)
            assert np.array_equal(back_RC, codes_RC)
        reader.check_end()

    (stream, excess_N, parameters), encode_seconds = _timed(encode, repeats)
    _, decode_seconds = _timed(decode, repeats)
    words = np.concatenate([np.array(parameters, np.int16).reshape(-1).view(np.uint16), excess_N])
    beside = len(brotli.compress(words.view(np.uint8).reshape(-1, 2).T.tobytes(), quality=11))
    return {
        "bytes": len(stream) + beside,
        "lane_state_bytes": 4 * lanes,
        "beside_stream_bytes": beside,
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
    }


def _measure_others(matrices: list[np.ndarray]) -> dict[str, dict[str, Any]]:
    raw = b"".join(np.ascontiguousarray(codes_RC.T).tobytes() for codes_RC in matrices)
    zstd = zstandard.ZstdCompressor(level=22), zstandard.ZstdDecompressor()
    coders: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "brotli 11": (lambda data: brotli.compress(data, quality=11, lgwin=24), brotli.decompress),
        "brotli, tuned": (lambda data: brotli.compress(data, quality=10, lgwin=10, lgblock=22), brotli.decompress),
        "zstd 22": (zstd[0].compress, zstd[1].decompress),
        "lzma 9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    }
    rows = {}
    for name, (compress, decompress) in coders.items():
        stored, encode_seconds = _timed(partial(compress, raw), 1)
        _, decode_seconds = _timed(partial(decompress, stored), 1)
        rows[name] = {"bytes": len(stored), "encode_seconds": encode_seconds, "decode_seconds": decode_seconds}
    return rows


def _model_bytes(codes_RC: np.ndarray) -> float:
    writer = IntegerWriter()
    writer.add_matrix(codes_RC)
    blocks = writer.runs[4:]  # after the vectors
    return sum(float(np.sum(TABLE_BITS - np.log2(frequency_N))) for _, frequency_N in blocks) / 8


def _plain_bytes(tensor: QuantizedTensor | np.ndarray) -> int:
    return tensor.step.nbytes if isinstance(tensor, QuantizedTensor) else tensor.nbytes


def _timed(work: Callable[[], _Result], repeats: int) -> tuple[_Result, float]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return result, min(seconds)


if __name__ == "__main__":
    main()
