"""Ranks, devices and torchrun."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.training.launch import LaunchError, Ranks, current_ranks, process_group, resolve_device, torchrun


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert current_ranks() == Ranks(0, 0, 1)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert current_ranks() == Ranks(5, 1, 8)


def test_devices() -> None:
    assert resolve_device("cpu", 3) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"launch\.device: got 'tpu', expected auto, cpu or cuda"):
        resolve_device("tpu", 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs where there is no CUDA device")
def test_without_a_gpu() -> None:
    assert resolve_device("auto", 0) == torch.device("cpu")
    with pytest.raises(ValueError, match="no usable CUDA device"):
        resolve_device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: run on a GPU machine")
def test_with_a_gpu() -> None:
    assert resolve_device("auto", 0) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="one per GPU"):
        resolve_device("cuda", torch.cuda.device_count())


def test_a_world_of_one_has_no_group() -> None:
    with process_group(Ranks(0, 0, 1), torch.device("cpu")):
        assert not dist.is_initialized()


def test_a_dying_rank_is_one_line(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo)
    with pytest.raises(LaunchError, match=r"rank 1 of 2 died: .*the reason it died") as caught:
        torchrun("tests.training.tiny_run", ["--die", "1"], num_processes=2)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
