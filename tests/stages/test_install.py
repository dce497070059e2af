"""The distribution away from its checkout: what the wheel holds, `fairway init`, and whose code a command runs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.base.artifacts import read_json
from tests.conftest import REPO, made_once
from tests.stages.conftest import write_corpus


@pytest.fixture(scope="session")
def wheel(common: Path) -> Path:
    """Return the wheel of this checkout's files, built outside of it."""
    return next(made_once(common / "wheel", lambda: build_wheel(common / "wheel")).glob("*.whl"))


def build_wheel(folder: Path) -> None:
    """Build a wheel into a folder, from a copy of the files that git lists: building leaves others beside them."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\0")
    source = folder / "source"
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(REPO / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)


class Installed:
    """The wheel, unpacked, with its console script, and an empty folder to run it in."""

    def __init__(self, wheel: Path, root: Path) -> None:
        self.site, self.folder = root / "site", root / "folder"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)
        entry, script = self.site / "bin/entry.py", self.site / "bin/fairway"  # what an installer makes, in two files
        script.parent.mkdir()
        entry.write_text("from fairway import main\nmain()\n")
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{entry}' \"$@\"\n")
        script.chmod(0o755)
        self.folder.mkdir()

    def run(self, *command: str, code: int = 0, first: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder; `first`: what stands in PYTHONPATH before the distribution."""
        programs = [str(self.site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        places = [str(place) for place in (first, self.site) if place]
        variables = {"PATH": os.pathsep.join(programs), "PYTHONPATH": os.pathsep.join(places)}
        environment = {**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Installed:
    """Return an installation of its own."""
    return Installed(wheel, tmp_path)


def test_the_wheel_holds_recipes_and_layout_as_the_checkout_has_them(installed: Installed):
    for path in [*(REPO / "recipes").glob("*.yaml"), *(REPO / "stages/layout").iterdir()]:
        assert (installed.site / path.relative_to(REPO)).read_bytes() == path.read_bytes()
    assert (installed.site / "stages/layout/stages.yaml").read_bytes() == (REPO / "dvc.yaml").read_bytes()
    assert {path.name for path in installed.site.iterdir() if not path.name.endswith(".dist-info")} == {
        "bin",
        "fairway.py",
        "pipeline",
        "recipes",
        "stages",
    }


def test_recipes_work_in_any_folder(installed: Installed):
    assert "29,415,508 parameters" in installed.run("fairway", "recipe", "list").stdout
    assert installed.run("fairway", "recipe", "show", "tiny").stdout == (REPO / "recipes/tiny.yaml").read_text()
    installed.run("fairway", "recipe", "use", "tiny", "--yes")
    assert "seeds: [444] -> " not in installed.run("fairway", "recipe", "diff", "demo").stdout


def test_init_lays_out_a_folder_and_overwrites_nothing(installed: Installed):
    (installed.folder / ".gitignore").write_text("mine\n/artifacts/")
    said = installed.run("fairway", "init").stdout
    assert said.splitlines()[-1] == "  git init && dvc init && dvc repro"
    assert (installed.folder / "params.yaml").read_bytes() == (REPO / "params.yaml").read_bytes()
    ignored = (installed.folder / ".gitignore").read_text().splitlines()
    assert ignored[:2] == ["mine", "/artifacts/"]
    assert sorted(ignored[1:]) == sorted((REPO / ".gitignore").read_text().splitlines())
    assert (installed.folder / ".dvcignore").read_bytes() == (REPO / ".dvcignore").read_bytes()
    error = installed.run("fairway", "init", code=1).stderr
    assert error == (
        "fairway: error: init: got params.yaml, expected a folder without it; name another, as in `fairway init NEW`\n"
    )
    said = installed.run("fairway", "init", "--recipe", "tiny", "NEW").stdout
    assert said.splitlines()[-1] == "  cd NEW && git init && dvc init && dvc repro"
    assert (installed.folder / "NEW/params.yaml").read_bytes() == (REPO / "recipes/tiny.yaml").read_bytes()


def test_stages_of_a_folder_are_those_of_the_checkout_on_copied_sources(installed: Installed):
    installed.run("fairway", "init")
    installed.run("fairway", "code")
    found, ours = (
        YAML(typ="safe").load((place / "dvc.yaml").read_text())["stages"] for place in (installed.folder, REPO)
    )
    first, *others = found
    assert first == "code"
    assert others == list(ours)
    for name, stage in ours.items():
        assert found[name]["cmd"] == stage["cmd"].replace("python -m stages.cli", "fairway")
        deps = [dep if dep.startswith("artifacts/") else f"artifacts/code/{dep}" for dep in stage["deps"]]
        assert found[name]["deps"] == deps
        copied = [dep for dep in deps if dep.startswith("artifacts/code/")]
        assert copied
        assert all((installed.folder / dep).exists() for dep in copied)
    for path in (installed.folder / "artifacts/code").rglob("*.py"):
        assert path.read_bytes() == (REPO / path.relative_to(installed.folder / "artifacts/code")).read_bytes()


def test_a_package_of_the_same_name_is_one_line_with_a_remedy_that_works(installed: Installed):
    for name in ("pipeline", "stages"):
        foreign = installed.folder.parent / f"foreign {name}"
        (foreign / name).mkdir(parents=True)
        (foreign / name / "__init__.py").touch()
        error = installed.run("fairway", "report", code=1, first=foreign).stderr
        expected = installed.site / name / "__init__.py"
        assert error == (
            f"fairway: error: package {name}: got {foreign / name / '__init__.py'}, expected {expected}; "
            "use the script `fairway`, with no such package in PYTHONPATH\n"
        )
    installed.folder = foreign.with_name("foreign pipeline")
    error = installed.run("python", "-m", "stages.cli", "--help", code=1).stderr
    assert error.startswith(f"fairway: error: package pipeline: got {installed.folder}/pipeline/__init__.py")
    installed.run("fairway", "--help")


def test_the_script_in_another_checkout_is_one_line_with_a_remedy_that_works(installed: Installed):
    installed.folder = REPO
    error = installed.run("fairway", "report", code=1).stderr
    assert error == (
        f"fairway: error: working directory: got a checkout of its own, expected the code of {installed.site}; "
        "run `python -m stages.cli` in its place, or leave the folder\n"
    )
    installed.run("python", "-m", "stages.cli", "report", "--help")


@pytest.mark.slow
def test_an_installed_fairway_runs_the_pipeline_and_another_version_reruns_what_it_changes(installed: Installed):
    installed.run("fairway", "init", "--recipe", "tiny")
    write_corpus(installed.folder / "corpus/documents.jsonl", 300)
    params, yaml = installed.folder / "params.yaml", YAML()
    content = yaml.load(params.read_text())
    content["data"] |= {"source": "text", "files": ["corpus/*.jsonl"]}
    content["evaluate"]["items"] = ["blocks", "sliding"]
    with open(params, "w") as file:
        yaml.dump(content, file)
    installed.run("git", "init", "-q")
    installed.run("dvc", "init", "-q")
    installed.run("dvc", "repro", "package")
    installed.run("fairway", "audit", "artifacts/package", "--evidence", "artifacts", "--unsafe")
    assert read_json(installed.folder / "artifacts/audit/audit.json")["verdict"] == "pass"
    assert repro(installed) == ["code"]
    changed = installed.site / "pipeline/scoring/lora.py"
    changed.write_text(changed.read_text() + "# another version\n")
    assert repro(installed) == ["code", "evaluate@444-blocks"]


def repro(installed: Installed) -> list[str]:
    """Run `dvc repro` up to one score and return the names of the stages that ran."""
    printed = installed.run("dvc", "repro", "evaluate@444-blocks").stdout
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]
