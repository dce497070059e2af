"""Opening a model: every kind of source, the tokenizer that belongs to it, and what is refused in one line."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.codec import ArtifactError
from pipeline.inference.source import open_model, tokenizer_of, weights_of
from pipeline.model.checkpoint import save_checkpoint
from tests.inference.opened import opened, random_model
from tests.networks import TINY, randomised

CPU = torch.device("cpu")


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def refusal(source: Path, tokenizer: Path | None = None) -> str:
    with pytest.raises((ValueError, ArtifactError)) as caught:
        open_model(source, tokenizer, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_opened_as_it_was_saved(tmp_path: Path, toy_model: Path) -> None:
    model = opened(tmp_path, toy_model)
    saved = random_model().state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.model.state_dict().items())
    assert (model.model.training, model.mixtures, model.tokenizer) == (False, {}, toy_model)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.fwy", "train_gpt.py"], "model.fwy"),
        (["model_seed446.fwy", "model_seed9.fwy", "model_seed44.fwy"], "model_seed9.fwy"),
        (["model_seed2.fwy", "model_old.fwy", "models.fwy"], "model_seed2.fwy"),
    ],
)
def test_a_record_stands_for_its_first_artifact(names, expected, tmp_path: Path) -> None:
    assert weights_of(files(tmp_path, *names)) == tmp_path / expected


def test_the_tokenizer_beside_the_weights_comes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = files(tmp_path / "record", "model.fwy", "tokenizers/own.model", "tokenizers/own.vocab")
    with pytest.raises(
        ValueError, match=r"tokenizer\.model: no such file, nor tokenizers/ beside other\.fwy; name the"
    ):
        tokenizer_of(Path("other.fwy"))
    files(tmp_path, "artifacts/data/tokenizer.model")
    assert tokenizer_of(record / "model.fwy") == record / "tokenizers/own.model"
    assert tokenizer_of(Path("other.fwy")) == Path("artifacts/data/tokenizer.model")
    files(record, "tokenizers/second.model")
    with pytest.raises(
        ValueError, match=r"tokenizers: got \['own.model', 'second.model'\], expected one .* --tokenizer"
    ):
        tokenizer_of(record / "model.fwy")


def test_what_is_no_source_is_refused_with_what_is(tmp_path: Path, toy_model: Path) -> None:
    files(tmp_path, "model.pt", "record/README.md", "checkpoints/a.safetensors")
    assert "which names no file" in refusal(tmp_path / "modl.fwy", toy_model)
    assert "the nearest that exists is" in refusal(tmp_path / "checkpoints/b.safetensors", toy_model)
    assert "`fairway import` takes other checkpoints" in refusal(tmp_path / "model.pt", toy_model)
    assert "holds neither model.fwy nor model_seedN.fwy" in refusal(tmp_path / "record", toy_model)
    assert refusal(tmp_path / "checkpoints/a.safetensors", tmp_path / "no.model").startswith("--tokenizer: got")


@pytest.mark.parametrize("suffix", [".fwy", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"FWYA\x03", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 400])
def test_damaged_weights_are_one_line(suffix: str, content: bytes, tmp_path: Path, toy_model: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(path, toy_model)


def test_another_vocabulary_is_refused(tmp_path: Path, toy_model: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, randomised(TINY), TINY, {})
    says = refusal(path, toy_model)
    assert says.startswith(f"{toy_model}: pieces: got 512, expected 48, as {path} has")
    assert "--tokenizer" in says


def test_damaged_tokenizers_are_one_line(tmp_path: Path, toy_model: Path) -> None:
    opened(tmp_path, toy_model)
    broken = tmp_path / "tokenizers/broken.model"
    broken.parent.mkdir()
    shutil.copyfile(toy_model, broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    assert "broken.model" in refusal(tmp_path / "checkpoint.safetensors")
