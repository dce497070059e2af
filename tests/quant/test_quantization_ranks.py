"""Several processes quantize what one does: the same bytes, search and errors, each with a part of the work."""

import json

import pytest
import torch

from pipeline.base.ranks import ALONE, Ranks, share_of
from pipeline.launching.processes import torchrun
from tests.quant.quantize_run import quantize_toy


@pytest.mark.parametrize("num_processes", [pytest.param(2, marks=pytest.mark.slow), 3])
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


def test_work_is_dealt_evenly_each_piece_once():
    costs = {"a": 1, "b": 5, "c": 3, "d": 3, "e": 2}
    assert [share_of(costs, Ranks(rank, rank, 2)) for rank in range(2)] == [{"b", "e"}, {"a", "c", "d"}]
    assert [share_of({"a": 4, "b": 4}, Ranks(rank, rank, 3)) for rank in range(3)] == [{"a"}, {"b"}, set()]
    assert share_of(costs, ALONE) == set(costs)
