"""params.yaml as a whole: `fairway check`, and every command that reads the file, refuse what a later stage would."""

import json
import re
from pathlib import Path

import pytest

from pipeline.base.artifacts import path_of
from stages.shell.rules import check_corpus, check_params
from tests.configurations import FILES, REPO, changed, documents
from tests.stages.test_cli import fairway

READERS = {
    "check": [],
    "prepare": [],
    "train": ["--seed", "444"],
    "calibrate": ["--seed", "444"],
    "quantize": ["--seed", "444"],
    "evaluate": ["--seed", "444", "--item", "blocks"],
    "package": [],
    "report": [],
    "sample": [],
    "score": [__file__],  # looks at its files first
    "import": [__file__, "--config", __file__, "--seed", "444"],  # asks for files first
}
"""Command that reads a configuration -> what else it has to be told."""
BAD = [
    ("budget.tolerance_frac", "close", "budget.tolerance_frac: got 'close' (str), expected a number"),
    ("package.github", "fairway", "package.github: unknown key in package; did you mean `github_id`?"),
    ("seeds", "444", "seeds: got '444' (str), expected a list"),
    ("evaluate.items", ["blocks", "foo"], "evaluate.items: got 'foo', expected names among protocols"),
    ("model.vocab_size", 512, "model.vocab_size: got 512, expected 1024, as data.vocab_size"),
    ("train.document_bos_id", 1024, "train.document_bos_id: got 1024, expected a token id below model.vocab_size"),
    ("model.attention.document_bos_id", 1024, "model.attention.document_bos_id: got 1024, expected null or a token id"),
    (
        "train.context_stages",
        [{"from_frac": 0, "context_tokens": 128}],
        "train.context_stages[-1].context_tokens: got 128, expected 256, model.context_tokens: what is never trained",
    ),
    (
        "evaluate.protocols.blocks",
        {"kind": "blocks", "documents": True, "bos_id": 1024, "context_tokens": 8, "mixture": None},
        "evaluate.protocols.blocks.bos_id: got 1024, expected a token id below",
    ),
    ("calibrate.sensitivity_sequences", 0, "calibrate.sensitivity_sequences: got 0, expected above 0: quantize.steps"),
    ("quantize.target_share", 0.5, "calibrate.provisional.target_share: got 0, expected above 0, which quantize"),
    ("quantize.visit_weights", [1, 2], "quantize.visit_weights: got [1.0, 2.0], expected 3 numbers or more"),
    (
        "train.matrix_lr",
        {"peak": 0.02, "block_factors": [1, 2]},
        "train.matrix_lr.block_factors: got [1.0, 2.0], expected 5 numbers, one for each block of the model",
    ),
    (
        "train.average",
        {"kind": "ema", "decay": 0.9, "from_frac": 0.9, "every_steps": 300},
        "train.average.every_steps: got 300, expected steps of which one ends between average.from_frac and max_steps",
    ),
    ("calibrate.mixture.tokens", 256, "calibrate.mixture.tokens: got 256, expected above 256, a sequence"),
    (
        "calibrate.mixture",
        None,
        "evaluate.protocols.mixture.mixture: got 'document', expected null, or calibrate.mixture",
    ),
    (
        "evaluate.protocols.blocks.mixture",
        "stream",
        "evaluate.protocols.blocks.mixture: got 'stream', expected null, or calibrate.mixture with stream_orders",
    ),
    (
        "evaluate.protocols.float.mixture",
        "document",
        "evaluate.protocols.float.mixture: got 'document', expected null: a",
    ),
    (
        "evaluate.protocols.size",
        {"kind": "blocks", "context_tokens": 8, "mixture": None},
        "evaluate.protocols.size: got a key",
    ),
    (
        "evaluate.protocols.a b",
        {"kind": "blocks", "context_tokens": 8, "mixture": None},
        "evaluate.protocols: got 'a b', expected",
    ),
]


def edited(folder: Path, key: str, value: object) -> str:
    """Write params.yaml with one other value; return its path."""
    (folder / "params.yaml").write_text(json.dumps(changed(documents()[0], {key: value})))
    return str(folder / "params.yaml")


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_what_a_later_stage_would_refuse_is_refused_first(key, value, message, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^[\w.\[\]-]+: got|^package.github: unknown") as caught:
        check_params(edited(tmp_path, key, value))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_configuration_agrees_with_itself(path: Path):
    check_params(str(path))


def test_check_says_in_one_line_what_it_checked(repo: Path):
    done = fairway("check", cwd=repo)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "params.yaml: all 10 sections are sound and agree\n"


@pytest.mark.parametrize("command", READERS)
def test_every_command_that_reads_the_file_checks_all_of_it_first(command: str, tmp_path: Path):
    params = edited(tmp_path, "package.github", "fairway")
    done = fairway(command, *READERS[command], "--params", params, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fairway: error: package.github: unknown key in package")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"], "nothing was written"


def test_demo_checks_the_file_before_anything_runs(tmp_path: Path):
    edited(tmp_path, "package.github", "fairway")
    done = fairway("demo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


STARTS = [
    ("model.attention.document_bos_id", "model.attention.document_bos_id", 2),
    ("model.smear.bos_id", "model.smear", {"kind": "token", "width": 12, "bos_id": 2}),
    ("train.document_bos_id", "train.document_bos_id", 2),
    (
        "evaluate.protocols.blocks.bos_id",
        "evaluate.protocols.blocks",
        {"kind": "blocks", "documents": True, "bos_id": 2, "context_tokens": 8, "mixture": None},
    ),
]
"""Key whose token id begins no document of the prepared corpus, and what is set to have it."""


def prepare_nothing(folder: Path) -> None:
    """Write what lies there after `prepare`, without a shard, and weights that nobody can read."""
    empty = {"documents": 0, "tokens": 0, "targets": 0, "bytes": 0, "shards": []}
    manifest = {"vocab_size": 1024, "bos_id": 1, "unigram_bpb": 1.0, "tokenizer_sha256": ""}
    for path in (path_of("manifest"), path_of("byte_table"), path_of("model", seed=444)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(manifest | {"splits": {"train": empty, "val": empty}}))


@pytest.mark.parametrize(("key", "changed_key", "value"), STARTS)
def test_documents_begin_as_in_the_prepared_corpus(key, changed_key, value, tmp_path: Path, monkeypatch):
    """`fairway check` says nothing of it: what lies there may be from before an edit of section `data`."""
    prepare_nothing(tmp_path)
    monkeypatch.chdir(tmp_path)
    check_corpus(edited(tmp_path, "train.document_bos_id", 1))
    with pytest.raises(ValueError, match=f"^{re.escape(key)}: got 2, expected 1, with which documents of the prepared"):
        check_corpus(edited(tmp_path, changed_key, value))
    check_params("params.yaml")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_stages_that_read_the_corpus_compare_it_first(command: str, tmp_path: Path):
    """Whatever key it is: nobody trains for hours before the scorer tells."""
    prepare_nothing(tmp_path)
    params = edited(tmp_path, *STARTS[-1][1:])
    done = fairway(command, *READERS[command], "--params", params, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"fairway: error: {STARTS[-1][0]}: got 2, expected 1")


def test_recipes_may_replace_a_file_that_is_wrong(tmp_path: Path):
    params = edited(tmp_path, "package.github", "fairway")
    assert fairway("recipe", "use", "tiny", "--yes", "--params", params, cwd=tmp_path).returncode == 0
    check_params(params)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: got 2, expected 1 or no such variable in a process that torchrun did not"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (
                    {
                        "WORLD_SIZE": "2",
                        "RANK": "0",
                        "LOCAL_RANK": "0",
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": "29511",
                    },
                    "WORLD_SIZE: got 2, expected 1 or no such variable",
                ),
                ({"WORLD_SIZE": ""}, "WORLD_SIZE: got '', expected a whole number, as torchrun sets it"),
                (
                    {"WORLD_SIZE": "2", "RANK": "first", "TORCHELASTIC_RUN_ID": "run"},
                    "RANK: got 'first', expected a whole",
                ),
                ({"RANK": "3"}, "artifacts/data/manifest.json: no such file"),
            ]
        ),
    ],
)
def test_variables_of_schedulers_are_refused_by_name(variables, message, tmp_path: Path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = fairway("train", "--seed", "444", "--params", str(REPO / "params.yaml"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fairway: error: {message}")
    assert done.stderr.count("\n") == 1
