"""`fairway status` in a real DVC repository of the real dvc.yaml, whose stages only write a few bytes: what it says of
every stage, and that each command it advises does what it says."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click import unstyle

from pipeline.base.artifacts import STATE, outputs_of, path_of, read_json, write_json
from pipeline.base.ranks import Ranks
from pipeline.launching.alone import held_alone
from pipeline.reports.results import run_results
from stages.shell.durations import expected_seconds, parse_name, stages_of
from stages.shell.outlook import Outlook, look
from stages.shell.outlook_text import outlook_lines
from stages.shell.rules import check_params
from stages.shell.running import TOOK, report_running, seconds_taken
from tests.conftest import REPO, made_once
from tests.stages.conftest import Project

MAKE = """
import sys, time
from pathlib import Path
from pipeline.base.artifacts import outputs_of, provenance, write_json

def make(command, *words):
    keys = {"seed": words[1] if "--seed" in words else None, "item": words[-1] if "--item" in words else None}
    report = {"seconds": {"total": 2.0} if command == "evaluate" else 3.0, "made": time.time(), "artifact_bytes": 1000}
    report |= {"val_bpb": 1.25, "weights": "float", "protocol": 0, "bytes_code": 500, "bytes_total": 1500}
    report |= {"artifact_sha256": "one", "seed_results": {"1": {"artifact_sha256": "one"}}}
    report["provenance"] = provenance(command, Path.cwd(), {}, []) if command == "train" else {}
    for path in outputs_of(command, **keys):
        write_json(path if path.suffix else path / "submission.json", report)

while Path("slow").exists():
    time.sleep(0.1)
for line in " ".join(sys.argv[1:]).split(" then "):
    make(*line.split())
"""
"""What stands for all commands: it writes their outputs."""
EVERYTHING = " then ".join(
    [
        "prepare",
        *(f"{command} --seed 1" for command in ("train", "calibrate", "quantize")),
        *(f"evaluate --seed 1 --item {item}" for item in ("float", "blocks")),
        "metrics --seed 1",
        "package",
        "audit",
    ]
)


@pytest.fixture
def small(common: Path, programs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a repository in which every stage is done, and stand in it."""
    made = Project(common / "small pipeline", programs)
    made_once(made.root, lambda: make_small(made))
    shutil.copytree(made.root, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return made.at(tmp_path / "copy")


def make_small(made: Project) -> None:
    for name in ("pipeline", "stages", ".dvc"):
        unwanted = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
        shutil.copytree(REPO / name, made.root / name, ignore=unwanted)
    for name in ("params.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(REPO / name, made.root / name)
    commands = (REPO / "dvc.yaml").read_text().replace("python -m stages.cli", "python make.py")
    (made.root / "dvc.yaml").write_text(commands)
    (made.root / "make.py").write_text(MAKE)
    made.edit(seeds=[1], evaluate={"items": ["blocks"]})
    made.run("git", "init", "-q")
    made.run("python", "make.py", EVERYTHING)
    made.run("dvc", "commit", "-f")


def seen() -> Outlook:
    return look(check_params("params.yaml"))


def states(outlook: Outlook) -> dict[str, str]:
    return {place.name: place.state for place in outlook.standings}


def reasons(outlook: Outlook) -> dict[str, tuple[str, ...]]:
    return {place.name: place.reasons for place in outlook.standings if place.reasons}


def follows(outlook: Outlook) -> dict[str, str]:
    return {place.name: place.follows for place in outlook.standings if place.follows}


def text(outlook: Outlook) -> list[str]:
    params = check_params("params.yaml")
    return [unstyle(line) for line in outlook_lines(outlook, params, run_results(params))]


def row(outlook: Outlook, label: str) -> list[str]:
    """Return the cells of a row of the table."""
    line = next(line for line in text(outlook) if line.startswith(f"{label} "))
    return re.split("  +", line)[1:]


def obey(small: Project, outlook: Outlook) -> Outlook:
    """Type the command that is advised and look again."""
    small.run(*outlook.command.split())
    return seen()


def test_a_finished_run_has_nothing_to_do(small: Project):
    before = {path: path.stat().st_mtime_ns for path in small.root.rglob("*") if "tmp" not in path.parts}
    lines = small.run("fairway", "status").stdout.splitlines()
    assert lines[0].split() == ["stage", "seed", "1"]
    assert "train            done" in lines
    assert "blocks bpb       1.2500" in lines
    assert "bytes    1,500 of code and artifact: 478,500 below the limit of 480,000" in lines
    assert lines[-1] == "next     fairway report   # nothing to do: every stage is done"
    said = json.loads(small.run("fairway", "status", "--json").stdout)
    assert {stage["state"] for stage in said["standings"]} == {"done"}
    assert {"name", "command", "seed", "item", "reasons", "follows"} <= set(said["standings"][0])
    assert said["seconds"] == {}
    after = {path: path.stat().st_mtime_ns for path in small.root.rglob("*") if "tmp" not in path.parts}
    assert {path for path in {**before, **after} if before.get(path) != after.get(path)} <= {
        path for path in after if "__pycache__" in str(path)
    }


def test_a_parameter_is_named_and_later_stages_follow(small: Project):
    small.edit(budget={"limit_bytes": 400000})
    outlook = seen()
    changed = "params budget.limit_bytes 480000 -> 400000"
    assert reasons(outlook) == dict.fromkeys(("quantize@1", "metrics@1", "package"), (changed,))
    assert follows(outlook)["evaluate@1-blocks"] == follows(outlook)["audit"] == "quantize"
    assert states(outlook)["evaluate-float@1"] == states(outlook)["train@1"] == "done"
    lines = text(outlook)
    assert f"why      {changed}: quantize, metrics, package" in lines
    assert row(outlook, "evaluate blocks") == ["follows quantize"]
    assert row(outlook, "blocks bpb") == ["1.2500 old"]
    assert outlook.command == "dvc repro"
    assert set(states(obey(small, outlook)).values()) == {"done"}


def test_a_file_a_folder_and_a_command_are_named(small: Project):
    (small.root / "pipeline/codec/tables.py").open("a").write("#\n")
    (small.root / "stages/audit.py").open("a").write("#\n")
    commands = small.root / "dvc.yaml"
    commands.write_text(commands.read_text().replace("make.py prepare", "make.py prepare --again"))
    found = reasons(seen())
    assert found["prepare"] == ("command changed",)
    assert found["audit"] == ("stages/audit.py changed",)
    assert found["calibrate@1"] == ("pipeline/codec changed",)
    assert "train@1" not in found
    assert follows(seen())["train@1"] == "prepare"


def test_code_that_a_stage_does_not_run_needs_no_rerun(small: Project):
    (small.root / "pipeline/optim/unused.py").write_text("#\n")
    said = json.loads(small.run("fairway", "status", "--json").stdout)
    assert said["command"] == "dvc commit -f train@1"
    small.run(*said["command"].split())
    assert states(seen())["train@1"] == "done"
    (small.root / "pipeline/optim/muon.py").open("a").write("#\n")
    assert json.loads(small.run("fairway", "status", "--json").stdout)["command"] == "dvc repro"


def test_outputs_that_are_gone_come_from_the_cache_or_the_remote_or_a_run(small: Project, tmp_path: Path):
    small.run("dvc", "remote", "add", "-d", "there", str(tmp_path / "remote"))
    small.run("dvc", "push")
    shutil.rmtree(small.root / "artifacts/seeds/1")
    outlook = seen()
    assert states(outlook)["train@1"] == "in cache"
    assert states(outlook)["prepare"] == states(outlook)["package"] == "done"
    assert (outlook.command, outlook.seconds) == ("dvc checkout", {})
    assert set(states(obey(small, outlook)).values()) == {"done"}
    shutil.rmtree(small.root / "artifacts")
    shutil.rmtree(small.root / ".dvc/cache")
    outlook = seen()
    assert states(outlook)["train@1"] == "missing"
    assert reasons(outlook)["prepare"][0].endswith("is neither here nor in DVC's cache")
    assert outlook.command == "dvc pull"
    assert set(states(obey(small, outlook)).values()) == {"done"}


def test_outputs_that_only_the_folder_has_go_to_the_cache(small: Project):
    shutil.rmtree(small.root / ".dvc/cache")
    outlook = seen()
    assert set(states(outlook).values()) == {"uncached"}
    assert outlook.command.startswith("dvc commit -f prepare train@1 ")
    assert set(states(obey(small, outlook)).values()) == {"done"}


def test_what_was_made_by_hand_is_kept_where_nothing_changed_since(small: Project):
    (small.root / "dvc.lock").unlink()
    small.run("python", "make.py", EVERYTHING)
    outlook = seen()
    assert set(states(outlook).values()) == {"by hand"}
    assert "why      not made by `dvc repro`: prepare, train, calibrate, quantize, evaluate," in text(outlook)
    command, *why = text(outlook)[-3:]
    assert command == f"next     {outlook.command}"
    assert " ".join(line.removeprefix("         # ") for line in why) == outlook.why
    assert set(states(obey(small, outlook)).values()) == {"done"}
    small.run("python", "make.py", "quantize", "--seed", "1")
    outlook = seen()
    assert states(outlook)["quantize@1"] == "by hand"
    assert follows(outlook)["evaluate@1-blocks"] == "quantize"
    assert outlook.command == "dvc commit -f quantize@1"
    os.utime(small.root / "params.yaml")
    outlook = seen()
    assert outlook.command == "dvc repro"
    assert outlook.why == "makes again what was made by hand; `dvc commit -f quantize@1` would keep it"


def test_never_run_is_missing_and_its_time_unknown(small: Project):
    (small.root / "dvc.lock").unlink()
    shutil.rmtree(small.root / "artifacts")
    outlook = seen()
    assert set(states(outlook).values()) == {"missing"}
    assert not reasons(outlook)
    lines = text(outlook)
    assert "bytes    no artifact yet; the limit is 480,000" in lines
    assert lines[-1] == "next     dvc repro"
    assert "package, audit), about 3 minutes without prepare, calibrate, quantize," in " ".join(lines)
    small.edit(train={"max_seconds": None})
    assert "package, audit), nobody knows how long: they have not run here" in " ".join(text(seen()))


def test_experiments_of_the_queue_are_counted(small: Project):
    assert seen().queue == {}
    small.run("git", "add", "-A")
    small.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")
    small.run("dvc", "exp", "run", "metrics", "--queue", "-S", "quantize.damp_frac=0.5,0.6")
    assert seen().queue == {"queued": 2}
    assert "queue    experiments of DVC's queue: 2 queued; `dvc queue status` names them" in text(seen())


def test_it_works_while_dvc_is_at_work(small: Project):
    small.edit(train={"max_steps": 7})
    (small.root / "slow").touch()
    environment = {**os.environ, "PATH": small.programs}
    with subprocess.Popen(["dvc", "repro", "train@1"], env=environment, stdout=subprocess.PIPE, text=True) as repro:
        assert repro.stdout is not None
        while not repro.stdout.readline().startswith("> "):
            pass
        outlook = seen()
        while not outlook.running:  # DVC takes its outputs before it prints, but writes that file anew at times
            time.sleep(0.1)
            outlook = seen()
        (small.root / "slow").unlink()
        repro.communicate()
    assert states(outlook)["train@1"] == "running"
    assert follows(outlook)["calibrate@1"] == "train"
    assert (outlook.command, outlook.why) == (
        "fairway status",
        "when train@1 is further; `dvc repro` goes on by itself",
    )
    assert states(seen())["train@1"] == "done"


def test_step_loss_and_time_of_what_runs_by_hand(small: Project):
    output = outputs_of("train", seed=1)[0]
    with held_alone(output), report_running("train", 1, None, output) as report:
        report(label="training", unit="steps", done=320, total=500, note="loss 1.71", seconds_left=62.0)
        outlook = seen()
    assert row(outlook, "train") == ["running 64%"]
    line = next(line for line in text(outlook) if line.startswith("running "))
    assert line.startswith("running  train@1: training 320/500 steps, loss 1.71, 0 seconds so far, about")
    assert outlook.seconds["train@1"] == 62.0
    assert outlook.command == "fairway status"


@pytest.mark.parametrize(("lacking", "remedy"), [(".git", "git init"), (".dvc", "dvc init")])
def test_without_a_repository_files_are_told(small: Project, lacking: str, remedy: str):
    shutil.rmtree(small.root / lacking)
    shutil.rmtree(small.root / "artifacts/submission")
    outlook = seen()
    assert (states(outlook)["train@1"], states(outlook)["audit"]) == ("there", "missing")
    assert any(line.startswith("dvc      cannot say what is out of date:") for line in text(outlook))
    assert outlook.command == remedy
    assert obey(small, outlook).note is None


def test_a_stopped_training_goes_on_with_the_same_settings_alone(small: Project):
    from pipeline.training.snapshot import Snapshots

    params = check_params("params.yaml")
    identity = {"seed": 1, "model": asdict(params.model), "train": asdict(params.train)}
    with Snapshots(STATE / "train-1", identity, 1.0, Ranks(0, 0, 1), torch.device("cpu"), [], print) as snapshots:
        snapshots.restore({})
        snapshots.save(320, 1.0, [])
    shutil.rmtree(small.root / "artifacts/seeds/1/train")
    assert "stopped  train@1 after step 320: it goes on from there" in text(seen())
    small.edit(train={"grad_clip": 0.5})
    assert "stopped  train@1 after step 320, with another train.grad_clip: it begins anew" in text(seen())


def test_an_imported_checkpoint_is_kept_from_code_and_never_replaced_silently(small: Project):
    path = path_of("train_report", seed=1)
    write_json(path, {**read_json(path), "imported": {"layout": "crawler"}})
    small.run("dvc", "commit", "-f", "train@1")
    assert row(seen(), "train") == ["imported"]
    (small.root / "pipeline/optim/muon.py").open("a").write("#\n")
    outlook = seen()
    assert outlook.command == "dvc commit -f train@1"
    assert states(obey(small, outlook))["train@1"] == "done"
    small.edit(train={"grad_clip": 0.5})
    assert (seen().command, seen().why[:14]) == ("dvc repro", "trains train@1")


def test_three_seeds_fit_in_80_columns(small: Project):
    small.edit(seeds=[1, 2, 3], calibrate={"num_sequences": 128}, package={"name": 60 * "long "})
    lines = text(seen())
    assert max(map(len, lines)) <= 80, lines
    assert row(seen(), "calibrate") == ["stale", "missing", "missing"]
    assert row(seen(), "evaluate float") == ["done", "missing", "missing"]


def test_stages_take_what_they_or_other_seeds_took(small: Project):
    small.edit(seeds=[1, 3], train={"max_seconds": 50.0, "reserve_seconds": 5.0})
    params = check_params("params.yaml")
    seconds = expected_seconds(stages_of(params), params)
    assert seconds["calibrate@1"] == seconds["calibrate@3"] == 3.0
    assert seconds["evaluate@3-blocks"] == 2.0
    assert seconds["prepare"] is None
    assert seconds["package"] == 2 * 2.0 * 12 / 5, "the headline of two seeds"
    shutil.rmtree("artifacts")
    assert expected_seconds(["train@1", "calibrate@1"], params) == {"train@1": 45.0, "calibrate@1": None}


def test_what_a_stage_took_here_counts_before_its_report(small: Project):
    write_json(TOOK / "quantize-1.json", {"seconds": 7.5})
    write_json(TOOK / "audit.json", {"seconds": 9.5})
    params = check_params("params.yaml")
    known = expected_seconds(stages_of(params), params)
    assert (known["quantize@1"], known["audit"]) == (7.5, 9.5)
    (TOOK / "quantize-1.json").write_text("[]")
    assert expected_seconds(["quantize@1"], params) == {"quantize@1": 3.0}


def test_training_takes_what_its_report_says_and_no_part_of_another_run(small: Project):
    """As after `dvc exp apply` and `fairway import`: what training took here was another run."""
    write_json(TOOK / "train-1.json", {"seconds": 600.0})
    path, params = path_of("train_report", seed=1), check_params("params.yaml")
    report = {**read_json(path), "seconds": 50.0, "step_avg_ms": 100.0, "imported": None}
    for stage_seconds, around in ((60.0, 10.0), (40.0, 0.0)):
        write_json(path, {**report, "stage_seconds": stage_seconds})
        assert expected_seconds(["train@1"], params) == {"train@1": around + 0.1 * params.train.max_steps}
    write_json(path, {**report, "seconds": 0.0, "step_avg_ms": 0.0, "imported": {"layout": "crawler"}})
    assert expected_seconds(["train@1"], params) == {"train@1": params.train.train_seconds}


@pytest.mark.parametrize("name", ["prepare", "train@444", "evaluate-float@444", "evaluate@444-sliding"])
def test_names_are_read_as_they_are_written(name: str):
    assert parse_name(name).name == name


def test_the_real_pipeline_stands_as_it_was_left(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project.root)
    names = stages_of(check_params("params.yaml"))
    assert not [name for name in names if seconds_taken(*parse_name(name)) is None], "under the stages' own names"
    lines = project.run("fairway", "status").stdout.splitlines()
    assert lines[-1] == "next     fairway report   # nothing to do: every stage is done"
    project.run("fairway", "quantize", "--seed", "1")
    said = json.loads(project.run("fairway", "status", "--json").stdout)
    stands = {stage["name"]: stage for stage in said["standings"]}
    assert stands["quantize@1"]["state"] == "by hand"
    assert stands["package"]["follows"] == "quantize"
    assert said["seconds"]["evaluate@1-ttt"] > 0
    assert said["command"] == "dvc commit -f quantize@1"
    project.run(*said["command"].split())
    assert json.loads(project.run("fairway", "status", "--json").stdout)["command"] == "dvc repro"
