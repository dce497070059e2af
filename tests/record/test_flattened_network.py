"""The real library, flattened: its network computes the same bits and keeps the same state-dict keys."""

import hashlib
import subprocess
import sys
from pathlib import Path

import torch

from pipeline.base.config import load_params
from pipeline.model.network import build
from pipeline.record.flatten import flatten
from pipeline.record.prove import project_imports
from pipeline.record.ship import minify, wrap
from stages.shell.console import machine_environment

TAIL = """
import hashlib
model = build({config}, seed=3)
ids_BT = torch.arange(40).reshape(2, 20) % 50
print(hashlib.sha256(model(ids_BT).detach().numpy().tobytes()).hexdigest())
print(",".join(model.state_dict()))
"""


def test_the_flattened_network_gives_the_same_bits(tmp_path: Path, repo: Path):
    config = load_params(repo / "params.yaml", ["model"]).model
    source = minify(flatten("pipeline.model.network", repo, TAIL.format(config=config)))
    assert project_imports(source) == []
    path = tmp_path / "network.py"
    path.write_bytes(wrap(source))
    environment = {**machine_environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-I", str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = build(config, seed=3)
    logits = model(torch.arange(40).reshape(2, 20) % 50).detach()
    digest, keys = done.stdout.split()
    assert digest == hashlib.sha256(logits.numpy().tobytes()).hexdigest()
    assert keys.split(",") == list(model.state_dict())
