"""The whole course from outside: a fresh clone, `make demo`, a sweep, a no-op rerun, a requantization, `--help`.

Run `python -m benchmarks.course` on a quiet machine with nothing uncommitted: it clones HEAD into a temporary folder
and sets up an environment there. Wall seconds; memory is the largest single process, in bytes. What an ordinary
processor does: `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python -m
benchmarks.course --name course_avx2`.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.results import ROOT, write_result
from pipeline.reports.training import hardware_name

ARMS = {"fine": 0.005, "coarse": 0.02, "coarser": 0.05}
"""Name of an arm -> quantize.damp_frac."""


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.course", description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="course", help="of the file with the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "fairway")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        measured: dict = {"environment_seconds": _seconds(clone, "make", ".venv")}
        started = time.perf_counter()
        printed = _run(clone, "make", "demo")
        measured["pipeline_seconds"] = time.perf_counter() - started
        measured["machine"] = next(line for line in printed.splitlines() if line.startswith("machine: "))
        measured["stage_seconds"] = stage_seconds(printed)
        measured["cold_demo_seconds"] = measured["environment_seconds"] + measured["pipeline_seconds"]
        measured["sweep_seconds"] = _sweep_seconds(clone)
        measured["clone_to_page_seconds"] = measured["cold_demo_seconds"] + measured["sweep_seconds"]
        measured["noop_repro_seconds"] = min(_seconds(clone, "dvc", "repro") for _ in range(3))
        measured["audit_seconds"] = _seconds(clone, "dvc", "repro", "--single-item", "--force", "audit")
        measured["status_seconds"] = min(_seconds(clone, "fairway", "status") for _ in range(3))
        measured["help_seconds"] = {name: _best_help(clone, name) for name in ("prepare", "train", "package")}
        measured["report"] = json.loads(_run(clone, "fairway", "report", "--json"))
        measured["train"] = _train_report(clone)
        params = clone / "params.yaml"
        text = params.read_text()
        assert text.count("\n  damp_frac: 0.01 ") == 1, "params.yaml: one quantize.damp_frac at the section's indent"
        params.write_text(text.replace("\n  damp_frac: 0.01 ", "\n  damp_frac: 0.02 "))
        measured["requantize_to_record_seconds"] = _seconds(clone, "dvc", "repro")
        measured["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    for name, value in measured.items():
        print(f"{name:32} {value if not isinstance(value, float) else round(value, 2)}")
    print(write_result(options.name, hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def _run(clone: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{clone}/.venv/bin{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=clone, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def stage_seconds(printed: str) -> dict[str, float]:
    """Return the seconds by command that the summaries of all stages state."""
    seconds: dict[str, float] = {}
    for command, stated in re.findall(r"^(\w+): .*(?:\n  .*)*?\((\d+\.\d) s\)$", printed, re.MULTILINE):
        seconds[command] = round(seconds.get(command, 0.0) + float(stated), 1)
    return seconds


def _seconds(clone: Path, *command: str) -> float:
    started = time.perf_counter()
    _run(clone, *command)
    return time.perf_counter() - started


def _sweep_seconds(clone: Path) -> float:
    """Return the wall seconds of three arms of quantization, their comparison as a page, and the page of the run."""
    started = time.perf_counter()
    _run(clone, "git", "add", "-A")
    _run(clone, "git", "-c", "user.name=course", "-c", "user.email=course", "commit", "-qm", "the run to start from")
    for name, damp_frac in ARMS.items():
        change = f"quantize.damp_frac={damp_frac}"
        _run(clone, "dvc", "exp", "run", "metrics", "--queue", "-n", name, "-S", change)
    _run(clone, "dvc", "exp", "run", "--run-all")
    _run(clone, "fairway", "compare", "HEAD", *ARMS, "--html", "sweep.html")
    _run(clone, "fairway", "report", "--html", "page.html")
    return time.perf_counter() - started


def _best_help(clone: Path, name: str) -> float:
    return min(_seconds(clone, "fairway", name, "--help") for _ in range(5))


def _train_report(clone: Path) -> dict:
    path = next(clone.glob("artifacts/seeds/*/train/report.json"))
    report = json.loads(path.read_text())
    keys = ("seconds", "steps", "ended_by", "precision", "tokens", "model_params", "hardware", "torch_version")
    return {key: report[key] for key in keys}


if __name__ == "__main__":
    main()
