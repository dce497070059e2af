"""The snippets of docs/library.md, run one after the other in a folder as `dvc repro` leaves it, of tiny things."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.artifacts import path_of
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.codec import QuantizedTensor, write_artifact
from pipeline.corpus.prepare import prepare
from pipeline.inference.costs import score_texts
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.network import LoopedUNet, build
from tests.conftest import REPO
from tests.corpus.configs import data_config

SNIPPETS = re.findall(r"^```python\n(.*?)^```", (REPO / "docs/library.md").read_text(), re.DOTALL | re.MULTILINE)


def quantized(model: LoopedUNet) -> dict[str, QuantizedTensor | np.ndarray]:
    """Return a model's tensors, the largest of them on a grid of 63 levels."""
    arrays = {name: tensor.numpy().astype(np.float16) for name, tensor in model.state_dict().items()}
    name = max(arrays, key=lambda name: arrays[name].size)
    step_R = np.abs(arrays[name]).max(1) / 31 + np.float16(1e-4)
    codes_RC = np.round(arrays[name] / step_R[:, None]).astype(np.int8)
    return {**arrays, name: QuantizedTensor(codes_RC, step_R)}


@pytest.fixture
def finished_folder(tmp_path: Path, toy_documents: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with the parameters, data, checkpoint and artifact of recipe `tiny`, none of it trained."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((REPO / "recipes/tiny.yaml").read_bytes())
    Path("corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in toy_documents))
    prepare(data_config(files=("corpus.jsonl",)), path_of("manifest").parent, tmp_path / "cache", silent)
    config = load_params("params.yaml", ["model"]).model
    model = build(config)
    save_checkpoint(path_of("checkpoint", seed=444), model, config, {})
    path_of("model", seed=444).parent.mkdir(parents=True)
    write_artifact(path_of("model", seed=444), quantized(model), {"model": dataclasses.asdict(config)})
    return tmp_path


def test_the_snippets_run_and_mean_what_the_page_says(finished_folder: Path, capsys: pytest.CaptureFixture[str]):
    names: dict = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/library.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "artifacts/data/tokenizer.model 64201"
    assert all(0 < float(line.split()[0]) < 20 for line in said[1:3])
    assert np.array_equal(score_texts(names["shipped"], ["A river in Spain"])[0].nats_N, names["second"].nats_N)
    assert said[3].startswith("The city of")
    decoded = {name: torch.from_numpy(array) for name, array in names["arrays"].items()}
    assert all(torch.equal(decoded[name], tensor) for name, tensor in names["shipped"].model.state_dict().items())
    assert len(names["codes"]) == 1
    budget = names["params"].budget
    assert Path("small.fwy").stat().st_size <= budget.limit_bytes - budget.code_reserve_bytes
