"""Several processes write the ledger of one: the same bits under every protocol, on each of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.ranks import ALONE
from pipeline.launching.processes import torchrun
from pipeline.model.network import build
from tests.networks import TINY
from tests.scoring.ranks_run import score_all
from tests.scoring.scoring_toys import PROTOCOLS, random_documents, run


@pytest.mark.parametrize("num_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_write_the_ledger_of_one_process(num_processes, repo: Path, tmp_path: Path, monkeypatch) -> None:
    """SGD batches have six parts and one: two of three ranks then have none. Some steps lack batches."""
    monkeypatch.chdir(repo)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun("tests.scoring.ranks_run", [str(tmp_path)], num_processes)
    alone = score_all(ALONE)
    for item, scores in alone.items():
        for rank in range(num_processes):
            with np.load(tmp_path / f"{item}-{rank}.npz") as found:
                for column, expected in scores._asdict().items():
                    assert found[column].tobytes() == expected.tobytes(), (item, rank, column)


def test_the_number_of_threads_moves_no_bit() -> None:
    """Tokens enough that products would be shared among threads, were they not kept from it."""
    model, tokens = build(TINY), random_documents([300] * 8, TINY.vocab_size)
    rule = {**PROTOCOLS["ttt"], "context_tokens": 128, "stride_tokens": 64, "chunk_tokens": 600}
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(run(model, tokens, rule, batch_tokens=1024))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0].nats.tobytes() == found[1].nats.tobytes() == found[2].nats.tobytes()
