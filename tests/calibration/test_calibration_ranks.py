"""Two processes calibrate what one does: the same statistics on each of them, and the same artifact."""

import pytest
import torch

from pipeline.base.ranks import Ranks
from pipeline.codec.container import encode_artifact
from pipeline.launching.processes import torchrun
from pipeline.quant.config import QuantizeConfig
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from tests.calibration.calibrate_run import STEPS, calibrate_toy

CONFIG = QuantizeConfig(
    solver="gptq",
    steps=STEPS,
    visit_weights="sensitivity",
    target_share=1.0,
    damp_frac=0.01,
    block_columns=16,
    trellis_states=None,
)


@pytest.mark.parametrize("num_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_hold_the_statistics_of_one_process(num_processes, repo, tmp_path, monkeypatch):
    """Of 4 ranks, one is without a batch of gradients or more: 3 sequences make three such batches.

    Each batch is computed as one process would; only float64 sums change their order, so that entries differ by a
    float32 rounding at most. That hardly ever happens, and moves no code here: the artifact has the same bytes.
    """
    monkeypatch.chdir(repo)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torchrun("tests.calibration.calibrate_run", [str(tmp_path)], num_processes=num_processes)
    torch.set_num_threads(1)
    model, alone = calibrate_toy(Ranks(0, 0, 1))
    torch.set_num_threads(threads)
    zero, *others = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(num_processes))
    assert zero.keys() == alone.keys()
    assert any(key.startswith("cross/") for key in zero)
    assert {"mixture/document", "mixture/stream"} <= zero.keys()
    for key, entry in alone.items():
        assert all(torch.equal(zero[key], other[key]) for other in others), f"{key}: the ranks disagree"
        torch.testing.assert_close(zero[key], entry, rtol=2e-7, atol=0, msg=key)
    plans = [plan_quantization(model, statistics, CONFIG) for statistics in (alone, zero)]
    contents = [encode_artifact(quantize_plan(plan, RateEstimate(plan).knob(3.0)), {}) for plan in plans]
    assert contents[0] == contents[1]
