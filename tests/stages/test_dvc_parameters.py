"""Every parameter, changed alone and back and again through DVC with its run cache on, gives its own outputs.

The stages are those of dvc.yaml with another command: it writes what of params.yaml and of other stages' outputs the
stage depends on. So an output that DVC restores for other parameters is seen by its content.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

REPO = Path(__file__).resolve().parent.parent.parent
DVC_YAML = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())
PARAMS = YAML(typ="safe").load((REPO / "params.yaml").read_text())
COMMAND = """
import json, pathlib, sys

def at(tree, key):
    for name in key.split("."):
        tree = tree[name]
    return tree

stage, params, deps, outs = json.loads(bytes.fromhex(sys.argv[1]))
tree = json.loads(pathlib.Path("params.yaml").read_text())
content = {"params": {key: at(tree, key) for key in params}, "deps": {}}
for dep in deps:
    path = pathlib.Path(dep)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    content["deps"][dep] = [file.read_text() for file in files]
for out in outs:
    path = pathlib.Path(out)
    path = path if path.suffix else path / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "out": out}, sort_keys=True))
with open("ran.txt", "a") as file:
    file.write(stage + "\\n")
"""
MATRICES = {"seed": PARAMS["seeds"], "protocol": PARAMS["evaluate"]["items"]}


def stages() -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml, matrices written out, without code and with the stand-in's command."""
    found = {}
    for name, stage in DVC_YAML["stages"].items():
        for values in _combinations(stage.get("matrix", {})):
            text = json.dumps(
                {key: stage[key] for key in ("deps", "params", "outs", "metrics", "plots") if key in stage}
            )
            for key, value in values.items():
                text = text.replace(f"${{item.{key}}}", str(value))
            own = json.loads(text)
            own["deps"] = [dep for dep in own.get("deps", []) if dep.startswith("artifacts/")]
            outs = [*own.get("outs", []), *own.get("metrics", []), *(next(iter(plot)) for plot in own.pop("plots", []))]
            title = "-".join([name, *map(str, values.values())])
            told = json.dumps([title, own.get("params", []), own["deps"], outs]).encode().hex()
            found[title] = {"cmd": f"python -IS command.py {told}", **own, "outs": outs}
            found[title].pop("metrics", None)
    return found


def _combinations(matrix: dict[str, str]) -> Iterator[dict[str, Any]]:
    names = list(matrix)
    if not names:
        yield {}
        return
    for value in MATRICES[names[0]]:
        for rest in _combinations({name: matrix[name] for name in names[1:]}):
            yield {names[0]: value, **rest}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every parameter; seeds and items, which make stages, are not among them."""
    for key, value in tree.items():
        if prefix + key in ("seeds", "evaluate.items"):
            continue
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def at(tree: dict[str, Any], key: str) -> Any:
    """Return what stands under a dotted key."""
    for name in key.split("."):
        tree = tree[name]
    return tree


def changed(key: str) -> dict[str, Any]:
    """Return all parameters with one of them changed."""
    tree = copy.deepcopy(PARAMS)
    path, _, last = key.rpartition(".")
    place = at(tree, path)
    value = place[last]
    place[last] = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value * 0.5 + 1,
        str: lambda: value + "x",
        list: lambda: [*value, 1],
    }.get(type(value), lambda: 1)()
    return tree


def expected(key: str) -> set[str]:
    """Return the stages that a parameter belongs to, and all that come after them."""
    all_stages = stages()
    ran = {
        name
        for name, stage in all_stages.items()
        if any(f"{key}.".startswith(f"{param}.") for param in stage.get("params", []))
    }
    while True:
        outs = [out for name in ran for out in all_stages[name]["outs"]]
        more = {
            name
            for name, stage in all_stages.items()
            if any(out == dep or out.startswith(f"{dep}/") for dep in stage["deps"] for out in outs)
        }
        if more <= ran:
            return ran
        ran |= more


class Course:
    """A DVC repository of the stand-in's stages."""

    def __init__(self, root: Path) -> None:
        from dvc.repo import Repo

        self.root = root
        (root / "command.py").write_text(COMMAND)
        (root / "dvc.yaml").write_text(json.dumps({"stages": stages()}))
        Repo.init(str(root), no_scm=True).close()
        self.outputs(PARAMS)

    def outputs(self, params: dict[str, Any]) -> tuple[set[str], list[dict[str, Any]]]:
        """Bring everything up to date; return the stages whose command ran, and what every output was made from."""
        from dvc.repo import Repo

        (self.root / "params.yaml").write_text(json.dumps(params))
        ran = self.root / "ran.txt"
        ran.write_text("")
        with Repo(str(self.root)) as repo:
            repo.reproduce()
        files = (path for path in (self.root / "artifacts").rglob("*") if path.is_file())
        return set(ran.read_text().split()), [json.loads(path.read_text()) for path in files]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """Return a repository in which everything is up to date."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("course")
        patch.chdir(root)
        yield Course(root)


@pytest.mark.parametrize(
    "part", ["budget.limit_bytes", *(pytest.param(name, marks=pytest.mark.slow) for name in PARAMS if name != "seeds")]
)
def test_each_parameter_of_a_part_alone_reruns_its_stages_once_and_has_its_own_outputs(
    course: Course, part: str
) -> None:
    """All are tried in turn, then once more: the second time everything comes from the run cache."""
    keys = [key for key in leaves(PARAMS) if f"{key}.".startswith(f"{part}.")]
    assert keys
    for is_known in (False, True):
        for params, key in [*((changed(key), key) for key in keys), (PARAMS, "")]:
            ran, outputs = course.outputs(params)
            assert ran == (set() if is_known or not key else expected(key)), key
            for output in outputs:
                assert output["params"] == {name: at(params, name) for name in output["params"]}, key


def test_every_parameter_belongs_to_a_stage() -> None:
    assert [key for key in leaves(PARAMS) if not expected(key) and key != "launch.snapshot_seconds"] == []
