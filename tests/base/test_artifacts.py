"""Artifacts on disk: paths from one table, deterministic tensors, provenance that follows what a stage reads."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.base.artifacts import git_commit, path_of, provenance, read_json, read_tensors, save_tensors, write_json


def test_tensors_and_meta_round_trip_with_deterministic_bytes(tmp_path: Path):
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.tensor(3)}
    meta = {"z": [1, None], "a": {"nested": True}}
    save_tensors(tmp_path / "one", tensors, meta)
    save_tensors(tmp_path / "two", dict(reversed(tensors.items())), dict(reversed(meta.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded, loaded_meta = read_tensors(tmp_path / "one")
    assert loaded_meta == meta
    assert torch.equal(loaded["b"], tensors["b"])
    assert torch.equal(loaded["a"], tensors["a"])


def test_tensors_get_the_mode_of_other_files_and_a_full_disk_is_an_error_of_the_file(tmp_path: Path):
    save_tensors(tmp_path / "tensors", {"a": torch.ones(3)}, {})
    write_json(tmp_path / "report", {})
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "report").stat().st_mode
    resource = pytest.importorskip("resource", reason="the limit of a file's size is POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/full'$"):
            save_tensors(tmp_path / "full", {"a": torch.ones(300)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "tensors"]


def test_a_missing_file_names_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape("hessians.safetensors: no such file; run `dvc repro`")):
        read_tensors(path_of("hessians", seed=3))
    with pytest.raises(ValueError, match=re.escape("scores-ttt.json: no such file; run `dvc repro`")):
        read_json(path_of("scores", seed=3, item="ttt"))
    with pytest.raises(ValueError, match=re.escape("other.json: no such file; no stage writes it")):
        read_json(Path("artifacts/other.json"))


@pytest.mark.parametrize("keep", [0, 4, 20, 100, -1])
def test_a_damaged_tensor_file_is_one_line(tmp_path: Path, keep: int):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.ones(50)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged safetensors file"):
        read_tensors(path)


def test_a_foreign_tensor_file_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no Fairway metadata"):
        read_tensors(tmp_path / "foreign.safetensors")


def test_provenance_changes_with_params_inputs_and_code(tmp_path: Path):
    (tmp_path / "stages").mkdir()
    for name in ("__init__", "toy", "other"):
        (tmp_path / "stages" / f"{name}.py").write_text("")
    data = tmp_path / "input"
    data.write_text("1")

    def now(params: object) -> dict:
        return provenance("toy", tmp_path, {"section": params}, [data])

    first = now({"a": 1})
    assert now({"a": 1}) == first
    assert now({"a": 2})["params_sha256"] != first["params_sha256"]
    (tmp_path / "stages/other.py").write_text("x = 1")
    assert now({"a": 1})["code_sha256"] == first["code_sha256"]
    (tmp_path / "stages/toy.py").write_text("import stages.other")
    assert now({"a": 1})["code_sha256"] != first["code_sha256"]
    data.write_text("2")
    assert now({"a": 1})["inputs_sha256"] != first["inputs_sha256"]


def test_json_is_sorted_and_damaged_json_is_one_line(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_number_that_json_cannot_say_is_named_and_nothing_is_written(tmp_path: Path):
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"a\.json: layers\.1\.loss is not a finite number"):
            write_json(tmp_path / "a.json", {"layers": [{"loss": 1.0}, {"loss": value}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_metadata_that_is_no_object_is_one_line(tmp_path: Path, text: str):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "file.safetensors", metadata={"fairway": text})
    with pytest.raises(ValueError, match="metadata inside") as caught:
        read_tensors(tmp_path / "file.safetensors")
    assert len(str(caught.value)) < 500


def test_the_commit_is_told_without_running_what_a_repository_names(tmp_path: Path):
    """`core.fsmonitor` names a program that git status runs; an alias cannot stand before a command of git's own."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert git_commit(tmp_path) == "none"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    monitor.chmod(0o755)
    git("config", "core.fsmonitor", str(monitor))
    git("config", "alias.status", "!false")
    commit = git("rev-parse", "--short", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+dirty"
    assert not (tmp_path / "ran").exists()
