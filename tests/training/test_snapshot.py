"""Snapshots on one process, inside this one: what a stopped run continues with, and which snapshots it refuses."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.launching.processes import StoppedError
from pipeline.model.network import build
from pipeline.training.config import TrainConfig
from pipeline.training.journal import TrainResult
from pipeline.training.snapshot import Snapshots
from tests.training.tiny_run import ALONE, MODEL, train_config, train_tiny

CPU = torch.device("cpu")


class Run:
    """One run of the tiny model with snapshots in a folder; `said` is what the person at the keyboard reads."""

    def __init__(
        self, folder: Path, every_seconds: float = 1e-9, kind: type[Snapshots] = Snapshots, **identity: Any
    ) -> None:
        self.lines: list[str] = []
        self.said: list[str] = []
        self.snapshots = kind(folder, {"seed": 0, **identity}, every_seconds, ALONE, CPU, self.lines, self.said.append)

    def train(
        self, config: TrainConfig, stop_after: int | None = None, model: nn.Module | None = None, **arguments: Any
    ) -> tuple[nn.Module, TrainResult]:
        """Train; with `stop_after` this process gets a real SIGTERM while that step is running."""

        def progress(step: int, *_: object) -> None:
            if stop_after is not None and step == stop_after - 1:
                signal.raise_signal(signal.SIGTERM)

        with self.snapshots:
            return train_tiny(
                config, model, log=self.lines.append, snapshots=self.snapshots, **{"progress": progress, **arguments}
            )


def stopped(folder: Path, config: TrainConfig, step: int, **arguments: Any) -> Run:
    """Return a run that was stopped after `step` and left its snapshot."""
    run = Run(folder)
    with pytest.raises(StoppedError, match=f"by SIGTERM after step {step}; to continue .* same command") as stop:
        run.train(config, stop_after=step, **arguments)
    assert stop.value.exit_code == 143
    return run


def assert_equal_runs(one: tuple[nn.Module, TrainResult], two: tuple[nn.Module, TrainResult]) -> None:
    """Check that two runs ended with the same bits and the same curve, but for times."""
    for (name, weight), other in zip(one[0].state_dict().items(), two[0].state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    timeless = [[{**row, "seconds": 0} for row in result.curve] for _, result in (one, two)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("step", [2, 5, 11])
def test_a_stopped_run_ends_with_the_bits_of_one_that_ran_through(step: int, precision: str, tmp_path: Path) -> None:
    """Twelve steps: inside the warm-up, on a log line in the momentum warm-up, and before the last step."""
    config = train_config(precision=precision)
    through, first = Run(tmp_path / "through"), stopped(tmp_path / "stopped", config, step)
    whole = through.train(config)
    second = Run(tmp_path / "stopped")
    assert_equal_runs(whole, second.train(config))
    assert second.said == [f"continuing after step {step}"]
    assert second.snapshots.resumed_at_steps == [step]
    assert second.lines[: len(first.lines)] == first.lines, "the log goes on where it stopped"
    assert [line.split(" ")[0] for line in second.lines] == [line.split(" ")[0] for line in through.lines]


def test_snapshots_change_nothing(tmp_path: Path) -> None:
    assert_equal_runs(train_tiny(train_config()), Run(tmp_path).train(train_config()))


def test_a_run_stopped_again_and_again(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        stopped(tmp_path, train_config(), step)
    last = Run(tmp_path)
    assert_equal_runs(train_tiny(train_config()), last.train(train_config()))
    assert last.snapshots.resumed_at_steps == [3, 6, 9]


class _Noisy(nn.Module):
    """The tiny model with a noisy loss, drawn from torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build(MODEL, seed=0)

    def forward(self, input_ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids_BT, targets_BT) * torch.rand(())


def test_random_numbers_go_on_where_they_stopped(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = train_tiny(train_config(), _Noisy())
    torch.manual_seed(1)
    stopped(tmp_path, train_config(), 6, model=_Noisy())
    torch.manual_seed(2)
    assert_equal_runs(whole, Run(tmp_path).train(train_config(), model=_Noisy()))


def test_parts_keep_their_dtypes(tmp_path: Path) -> None:
    """Torch alone would load a bf16 momentum of an fp32 weight as fp32."""

    def optimizer_with_state(value: float) -> torch.optim.Optimizer:
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        optimizer.state[weight] = {"momentum": torch.full((3,), value).bfloat16(), "count": torch.tensor(int(value))}
        return optimizer

    def the_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        return next(iter(optimizer.state.values()))

    saved, loaded = optimizer_with_state(1.7), optimizer_with_state(5.0)
    with Run(tmp_path).snapshots as snapshots:
        snapshots.restore({"part": saved})
        snapshots.save(3, 1.5, [{"step": 1, "loss": 0.1}])
    with Run(tmp_path).snapshots as snapshots:
        assert snapshots.restore({"part": loaded}) == (3, 1.5, [{"step": 1, "loss": 0.1}])
    for name, value in the_state(saved).items():
        assert the_state(loaded)[name].dtype == value.dtype
        assert torch.equal(the_state(loaded)[name], value)


def test_a_snapshot_of_another_run_is_ignored_and_says_why(tmp_path: Path) -> None:
    stopped(tmp_path, train_config(), 5)
    other = Run(tmp_path, train={"matrix_lr": 0.01, "betas": (0.9, 0.95)})
    assert_equal_runs(train_tiny(train_config()), other.train(train_config()))
    assert other.said == [
        "snapshot of step 5 ignored: train.matrix_lr was None, is 0.01, train.betas was None, is [0.9, 0.95]"
    ]
    assert other.snapshots.resumed_at_steps == []


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _stating(**changes: Any) -> Any:
    """Return a damage that states other values in a manifest."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("step-5.rank-0.pt", _flip_a_bit, "step-5.rank-0.pt is damaged"),
        ("step-5.rank-0.pt", lambda path: path.write_bytes(path.read_bytes()[:-9]), "step-5.rank-0.pt is damaged"),
        ("step-5.rank-0.pt", Path.unlink, "No such file"),
        ("snapshot.json", lambda path: path.write_bytes(path.read_bytes()[:-9]), "snapshot.json is damaged"),
        ("snapshot.json", lambda path: path.write_text("{}"), "snapshot.json is damaged"),
        ("snapshot.json", lambda path: path.write_text("[1]"), "snapshot.json is damaged"),
        ("snapshot.json", lambda path: path.write_text("[" * 100_000), "snapshot.json is damaged"),
        ("snapshot.json", lambda path: path.write_bytes(b"\xff\xfe{}"), "snapshot.json is damaged"),
        ("snapshot.json", _stating(step="5"), "snapshot.json is damaged"),
        ("snapshot.json", _stating(step=-5), "snapshot.json is damaged"),
        ("snapshot.json", _stating(seconds=float("nan")), "snapshot.json is damaged"),
        ("snapshot.json", _stating(curve=[[1]]), "snapshot.json is damaged"),
        ("snapshot.json", _stating(lines=[1]), "snapshot.json is damaged"),
        ("snapshot.json", _stating(sha256={}), "snapshot.json is damaged"),
        ("snapshot.json", _stating(identity=[]), "snapshot.json is damaged"),
        ("snapshot.json", _stating(resumed_at_steps=0), "snapshot.json is damaged"),
        (
            "snapshot.json",
            _stating(identity={"a" * 1000: "b" * 1_000_000}),
            "snapshot of step 5 ignored: seed was None",
        ),
    ],
    ids=[
        "bit",
        "truncated",
        "missing",
        "manifest truncated",
        "manifest empty",
        "list",
        "deep",
        "UTF-16",
        "step as text",
        "negative step",
        "seconds nan",
        "curve of lists",
        "lines of numbers",
        "digests no list",
        "identity no mapping",
        "steps no list",
        "long identity",
    ],
)
def test_a_damaged_snapshot_is_ignored_and_says_so(name: str, damage: Any, message: str, tmp_path: Path) -> None:
    stopped(tmp_path, train_config(), 5)
    damage(tmp_path / name)
    fresh = Run(tmp_path)
    assert_equal_runs(train_tiny(train_config()), fresh.train(train_config()))
    assert len(fresh.said) == 1
    assert message in fresh.said[0]
    assert len(fresh.said[0]) < 500


def test_a_snapshot_that_does_not_fit_the_program_is_refused_in_one_line(tmp_path: Path) -> None:
    stopped(tmp_path, train_config(), 5)
    with pytest.raises(ValueError, match=r"step 5 was written by another version.*delete that folder"):
        Run(tmp_path).train(train_config(), model=_Noisy())


def test_a_writer_killed_at_any_point_leaves_the_previous_snapshot(tmp_path: Path) -> None:
    """The states on disk while step 6 is written: a temporary file, a rank's file, a temporary manifest."""
    stopped(tmp_path, train_config(), 5)
    for leftover in (".step-6.rank-0.pt.77.partial", "step-6.rank-0.pt", ".snapshot.json.77.partial"):
        (tmp_path / leftover).write_bytes(b"half")
    stopped(tmp_path, train_config(), 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot.json", "step-8.rank-0.pt"]
    assert json.loads((tmp_path / "snapshot.json").read_text())["resumed_at_steps"] == [5]


def test_the_previous_files_stay_until_the_manifest_names_the_new_ones(tmp_path: Path) -> None:
    """A snapshot that cannot be written is said, and training goes on: a folder is in the manifest's place."""
    stopped(tmp_path / "run", train_config(), 5)
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    run = Run(tmp_path / "run")

    def blocked(step: int, *_: object) -> None:
        if step == 6:
            (tmp_path / "run/snapshot.json").unlink()
            (tmp_path / "run/snapshot.json").mkdir()

    assert_equal_runs(train_tiny(train_config()), run.train(train_config(), progress=blocked))
    assert run.said[1].startswith("warning: no snapshot after step 6: [Errno 21] Is a directory: '")
    assert (tmp_path / "run/step-5.rank-0.pt").read_bytes() == (tmp_path / "kept/step-5.rank-0.pt").read_bytes()


def test_a_full_disk_costs_a_snapshot_and_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal meanwhile, it says that the way on starts at an earlier step."""
    stopped(tmp_path, train_config(), 5)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        run = Run(tmp_path)
        with pytest.raises(StoppedError, match="after step 8; to continue from the last snapshot, run the same"):
            run.train(train_config(), stop_after=8)
    assert run.said[1:] == [
        f"warning: no snapshot after step {step}: [Errno 28] No space left on device: "
        f"'{tmp_path}/step-{step}.rank-0.pt'"
        for step in (6, 7, 8)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot.json", "step-5.rank-0.pt"]
    assert_equal_runs(train_tiny(train_config()), Run(tmp_path).train(train_config()))


class _Clock:
    """A clock on which a forward pass of its model takes a second, and other things what they are told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def model(self) -> nn.Module:
        """Return a fresh tiny model that moves this clock."""
        model = build(MODEL, seed=0)
        model.register_forward_pre_hook(lambda _module, _inputs: self.__dict__.update(now=self.now + 1))
        return model


def test_the_interval_counts_from_the_last_snapshot_and_disk_is_bounded(tmp_path: Path) -> None:
    """A second per step and 2.5 seconds between snapshots: after steps 3, 6 and 9; the last step needs none."""
    clock = _Clock()
    seen: list[str] = []

    def progress(*_: object) -> None:
        seen.append(" ".join(sorted(path.name.split(".")[0] for path in tmp_path.glob("step*"))))

    Run(tmp_path, every_seconds=2.5).train(train_config(), model=clock.model(), clock=clock, progress=progress)
    # A step's progress is shown before its snapshot is taken.
    assert seen == [""] * 3 + ["step-3"] * 3 + ["step-6"] * 3 + ["step-9"] * 3


def test_saving_takes_no_training_time_and_seconds_go_on(tmp_path: Path) -> None:
    """A second per step, a hundred per snapshot, a budget of ten seconds: ten steps, in one run or two."""
    config = train_config(max_steps=None, max_seconds=10.0)

    class SlowDisk(Snapshots):
        clock: _Clock

        def save(self, *position: Any) -> None:
            self.clock.now += 100
            super().save(*position)

    def ten_seconds(folder: Path, clock: _Clock, stop_after: int | None = None) -> TrainResult:
        run = Run(folder, kind=SlowDisk)
        run.snapshots.clock = clock
        return run.train(config, stop_after, clock.model(), clock=clock)[1]

    whole = ten_seconds(tmp_path / "whole", _Clock())
    with pytest.raises(StoppedError, match="after step 5"):
        ten_seconds(tmp_path / "parts", _Clock(), stop_after=5)
    rest = ten_seconds(tmp_path / "parts", _Clock(5000.0))  # another process, another clock
    assert [(run.last["step"], run.last["seconds"]) for run in (whole, rest)] == 2 * [(10, 10.0)]


def test_a_signal_during_a_save_waits_for_the_next_step(tmp_path: Path) -> None:
    """Other ranks have not heard of it: a rank that left now would leave them waiting."""

    class Interrupted(nn.Linear):
        def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
            signal.raise_signal(signal.SIGINT)
            return super().state_dict(*arguments, **keywords)

    with Run(tmp_path, every_seconds=60).snapshots as snapshots:
        snapshots.restore({"part": Interrupted(1, 1)})
        assert not snapshots.is_due(1.0)
        snapshots.save(1, 1.0, [])
        assert snapshots.is_due(2.0)
        with pytest.raises(StoppedError, match="by SIGINT after step 2"):
            snapshots.save(2, 2.0, [])


def test_signals_are_obeyed_at_once_outside_of_the_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run.train(train_config(max_steps=2))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    _, result = Run(tmp_path).train(train_config(), stop_after=12)
    assert result.last["step"] == 12


def test_discarding_removes_the_folder(tmp_path: Path) -> None:
    run = stopped(tmp_path / "state", train_config(), 5)
    run.snapshots.discard()
    assert not (tmp_path / "state").exists()
