"""`dvc plots`: the curves of seeds lie over one another in one picture, and every picture says whose it is."""

import json

from pipeline.base.artifacts import path_of
from stages.package import curves_of_seeds
from tests.stages.conftest import Project


def picture(project: Project, path: str) -> dict:
    """Return what DVC has a browser draw for a file."""
    return json.loads(project.run("dvc", "plots", "show", "--show-vega", path).stdout)


def test_seeds_are_overlaid_and_named(project: Project, monkeypatch) -> None:
    monkeypatch.chdir(project.root)
    assert path_of("curves").read_bytes() == curves_of_seeds([1])  # which `package` has written
    curve = path_of("curve", seed=1).read_text()
    path_of("curve", seed=22).parent.mkdir(parents=True)
    path_of("curve", seed=22).write_text(curve.replace("\n6,", "\n7,"))
    path_of("curves").unlink()
    path_of("curves").write_bytes(curves_of_seeds([1, 22]))
    overlaid = picture(project, str(path_of("curves")))
    steps = [(row["seed"], row["step"]) for row in overlaid["data"]["values"]]
    assert steps == [("1", "1"), ("1", "2"), ("1", "4"), ("1", "6"), ("22", "1"), ("22", "2"), ("22", "4"), ("22", "7")]
    encoding = {axis: spec["field"] for axis, spec in overlaid["encoding"].items()}
    assert encoding == {"x": "step", "y": "loss", "color": "seed", "strokeDash": "rev"}
    single = picture(project, str(path_of("curve", seed=1)))
    assert "seed 1 " in single["title"]["text"]
