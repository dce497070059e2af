"""Seconds of a training step and of every item, and memory, of the challenge's recipes, projected for H100s.

Run `python -m benchmarks.projection`. Projected, not measured: the library counts (pipeline/projection); speeds and
their sources are in its table of machines.

Checked by: tests/benchmarks/test_projection.py
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params
from pipeline.projection.machines import MACHINES, Machine
from pipeline.projection.scoring_time import scoring_seconds, val_targets
from pipeline.projection.training_time import training_stages
from pipeline.training.memory import step_bytes


def machine_of(processes: int) -> Machine:
    """Return the H100s that a recipe is for."""
    return next(machine for machine in MACHINES.values() if machine.processes == processes)


def project(path: Path) -> dict[str, Any]:
    """Return a recipe's projection on the challenge's documents: memory and seconds of a step, steps, evaluation."""
    params = load_params(path, ["data", "model", "train", "launch", "evaluate"])
    machine, num_targets = machine_of(int(params.launch.num_processes)), val_targets(params.data)
    assert num_targets is not None, f"{path.stem} scores the challenge's val split"
    stages = training_stages(params.model, params.train, machine)
    return {
        "num_processes": machine.processes,
        "memory_bytes": step_bytes(params.model, params.train, machine.processes),
        "step_seconds": stages[-1].step_seconds,
        "steps": sum(stage.steps for stage in stages),
        "evaluate_seconds": {
            item: scoring_seconds(
                params.model, params.evaluate.protocols[item], params.evaluate.batch_tokens, machine, num_targets
            )
            for item in params.evaluate.items
        },
    }


def challenge_recipes() -> list[Path]:
    """Return the recipes that score the challenge's val split."""
    return [
        path
        for path in sorted((ROOT / "recipes").glob("*.yaml"))
        if load_params(path, ["package"]).package.track != "cpu-demo"
    ]


def main() -> None:
    """Project every recipe, print and record."""
    argparse.ArgumentParser(prog="python -m benchmarks.projection", description=__doc__.split("\n")[0]).parse_args()
    projected = {path.stem: project(path) for path in challenge_recipes()}
    for name, values in projected.items():
        print(name, values, flush=True)
    print(write_result("projection", "projected for H100 SXM", projected))


if __name__ == "__main__":
    main()
