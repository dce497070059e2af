"""The scan of settings at tiny size, its arithmetic, and sensitivities of whole sequences against those of tokens."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.judge import Judge
from benchmarks.quantization_tuning import KNOBS, Rated, compare, rate, settings_around, shrunk
from benchmarks.sequence_sensitivity import with_sequence_sensitivities
from pipeline.config import load_params
from pipeline.progress import silent
from pipeline.quant.loop_aware import calibrate
from pipeline.quant.plan import plan_quantization
from pipeline.ranks import Ranks
from tests.networks import TINY, changed, roused
from tests.quant.tiny_stream import tiny_stream

VOCABULARY, CONTEXT = 64, 24
MODEL = changed(TINY, {"vocab_size": VOCABULARY, "context_tokens": CONTEXT, "embed_init_std": 0.05})


@pytest.fixture(scope="module")
def model():
    return roused(MODEL, 3).eval()


@pytest.fixture(scope="module")
def judge(model):
    return Judge(model, tiny_stream(VOCABULARY, CONTEXT))


@pytest.fixture(scope="module")
def default(repo):
    return load_params(repo / "params.yaml", ["calibrate", "quantize"])


def calibrated(model, default, ids):
    config = dataclasses.replace(default.calibrate, num_sequences=len(ids), sensitivity_sequences=len(ids))
    return calibrate(model, ids, config, Ranks(0, 0, 1), torch.device("cpu"), silent)


def test_every_setting_differs_from_the_default_in_what_it_says(model, judge, default):
    ids = torch.randint(0, VOCABULARY, (16, CONTEXT), generator=torch.Generator().manual_seed(4))
    bundle = calibrated(model, default, ids)
    whole = with_sequence_sensitivities(model, bundle, ids, 0.01)
    settings = settings_around(default.quantize, lambda _: whole)
    names = [setting.name for setting in settings]
    assert len(set(names)) == len(names)
    assert len({(setting.quantize, setting.statistics) for setting in settings}) == len(names)
    by_name = {setting.name: setting for setting in settings}
    base = rate(judge, bundle, by_name["default"], None)
    assert base.bytes_P[0] > base.bytes_P[1]
    plan = plan_quantization(model, bundle, default.quantize)
    assert rate(judge, bundle, by_name["default"], base.bytes_P.tolist()).divergence_PD == pytest.approx(
        base.divergence_PD
    )
    assert plan.config.steps.row_exponent == 1
    shared = shrunk(0.25)(bundle)
    key = "sensitivity/blocks.0.mlp.up.weight/0"
    assert torch.allclose(shared[key], 0.75 * bundle[key] + 0.25 * bundle[key].mean())
    assert torch.equal(shared["sensitivity/head"], bundle["sensitivity/head"])


def test_comparison_is_at_the_defaults_sizes(judge):
    sizes_P = np.array([4000.0, 2000.0])
    bytes_D = judge.stream.document_bytes()
    shape = np.arange(1, len(bytes_D) + 1)

    def rated(bytes_P, factor):
        level_P = factor * 2 ** (-bytes_P / 1000)
        return Rated(bytes_P, level_P[:, None] * shape, level_P[:, None] * bytes_D)

    line = compare(judge, rated(sizes_P, 1.0), "finer", rated(sizes_P + 100, 3.0))
    assert line["setting"] == "finer"
    assert [ratio["value"] for ratio in line["divergence_ratio"]] == pytest.approx([3, 3])
    gap = 1000 / math.log(2) * (3 * 2**-4.1 - 2**-4)
    assert line["gap_less_default_mbpb"][0]["value"] == pytest.approx(gap)
    assert len(KNOBS) == len(sizes_P)


def test_sequences_of_one_token_have_the_sensitivities_of_tokens(model, default):
    """With one token and one visit there is nothing to sum: only the metric differs."""
    ids = torch.randint(0, VOCABULARY, (96, 1), generator=torch.Generator().manual_seed(5))
    bundle = calibrated(model, default, ids)
    whole = with_sequence_sensitivities(model, bundle, ids, 0.01)
    for name in ("blocks.0.mlp.down.weight", "blocks.1.attention.output.weight"):
        key = f"sensitivity/{name}/0"
        # Gradients and inputs of so few tokens are not independent.
        assert float(whole[key].mean() / bundle[key].mean()) == pytest.approx(1, abs=0.5)
    looped = [f"sensitivity/blocks.4.mlp.up.weight/{visit}" for visit in range(3)]
    ratio = float(whole[looped[0]].mean() / sum(bundle[key] for key in looped).mean())
    assert 0.5 < ratio < 2  # the bundle's visits are summed before they are squared as well
    assert not whole[looped[1]].any()
    assert set(whole) == set(bundle)
    assert torch.equal(whole["sensitivity/head"], bundle["sensitivity/head"])
