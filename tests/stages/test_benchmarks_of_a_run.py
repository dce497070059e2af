"""The benchmarks that measure the finished run of a checkout: its text, its checkpoint, its score."""

import json

import pytest
import torch

from benchmarks.mixture import SCALES, full_material, measure_gains
from benchmarks.quantization.data import load_material
from benchmarks.quantization.runs import Bench
from benchmarks.scoring import measure_streams


def test_a_finished_run_is_measured_on_its_own_text(finished, tmp_path):
    artifacts = finished.root / "artifacts"
    material, trained_M = full_material(artifacts)
    bench = Bench(material, print, tmp_path / "points.jsonl")
    scores = json.loads((artifacts / "seeds/1/evaluate/scores-float.json").read_text())
    assert bench.bpb(bench.float_D) == pytest.approx(scores["val_bpb"], rel=1e-6)  # batches of another size
    assert len(material.scored.bytes_N) == scores["targets"]
    first, second = material.draws
    assert first.shape == second.shape
    assert not {*map(tuple, first.tolist())} & {*map(tuple, second.tolist())}
    gains = measure_gains(SCALES["small"], material, trained_M)["protocols"]
    streams = measure_streams("small", 1, torch.device("cpu"), material)["protocols"]
    assert gains["blocks"]["bpb"]["network"] == pytest.approx(scores["val_bpb"], rel=0.05)  # another context
    assert [row["kind"] for row in streams] == ["sliding", "stream"]


def test_a_run_without_a_checkpoint_is_one_line(finished, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_bytes((finished.root / "artifacts/data/manifest.json").read_bytes())
    with pytest.raises(ValueError, match=r"^checkpoint: got 'none in .*seeds', expected one; run `dvc repro`$"):
        load_material(tmp_path)
