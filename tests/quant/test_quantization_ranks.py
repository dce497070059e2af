"""Several processes quantize what one does: the same bytes, search and errors, each with a part of the work."""

import json

import pytest
import torch

from pipeline.base.ranks import ALONE, dealt
from pipeline.launching.processes import torchrun
from tests.quant.quantize_run import quantize_toy


@pytest.mark.parametrize("num_processes", [2, 3])
def test_ranks_make_the_artifact_of_one_process(num_processes, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(repo)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun("tests.quant.quantize_run", [str(tmp_path)], num_processes=num_processes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = quantize_toy(ALONE)
    torch.set_num_threads(threads)
    rate, clip, spoilt, small = alone
    assert rate["content"] != clip["content"]
    assert spoilt["error"].startswith("HessianError: ")
    assert small["error"].startswith("BudgetError: budget.limit_bytes: ")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(num_processes)]
    for number, whole in enumerate(alone):
        each = [outcomes[number] for outcomes in ranks]
        shares = [int(outcome.pop("groups", 0)) for outcome in each]
        assert sum(shares) == int(whole.pop("groups", 0))
        assert "error" in whole or min(shares) > 0
        assert all(outcome == whole for outcome in each)


def test_work_is_dealt_evenly_and_the_first_gets_the_largest():
    assert dealt([1, 5, 3, 3, 2], 2) == [1, 0, 1, 1, 0]
    assert dealt([4, 4, 4], 5) == [0, 1, 2]
    assert dealt([1, 2], 1) == [0, 0]
