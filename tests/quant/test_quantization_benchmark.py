"""The quantization benchmark at tiny size, and its arithmetic on curves that are known."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.quantization import compare, measure, report
from benchmarks.quantization_arms import brotli_file, ladder
from benchmarks.quantization_data import Material
from benchmarks.quantization_runs import Bench
from benchmarks.quantization_spreads import Axis, axes_of, axis_gains, lognormal_bits
from benchmarks.rate_curves import bytes_at, gap_at, interval, make_curve, resample_documents
from benchmarks.rate_plot import plot_points
from pipeline.base.config import load_params
from pipeline.codec.container import QuantizedTensor
from pipeline.quant.plan import plan_quantization
from tests.networks import TINY, changed, roused
from tests.quant.tiny_stream import tiny_stream

VOCABULARY, CONTEXT = 64, 24
MODEL = changed(
    TINY,
    {
        "vocab_size": VOCABULARY,
        "context_tokens": CONTEXT,
        "schedule.unique_blocks": 2,
        "schedule.looped_blocks": 1,
        "attention.exclusive_blocks": [2],
        "rope.dims": 4,
        "rope.loop_scales": [2.0, 1.0, 1.0],
        "bigram.buckets": 50,
        "value_embedding.readers": [0],
        "embed_init_std": 0.05,
    },
)


def exact_curve(gap_of, sizes, documents=5, seeds=2):
    """Return a curve whose gap is `gap_of(size)` in every document, and its resamples."""
    bytes_D = np.linspace(100, 900, documents)
    excess_P = np.array([gap_of(size) for size in sizes]) * math.log(2) / 1000
    excess_SPD = np.repeat((excess_P[:, None] * bytes_D)[None], seeds, 0)
    counts_BD = resample_documents(documents)
    return make_curve(np.repeat(np.array(sizes)[None], seeds, 0), excess_SPD, bytes_D, counts_BD)


def test_interpolation_is_exact_on_a_line_and_never_extrapolates():
    curve = exact_curve(lambda size: 100 * 2 ** (-size / 1000), [4000, 1000, 2000])
    gap_B = gap_at(curve, 1500)
    assert gap_B == pytest.approx(100 * 2**-1.5)  # the same in every resample: all documents agree
    assert bytes_at(curve, gap_B) == pytest.approx(1500)
    assert interval(gap_B) == pytest.approx({"value": 100 * 2**-1.5, "low": 100 * 2**-1.5, "high": 100 * 2**-1.5})
    assert gap_at(curve, 999) is None
    assert gap_at(curve, 4001) is None
    assert gap_at(curve, 1000) == pytest.approx(50)
    assert gap_at(curve, 4000) == pytest.approx(6.25)
    assert bytes_at(curve, gap_B + 100) is None


def test_resamples_are_paired_and_the_first_is_the_sample():
    counts_BD = resample_documents(7)
    assert (counts_BD[0] == 1).all()
    assert (counts_BD.sum(1) == 7).all()
    assert np.array_equal(counts_BD, resample_documents(7))
    generator = np.random.default_rng(0)
    bytes_D = np.full(7, 1000.0)
    nats_D = generator.random(7) * 50
    sizes_SP = np.array([[1000, 2000]])
    low, high = (make_curve(sizes_SP, scale * np.array([[nats_D, nats_D]]), bytes_D, counts_BD) for scale in (1.0, 3.0))
    gaps, tripled = gap_at(low, 1500), gap_at(high, 1500)
    assert gaps[0] == pytest.approx(nats_D.sum() / 7000 / math.log(2) * 1000)
    assert gaps.std() > 0
    assert tripled / gaps == pytest.approx(3)  # what documents share cancels


def test_a_spread_of_one_is_worth_what_the_literature_says():
    logs = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    saved = 0.5 * math.log2(float(logs.exp().mean()) / math.exp(float(logs.mean())))
    assert lognormal_bits(1.0) == pytest.approx(saved, rel=0.01)
    left = 0.5 * math.log2(float((logs / 2).exp().mean()) / math.exp(float(logs.mean() / 2)))
    assert lognormal_bits(1.0, 0.5) == pytest.approx(saved - left, rel=0.01)


def test_measured_gain_of_an_axis_is_the_distance_of_two_curves():
    curves = {
        "Gt": exact_curve(lambda size: 100 * 2 ** (-size / 1000), [4000, 1000, 2000]),
        "Gr": exact_curve(lambda size: 100 * 2 ** (-(size + 500) / 1000), [4000, 1000, 2000]),
    }
    axes = {"row g_r": Axis(1.0, 0.36, 0.4)}
    (line,) = axis_gains(axes, curves, 4000, gap_at(curves["Gt"], 2000))
    assert (line["axis"], line["without"], line["with"], line["expected_bits"]) == ("row g_r", "Gt", "Gr", 0.4)
    assert line["measured_bits"]["value"] == pytest.approx(500 * 8 / 4000)


def test_blob_takes_the_better_order():
    generator = np.random.default_rng(5)
    scale_C = generator.permutation(np.repeat([1, 30], 10))
    codes_RC = (generator.standard_normal((2000, 20)) * scale_C).clip(-127, 127).astype(np.int8)
    passthrough = {"b": np.ones(3, np.float16)}
    by_columns = {"a": QuantizedTensor(codes_RC, np.ones(2000, np.float16)), **passthrough}
    by_rows = {"a": QuantizedTensor(codes_RC.T.copy(), np.ones(20, np.float16)), **passthrough}
    assert brotli_file(by_columns, {})[1] == "brotli, columns"
    assert brotli_file(by_rows, {})[1] == "brotli, rows"


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "points.jsonl"


@pytest.fixture(scope="module")
def bench(journal):
    ids_NT = torch.randint(0, VOCABULARY, (16, CONTEXT), generator=torch.Generator().manual_seed(4))
    material = Material("crawler", roused(MODEL, 3), (ids_NT[::2], ids_NT[1::2]), tiny_stream(VOCABULARY, CONTEXT))
    return Bench(material, print, journal)


def test_documents_partition_the_stream(bench):
    scored = bench.material.scored
    assert scored.document_bytes().tolist() == [180, 270, 120, 225]
    assert np.bincount(scored.document_N).tolist() == [60, 91, 41, 76]  # the first BOS is no target
    assert bench.float_D.sum() == pytest.approx(bench.bpb(bench.float_D) * 795 * math.log(2))


@pytest.mark.slow
def test_the_whole_benchmark_at_tiny_size(bench, journal, repo, capsys):
    params = load_params(repo / "params.yaml", ["calibrate", "quantize"])
    calibrate = dataclasses.replace(params.calibrate, num_sequences=8, sensitivity_sequences=4)
    arms = {
        name: arm._replace(knobs=arm.knobs[:2] if arm.knobs[0] > 1 else (0.01, 0.02))
        for name, arm in ladder(calibrate, params.quantize).items()
    }
    arms["C"] = arms["C"]._replace(knobs=(5.0, 12.85, 16.0, 30.0))
    draws = [measure(bench, arms, seed) for seed in range(2)]
    measured = report(bench, arms, [point for points, _ in draws for point in points], draws[0][1])
    resumed = Bench(bench.material, print, journal)
    assert resumed.measure("G", arms["G"]._replace(solve=None), 1) == [p for p in draws[1][0] if p.arm == "G"]
    rows = {(point["arm"], point["seed"], point["knob"]): point for point in measured["points"]}
    assert len(rows) == 2 * sum(len(arm.knobs) for arm in arms.values())
    for seed in range(2):
        c, cr = rows["C", seed, 12.85], rows["Cr", seed, 12.85]
        assert c["nats_by_document"] == cr["nats_by_document"]
        assert c["file_bytes"] != cr["file_bytes"]
        assert rows["A", seed, 12.85]["proxy_loss"] > c["proxy_loss"] > 0
        assert rows["G", seed, 0.01]["file_bytes"] > rows["G", seed, 0.02]["file_bytes"]
    assert rows["A", 0, 12.85]["nats_by_document"] == rows["A", 1, 12.85]["nats_by_document"]
    assert rows["B", 0, 15]["nats_by_document"] != rows["B", 1, 15]["nats_by_document"]
    assert set(measured["ln_spreads"]) == {"row sigma_r", "row g_r", "column d_j", "lookup g_v", "tensor s_l*sigma_l^2"}
    assert [(comparison["quantity"], comparison["reference"]) for comparison in measured["comparisons"]] == [
        ("gap", "C at 12.85"),
        ("gap", "C at 16"),
        ("divergence", "C at 12.85"),
        ("divergence", "C at 16"),
    ]
    for seed in range(2):
        assert rows["C", seed, 12.85]["bits_above_bound"] is None
        assert 0 < rows["Gf", seed, 0.01]["divergence_mbpb"] < rows["Gf", seed, 0.02]["divergence_mbpb"]
        assert sum(rows["Gf", seed, 0.01]["divergence_by_document"]) * 1000 / math.log(2) / 795 == pytest.approx(
            rows["Gf", seed, 0.01]["divergence_mbpb"], rel=1e-3
        )
        point = rows["H8", seed, 0.01]
        assert 0 < point["code_bits_above_bound"] < point["bits_above_bound"] < point["bits_per_weight"]
    at_c = measured["comparisons"][0]["arms"]["C"]
    assert at_c["less_reference_mbpb"] == {"value": 0, "low": 0, "high": 0}
    assert "no overlap" in capsys.readouterr().out


def test_axes_expect_what_equal_loss_saves(bench, repo):
    params = load_params(repo / "params.yaml", ["calibrate", "quantize"])
    statistics, _ = bench.statistics(0, dataclasses.replace(params.calibrate, num_sequences=8, sensitivity_sequences=4))
    plan = plan_quantization(bench.material.model, statistics, params.quantize)
    whole = axes_of(plan, statistics)
    assert whole["row sigma_r"].expected_bits == whole["row sigma_r"].lognormal_bits == 0  # no step follows it
    assert all(axis.ln_spread > 0 and axis.expected_bits >= 0 for axis in whole.values())
    half = dataclasses.replace(params.quantize.steps, row_exponent=0.0, lookup_exponent=0.5)
    plan = plan_quantization(bench.material.model, statistics, dataclasses.replace(params.quantize, steps=half))
    part = axes_of(plan, statistics)
    assert part["row g_r"].expected_bits == 0
    assert 0 < part["lookup g_v"].expected_bits < whole["lookup g_v"].expected_bits
    assert part["column d_j"] == whole["column d_j"]


def test_plot_is_small(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="install the extra `bench` to draw the plot")
    from benchmarks.quantization_runs import Point

    points = [
        Point(arm, seed, knob, int(2e6 / knob), "", *[1.0] * 4, knob * (1 + 0.1 * seed), knob, *[1.0] * 4, [], [])
        for arm in "ABCDEFGH"
        for seed in (0, 1)
        for knob in (1.0, 1.5, 2.0)
    ]
    plot_points(tmp_path / "rates.png", points, dict.fromkeys("ABCDEFGH", "as it is"))
    assert 5_000 < (tmp_path / "rates.png").stat().st_size < 100_000
    assert compare(bench, []) == []
