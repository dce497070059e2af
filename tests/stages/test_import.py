"""`fairway import`: later stages run on the imported weights, training does not, and bad input is one line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.base.config import load_params
from pipeline.interop.community import LAYOUTS
from pipeline.interop.crawler import translate_crawler
from pipeline.model.network import build
from tests.stages.conftest import REPO, unfolded
from tests.stages.test_cli import fairway

ARGUMENTS = {
    "vocab_size": 320,
    "num_flat_layers": 3,
    "num_crawler_layers": 1,
    "crawler_loops": 2,
    "model_dim": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "mlp_mult": 2.0,
    "crawler_mlp_mult": 3.0,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "qk_gain_init": 1.5,
    "rope_dims": 8,
    "ve_enabled": True,
    "ve_dim": 8,
    "ve_layers": "9",
    "crawler_loop_rope_scales": [2, 1],
    "inst_dim": 4,
    "bigram_vocab_size": 64,
    "bigram_dim": 8,
}
IMPORT = ("fairway", "import", "weights.safetensors", "--config", "weights.json", "--seed", "1")


def write_checkpoint(root: Path, arguments: dict) -> None:
    """Write a community checkpoint with its arguments, unread value embedding included."""
    translation = translate_crawler(arguments)
    model = build(translation.config, 3)
    tensors = {translation.published_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    tensors |= {name: torch.ones(shape) for name, shape in translation.unread.items()}
    save_file(tensors, root / "weights.safetensors")
    document = {"layout": "crawler", "config": arguments, "train_sequence_tokens": 32}
    (root / "weights.json").write_text(json.dumps(document))


@pytest.fixture
def importing(project):
    """Return a finished project with a community checkpoint in its root."""
    write_checkpoint(project.root, ARGUMENTS)
    return project


def refuses(project, *command: str) -> str:
    """Run a command that must exit 1 in one line, leaving checkpoint and parameters alone; return the line."""
    checkpoint = project.root / "artifacts/seeds/1/train/checkpoint.safetensors"
    before = checkpoint.read_bytes(), (project.root / "params.yaml").read_bytes()
    done = project.run(*command, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (checkpoint.read_bytes(), (project.root / "params.yaml").read_bytes()) == before
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_repro_after_an_import_trains_nothing_and_packages(importing):
    printed = importing.run(*IMPORT)
    assert "params.yaml: model.mlp.mult: 3.0 -> 2.0" in printed.stderr
    assert "kept 4 tensors" in printed.stderr
    ran = importing.repro()
    assert {"calibrate@1", "quantize@1", "evaluate-float@1", "evaluate@1-sliding", "package"} <= set(ran)
    assert not {"prepare", "train@1"} & set(ran)
    root = importing.root / "artifacts"
    report = json.loads((root / "seeds/1/train/report.json").read_text())
    assert report["imported"]["layout"] == "crawler"
    assert (report["steps"], report["seconds"]) == (0, 0.0)
    submission = json.loads((root / "submission/submission.json").read_text())
    assert submission["seed_results"]["1"]["steps"] == 0
    log = (root / "submission/train_seed1.log").read_text()
    assert f"model_params:{report['model_params']}" in log
    assert report["imported"]["checkpoint_sha256"] in log
    ours = load_file(root / "seeds/1/train/checkpoint.safetensors")
    theirs = load_file(importing.root / "weights.safetensors")
    assert torch.equal(ours["token_embedding.weight"], theirs["tok_emb.weight"])
    readme = (root / "submission/README.md").read_text()
    assert f"{report['imported']['checkpoint_sha256']}). What text they were trained on is not known" in readme
    importing.run("fairway", "report")


def test_the_record_of_an_imported_model_does_not_call_itself_a_recipes(importing):
    shutil.copytree(REPO / "recipes", importing.root / "recipes")
    importing.edit(package={"track": "my own track"})
    printed = importing.run(*IMPORT).stderr
    assert 'package.name: "Fairway CPU demo" -> "Imported weights"' in printed
    package = load_params(importing.root / "params.yaml", ["package"]).package
    assert (package.name, package.track) == ("Imported weights", "my own track")
    assert package.blurb.startswith("Imported weights weights.safetensors (layout crawler), trained elsewhere")
    (importing.root / "weights.safetensors").rename(importing.root / "other.safetensors")
    importing.run(*[part.replace("weights.s", "other.s") for part in IMPORT])
    assert load_params(importing.root / "params.yaml", ["package"]).package.name == "Imported other"


def test_val_that_the_checkpoint_may_have_seen_is_a_warning_until_files_are_held_out(importing):
    warning = re.compile("^warning: what weights.safetensors was trained on is not known: .* data.val_files", re.M)
    assert len(warning.findall(unfolded(importing.run(*IMPORT).stderr))) == 1
    (importing.root / "held-out.txt").write_text("a text that no checkpoint has seen")
    importing.edit(data={"val_files": ["held-out.txt"], "val_frac": None})
    importing.run("dvc", "repro", "prepare")
    assert not warning.findall(unfolded(importing.run(*IMPORT).stderr))


def test_scoring_follows_the_context_of_an_imported_model(importing):
    write_checkpoint(importing.root, {**ARGUMENTS, "context_tokens": 48})
    importing.run(*IMPORT)
    importing.run("fairway", "evaluate", "--seed", "1", "--item", "float")
    scores = json.loads((importing.root / "artifacts/seeds/1/evaluate/scores-float.json").read_text())
    assert scores["protocol"]["context_tokens"] == 48


def test_a_context_that_a_protocol_does_not_fit_is_said_first(importing):
    protocols = {"sliding": {"kind": "sliding", "context_tokens": None, "stride_tokens": 32, "mixture": None}}
    importing.edit(evaluate={"items": ["sliding"], "protocols": {**protocols, "float": protocols["sliding"]}})
    write_checkpoint(importing.root, {**ARGUMENTS, "context_tokens": 16})
    line = refuses(importing, *IMPORT)
    assert (
        "evaluate.protocols.sliding.stride_tokens: got 32, expected 1 to context_tokens (16); section `model`" in line
    )


def test_dropping_unread_tensors_names_them_and_saves_their_parameters(importing):
    printed = importing.run(*IMPORT, "--drop-unread").stderr
    assert "ve_shared.embed.weight" in printed
    report = json.loads((importing.root / "artifacts/seeds/1/train/report.json").read_text())
    parameters = sum(tensor.numel() for tensor in load_file(importing.root / "weights.safetensors").values())
    assert report["model_params"] == parameters - (320 * 8 + 16 * 8 + 1 + 1)


def test_bad_input_is_one_line(importing):
    (importing.root / "broken.json").write_text("{")
    (importing.root / "bare.json").write_text(json.dumps(ARGUMENTS))
    (importing.root / "narrow.json").write_text(json.dumps({**ARGUMENTS, "model_dim": 64}))
    (importing.root / "broken.safetensors").write_bytes(b"nothing")
    (importing.root / "hello.pt").write_bytes(b"hello")  # for torch's reader: KeyError 101
    (importing.root / "deep.json").write_text("[" * 100_000)
    (importing.root / "long.json").write_text("9" * 5000)
    (importing.root / "odd.json").write_text(json.dumps({"layout": ["crawler"], "config": ARGUMENTS}))

    def line(checkpoint: str, config: str, *more: str, seed: str = "1") -> str:
        return refuses(importing, "fairway", "import", checkpoint, "--config", config, "--seed", seed, *more)

    assert "not valid JSON" in line("weights.safetensors", "broken.json")
    assert "deep.json is not valid JSON (it is nested too deeply)" in line("weights.safetensors", "deep.json")
    assert "long.json is not valid JSON (Exceeds the limit" in line("weights.safetensors", "long.json")
    assert f"--layout: missing, and bare.json names none beside `config`; expected one of {', '.join(LAYOUTS)}" in line(
        "weights.safetensors", "bare.json"
    )
    assert (
        "--layout: got 'crawlers', expected one of crawler, crawler-pervisit, looped-unet (nearest: crawler)"
        in line("weights.safetensors", "bare.json", "--layout", "crawlers")
    )
    assert "odd.json: layout: got ['crawler'], expected one of " in line("weights.safetensors", "odd.json")
    assert "shape" in line("weights.safetensors", "narrow.json", "--layout", "crawler")
    assert "unreadable" in line("broken.safetensors", "weights.json")
    assert "hello.pt is unreadable (first bytes: got b'hello', expected" in line("hello.pt", "weights.json")
    assert "as in weights.json" in line("weights.safetensors", "weights.json", "--layout", "looped-unet")
    assert "one of seeds" in line("weights.safetensors", "weights.json", seed="5")


FILES_FIRST = {
    ("weights.pt", "weights.json"): (
        "checkpoint: got 'weights.pt', which names no file, expected a .safetensors, .pt or .pth file; the nearest "
        "that exists is 'weights.safetensors'"
    ),
    ("weights.safetensors", "w.json"): (
        "--config: got 'w.json', which names no file, expected a .json file; the nearest that exists is 'weights.json'"
    ),
    (".", "weights.json"): "checkpoint: .: got 'a folder', expected a .safetensors, .pt or .pth file",
    ("weights.safetensors", "."): "--config: .: got 'a folder', expected a .json file",
}
"""Checkpoint and --config, one of them no file -> the line that says so."""


@pytest.mark.parametrize("files", FILES_FIRST)
def test_files_are_looked_for_before_anything_else(tmp_path: Path, files: tuple[str, str]):
    """Not even params.yaml and the prepared data are there."""
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "weights.json").touch()
    done = fairway("import", files[0], "--config", files[1], "--seed", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"fairway: error: {FILES_FIRST[files]}\n")


def test_no_torch_is_loaded_to_say_that_a_file_is_missing(repo: Path):
    program = (
        "import sys; from stages.import_checkpoint import import_checkpoint\n"
        "try: import_checkpoint.main(['absent.pt', '--config', 'absent.json', '--seed', '1'])\n"
        "except ValueError: sys.exit(' '.join({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repo, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "")


def test_help_lists_the_layouts(repo: Path):
    shown = "".join(fairway("import", "--help", cwd=repo).stdout.split())  # lines break within names
    assert f"Familyoftheprogram:{','.join([*LAYOUTS][:-1])}or{[*LAYOUTS][-1]}." in shown


def test_another_vocabulary_names_the_remedy(importing):
    write_checkpoint(importing.root, {**ARGUMENTS, "vocab_size": 330})
    line = refuses(importing, *IMPORT)
    assert "got 330, expected 320" in line
    assert "dvc repro prepare" in line


@pytest.mark.parametrize("with_git", [True, False])
def test_without_dvc_the_error_says_what_would_happen_and_parameters_stay(importing, with_git):
    (importing.root / "dvc.yaml").rename(importing.root / "elsewhere.yaml")
    if not with_git:
        (importing.root / ".git").rename(importing.root / ".no-git")
    before = (importing.root / "params.yaml").read_bytes()
    done = importing.run(*IMPORT, check=False)
    assert done.returncode == 1
    assert "`dvc repro` would train" in done.stderr.splitlines()[-1]
    assert (importing.root / "params.yaml").read_bytes() == before


def test_a_corpus_too_short_for_the_context_changes_nothing(importing):
    write_checkpoint(importing.root, {**ARGUMENTS, "context_tokens": 70_000})
    assert "tokens" in refuses(importing, *IMPORT)


def test_weights_that_overflow_change_nothing_and_are_named(importing):
    tensors = load_file(importing.root / "weights.safetensors")
    name = next(name for name in tensors if "crawler_blocks" in name and name.endswith("mlp.proj.weight"))
    save_file({**tensors, name: torch.full_like(tensors[name], 1e30)}, importing.root / "weights.safetensors")
    line = refuses(importing, *IMPORT)
    assert f"{name}: got 1e+30" in line


def test_wrapped_names_are_said_and_a_zero_embedding_goes_all_the_way(importing):
    tensors = {f"module.{name}": tensor for name, tensor in load_file(importing.root / "weights.safetensors").items()}
    for name in tensors:
        if "tok_emb" in name or "bigram" in name:
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, importing.root / "weights.safetensors")
    assert f"unwrapped: the names of all {len(tensors)} tensors begin with module." in importing.run(*IMPORT).stderr
    importing.edit(budget={"limit_bytes": 10_000_000})
    importing.run("fairway", "calibrate", "--seed", "1")
    assert "the finest steps fit" in unfolded(importing.run("fairway", "quantize", "--seed", "1").stdout)
