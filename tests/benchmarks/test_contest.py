"""The contest: what its arms are, the published file within its budget, and the whole of it at tiny size."""

import dataclasses

import pytest
import torch
import yaml

from benchmarks.contest import ARMS, ITEM, contest, published_fit, summary
from benchmarks.quantization.arms import SDCLIP, brotli_blob
from benchmarks.results import ROOT
from pipeline.base.config import SECTIONS, load_params, parse_value, read_yaml
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.calibration.calibrate import calibrate
from pipeline.quant.config import BudgetConfig, CalibrateConfig, QuantizeConfig
from tests.networks import TINY, random_ids, roused
from tests.stages.conftest import write_corpus


@pytest.fixture
def base():
    return read_yaml(ROOT / "params.yaml")


def test_the_arms_differ_in_what_the_publication_says_and_in_nothing_else(base, tmp_path):
    theirs, own = (make(base, 60.0) for make in ARMS.values())
    for name, values in zip(ARMS, (theirs, own), strict=True):
        (tmp_path / name).write_text(yaml.safe_dump(values))
        load_params(tmp_path / name, SECTIONS)
    assert {key for key in base if theirs[key] != own[key]} == {"train", "calibrate", "evaluate"}
    assert (theirs["train"]["max_seconds"], theirs["train"]["loop_stages"]) == (60.0, None)
    assert theirs["train"]["warmdown_frac"] == 0.5, "2,000 of 4,012 steps"
    assert theirs["train"]["batch_tokens"] == own["train"]["batch_tokens"]
    assert theirs["evaluate"]["protocols"][ITEM] == base["evaluate"]["protocols"]["sliding"]
    assert own["evaluate"]["protocols"][ITEM] == base["evaluate"]["protocols"][base["evaluate"]["items"][-1]]
    assert own["train"] == {**base["train"], "max_steps": None, "max_seconds": 60.0, "reserve_seconds": 0.0}


def test_the_published_file_is_the_largest_of_its_code_that_fits(base):
    model = roused(TINY, 0)
    chosen = parse_value(CalibrateConfig, base["calibrate"], "calibrate")
    chosen = dataclasses.replace(chosen, num_sequences=8, batch_sequences=4, sensitivity_sequences=0, mixture=None)
    statistics = calibrate(model, random_ids(TINY, 8, TINY.context_tokens), chosen, ALONE, torch.device("cpu"), silent)
    config = parse_value(QuantizeConfig, base["quantize"], "quantize")
    budget = BudgetConfig(limit_bytes=20000, code_reserve_bytes=1000, tolerance_frac=0.01)
    trial = published_fit(model, statistics, config, budget)
    assert 19000 - 200 <= len(trial.content) <= 19000
    assert trial.content == brotli_blob(trial.tensors)[0]
    assert SDCLIP.min_clip_std < trial.knob < SDCLIP.max_clip_std


@pytest.mark.slow
def test_both_arms_run_to_the_limit_and_are_compared_document_by_document(tmp_path):
    base = read_yaml(ROOT / "recipes" / "tiny.yaml")
    write_corpus(tmp_path / "corpus" / "texts.jsonl", 900)
    text = {"source": "text", "files": [str(tmp_path / "corpus/texts.jsonl")], "val_frac": 0.1, "vocab_size": 320}
    base["data"] |= text
    base["model"]["vocab_size"] = 320
    measured = contest({**base, "seeds": [1]}, 2.0, tmp_path / "contest")
    for arm in measured["arms"]:
        assert 0 < arm["total_bytes"] <= base["budget"]["limit_bytes"]
        assert arm["mean"]["train_seconds"] == pytest.approx(2.0, rel=0.2)
    (difference,) = measured["differences"]
    headlines = [arm["mean"][f"{ITEM}_bpb"] for arm in measured["arms"]]
    assert difference["difference_mbpb"] == pytest.approx(1000 * (headlines[1] - headlines[0]), abs=1e-6)
    assert f"{difference['difference_mbpb']:+.1f} mBPB" in summary(measured)
