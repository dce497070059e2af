"""The GPU check runs the same code on a CPU, and fails when something is wrong."""

import pytest
import torch

from benchmarks import gpu_check

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["parity", "attention", pytest.param("training", marks=pytest.mark.slow)])
def test_the_checks_pass_on_a_cpu(name):
    check = {
        "parity": lambda: gpu_check.check_parity(CPU),
        "attention": lambda: gpu_check.check_attention(CPU),
        "training": lambda: gpu_check.check_training(CPU, "small"),
    }[name]
    assert check()["passed"]


def test_another_network_on_the_device_is_noticed(monkeypatch):
    honest = gpu_check.roused
    models = iter((0.0, 0.01, 0.0, 0.01))

    def disturbed(config, device):
        model = honest(config, device)
        with torch.no_grad():
            model.token_embedding.weight.mul_(1 + next(models))
        return model

    monkeypatch.setattr(gpu_check, "roused", disturbed)
    assert not gpu_check.check_parity(CPU)["passed"]


@pytest.mark.gpu
def test_every_check_passes_on_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: make gpu-check runs it on one")
    results = gpu_check.run_checks(torch.device("cuda", 0), "full")
    assert all(result["passed"] for result in results.values()), results
