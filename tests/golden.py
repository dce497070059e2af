"""The bytes that a change must keep: artifacts, checkpoints, statistics and ledgers of small runs, by digest.

Run `python -m tests.golden FILE` before a change: it writes the digests to FILE. Run it again after the change: it
compares, names what differs and exits 1. The tiny project's whole pipeline, and the readable program of every recipe at
small size. Processors differ in the last digits of sums, so digests mean something on one machine only.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.record.build import record_source
from tests.shrunk_recipes import shrunk_recipe, write_inputs
from tests.stages.conftest import REPO, make_project

_KEPT = ("checkpoint.safetensors", "hessians.safetensors", "model.fwy", "tokenizer.model", "curve.csv", ".bin", ".npz")


def main() -> None:
    """Write the digests to the file of the command line, or compare with those in it."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        digests = {**_pipeline_digests(Path(folder)), **_program_digests(Path(folder))}
    if not path.exists():
        path.write_text(json.dumps(digests, indent=1))
        sys.exit(f"{path}: {len(digests)} digests written")
    before = json.loads(path.read_text())
    wrong = sorted(name for name in before.keys() | digests.keys() if before.get(name) != digests.get(name))
    sys.exit("\n".join(f"differs: {name}" for name in wrong) if wrong else 0)


def _pipeline_digests(folder: Path) -> dict[str, str]:
    project = make_project(folder / "tiny", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    project.repro()
    return dict(_digests(project.root / "artifacts", "tiny"))


def _program_digests(folder: Path) -> dict[str, str]:
    folder = folder / "programs"
    folder.mkdir()
    write_inputs(folder)
    digests: dict[str, str] = {}
    for path in sorted((REPO / "recipes").glob("*.yaml")):
        place = folder / path.stem
        place.mkdir()
        (place / "train_gpt.py").write_text(record_source(shrunk_recipe(path), REPO))
        command = [sys.executable, "-I", "train_gpt.py", "--data", "../data", "--tokenizer", "../tokenizer.model"]
        subprocess.run([*command, "--ledger", "."], cwd=place, check=True, stdout=subprocess.DEVNULL)
        digests |= _digests(place, path.stem)
    return digests


def _digests(folder: Path, label: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.endswith(_KEPT) and "submission" not in path.parts:
            content = path.read_bytes()
            if path.name == "curve.csv":  # all but the seconds
                content = "\n".join(",".join(line.split(",")[:3]) for line in content.decode().splitlines()).encode()
            yield f"{label}/{path.relative_to(folder)}", hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
