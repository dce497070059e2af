"""A network without weights is built without a compiler, which every start of a stage or a record would wait for."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pipeline.base.config import load_params
from pipeline.model.network import LoopedUNet
for path in sys.argv[1:]:
    LoopedUNet.empty(load_params(path, ["model"]).model)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_no_recipe_loads_a_compiler():
    recipes = [str(path) for path in sorted((REPO / "recipes").glob("*.yaml"))]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *recipes], cwd=REPO, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "[]\n")
