"""The GPU check runs the same code on a CPU, and fails when something is wrong."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import numbers
from benchmarks.gpu_check.__main__ import run_parts
from benchmarks.gpu_check.parts import PARTS, Part

CPU = torch.device("cpu")
SLOW = ("parity", "walls", "training", "tests", "nightcrawler-cudnn", "sp8192")


@pytest.mark.parametrize("name", [pytest.param(p.name, marks=[pytest.mark.slow] * (p.name in SLOW)) for p in PARTS])
def test_every_part_passes_on_a_cpu(name: str, repo: Path) -> None:
    part = next(part for part in PARTS if part.name == name)
    if name in ("walls", "muon"):  # walls stay up, and a process group is the process's only one
        command = [sys.executable, "-m", "benchmarks.gpu_check.part", name, "cpu", "small"]
        lines = subprocess.run(command, input="go\n", capture_output=True, text=True, check=True, cwd=repo).stdout
        findings = [json.loads(line) for line in lines.splitlines()]
    else:
        findings = [{title: finding} for title, finding in part.load()(CPU, "small")]
    assert findings
    for found in findings:
        for title, finding in found.items():
            assert finding.get("passed", True), (title, finding)
            json.dumps(finding)


def test_another_network_on_the_device_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = numbers.roused
    factors = iter((1.0, 1.01, 1.0, 1.01, 1.0, 1.0, 1.0))

    def disturbed(config, device):
        model = honest(config, device)
        with torch.no_grad():
            model.token_embedding.weight.mul_(next(factors))
        return model

    monkeypatch.setattr(numbers, "roused", disturbed)
    findings = dict(numbers.parity(CPU, "small"))
    assert not findings["crawler"]["passed"]
    assert not findings["folded"]["passed"]
    assert findings["attention sdpa"]["passed"]


FAKE_PARTS = {
    "good": "print(json.dumps({'a': {'passed': True}}))",
    "wrong": "print(json.dumps({'b': {'passed': False}}))",
    "dead": "print(json.dumps({'c': {}})); sys.stdout.flush(); os.kill(os.getpid(), 11)",
    "hanging": "print(json.dumps({'d': {'passed': True}})); sys.stdout.flush(); "
    "os.system('echo $$ > pid; exec sleep 60')",
    "last": "print(json.dumps({'e': {'passed': True}}))",
}


def run_fakes(names: list[str], out: Path, limit: float, seconds: float) -> dict:
    def command_of(part: Part) -> list[str]:
        text = f"import json, os, sys; os.chdir({str(out)!r}); sys.stdin.readline(); {FAKE_PARTS[part.name]}"
        return [sys.executable, "-c", text]

    return run_parts([Part(name, limit, "", "") for name in names], command_of, out, seconds)


def test_a_part_that_fails_dies_or_hangs_takes_nothing_from_the_others(tmp_path: Path) -> None:
    results = run_fakes(list(FAKE_PARTS), tmp_path, limit=6, seconds=60)
    assert {name: result["status"] for name, result in results.items()} == {
        "good": "passed",
        "wrong": "failed: b",
        "dead": "died of signal 11",
        "hanging": "over its limit of 6 s",
        "last": "passed",
    }
    assert results["hanging"]["findings"] == {"d": {"passed": True}}
    assert json.loads((tmp_path / "gpu_check.json").read_text())["parts"] == results
    with contextlib.suppress(FileNotFoundError):  # a zombie where nobody asked for its end yet
        state = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat").read_text().split()[2]
        assert state == "Z", "what a part started ends with it"


def test_what_finds_no_time_is_said_and_not_begun(tmp_path: Path) -> None:
    results = run_fakes(["good", "last"], tmp_path, limit=60, seconds=4)
    assert [result["status"] for result in results.values()] == ["no time left", "no time left"]
    assert not any(result["findings"] for result in results.values())


def test_the_command_writes_to_its_folder_alone(tmp_path: Path, repo: Path) -> None:
    results = repo / "benchmarks" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", tmp_path, "--part", "machine"]
    if not torch.cuda.is_available():
        command += ["--device", "cuda", "--size", "small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_check.json", "log.txt"]
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == before
    assert torch.cuda.is_available() or (done.returncode, "no usable CUDA" in done.stdout) == (1, True)
