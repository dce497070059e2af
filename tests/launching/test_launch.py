"""Ranks, devices and torchrun."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.base.config import parse_value
from pipeline.base.ranks import Ranks
from pipeline.launching.config import LaunchConfig
from pipeline.launching.processes import (
    LaunchError,
    current_ranks,
    process_group,
    resolve_device,
    resolve_processes,
    torchrun,
)
from pipeline.reports.training import hardware_name


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


def test_auto_is_one_process_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for num_gpus, device, expected in ((0, "auto", 1), (0, "cuda", 1), (8, "auto", 8), (8, "cuda", 8), (8, "cpu", 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=num_gpus: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=num_gpus: count > 0)
        assert resolve_processes("auto", device) == expected
        assert resolve_processes(3, device) == 3


def test_the_section_takes_a_number_or_auto() -> None:
    section = {"num_processes": "auto", "device": "cpu", "attention": "auto", "snapshot_seconds": None}
    assert parse_value(LaunchConfig, section, "launch").num_processes == "auto"
    assert parse_value(LaunchConfig, section | {"num_processes": 2, "snapshot_seconds": 3}, "launch").num_processes == 2
    for key, value, expected in (
        ("num_processes", "all", "got 'all'.*expected auto or a number"),
        ("num_processes", 1.5, "got 1.5.*expected a whole number"),
        ("num_processes", True, "got True.*expected a whole number"),
        ("num_processes", 0, "got 0, expected auto or at least 1"),
        ("attention", "flash-5", "got .flash-5.*did you mean `flash-"),
        ("snapshot_seconds", 0, "got 0.0, expected null or above 0"),
    ):
        with pytest.raises(ValueError, match=rf"^launch\.{key}: {expected}"):
            parse_value(LaunchConfig, section | {key: value}, "launch")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: run on a GPU machine")
def test_with_a_gpu() -> None:
    assert resolve_device("auto", 0) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="one per GPU"):
        resolve_device("cuda", torch.cuda.device_count())


def test_a_world_of_one_has_no_group() -> None:
    with process_group(Ranks(0, 0, 1), torch.device("cpu")):
        assert not dist.is_initialized()


@pytest.mark.parametrize(("chosen", "threads"), [(None, "3"), ("2", "2")])
def test_ranks_share_the_cores_unless_the_user_chose(
    chosen: str | None, threads: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine said to have six cores; torchrun alone would give each of two ranks one thread."""
    monkeypatch.chdir(repo)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    torchrun("tests.training.tiny_run", ["--threads", str(tmp_path)], num_processes=2)
    assert [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)] == [threads, threads]
    assert os.environ.get("OMP_NUM_THREADS") == chosen, "the caller's environment is as before"


def test_hardware_is_named_where_the_system_tells_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert hardware_name(torch.device("cpu")).startswith("10-core ")


def test_gpus_are_counted_by_ranks_not_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "H100")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert hardware_name(torch.device("cuda", 0), world_size=2) == "2x H100"


def test_a_dying_rank_is_one_line(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo)
    with pytest.raises(LaunchError, match=r"rank 1 of 2 died: .*the reason it died") as caught:
        torchrun("tests.training.tiny_run", ["--die", "1"], num_processes=2)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
