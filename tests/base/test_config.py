"""The loader: every bad value is one line with its dotted key and the remedy; only asked sections come back."""

import re
from pathlib import Path

import pytest

from pipeline.base.config import SECTIONS, load_params


@pytest.fixture
def edited(repo: Path, tmp_path: Path):
    """Return a function that loads a section of params.yaml after one edit, a regular expression."""

    def load(old: str, new: str, section: str):
        text, replaced = re.subn(old, new, (repo / "params.yaml").read_text(), count=1)
        assert replaced
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return load_params(path, [section])

    return load


def test_every_section_of_the_shipped_file_loads(repo: Path):
    params = load_params(repo / "params.yaml", SECTIONS)
    assert params.seeds
    assert params.model.vocab_size == params.data.vocab_size
    assert params.evaluate.protocols["float"].kind == "blocks"
    assert isinstance(params.train.matrix_lr, float)


def test_only_the_sections_asked_for_come_back(repo: Path):
    params = load_params(repo / "params.yaml", ["data"])
    assert params.data.source == "wikipedia-leads"
    with pytest.raises(AttributeError):
        _ = params.model


@pytest.mark.parametrize(
    ("section", "old", "new", "message"),
    [
        ("data", "val_frac:", "val_fraction:", "data.val_fraction: unknown key in data; did you mean `val_frac`?"),
        ("data", "  max_documents: null ", "  ", "data.max_documents: missing key in data"),
        ("data", r"val_frac: [\d.]+", "val_frac: often", "data.val_frac: got 'often' (str), expected a number"),
        ("data", r"val_frac: [\d.]+", "val_frac: 1.5", "data.val_frac: got 1.5, expected a share between 0 and 1"),
        ("data", "source: wikipedia-leads", "source: wikipedia", "did you mean `wikipedia-leads`?"),
        ("train", "compile: false", "compile: 0", "train.compile: got 0 (int), expected true or false"),
        ("train", r"max_steps: \w+", "max_steps: true", "train.max_steps: got True (bool), expected a whole number"),
        (
            "train",
            r"max_steps: \w+( .*\n  max_seconds: )[\d.]+",
            r"max_steps: null\1null",
            "train.max_steps: got None, expected a number here or in",
        ),
        ("evaluate", "kind: sliding", "kind: slide", "evaluate.protocols.sliding.kind: got 'slide'"),
        (
            "evaluate",
            r"(\n  context_tokens): \d+",
            r"\1: 32",
            "evaluate.protocols.sliding.stride_tokens: got 64, expected 1 to context_tokens (32)",
        ),
        ("evaluate", r"(\n  context_tokens): \d+", r"\1: null", "evaluate.protocols.float.context_tokens: got None"),
        ("evaluate", r"\[blocks, sliding, ttt, mixture\]", "[blocks, slidin]", "evaluate.items: got 'slidin'"),
        ("seeds", r"seeds: \[\d+\]", "seeds: [444, 444]", "seeds: got [444, 444]"),
        ("data", "\nlaunch:", "\nlunch:", "lunch: unknown key in"),
        ("data", r"seeds: \[\d+\]", "seeds: [444", "not valid YAML"),
    ],
)
def test_bad_values_name_the_key_and_the_remedy(edited, section, old, new, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        edited(old, new, section)
    assert "\n" not in str(caught.value)


def test_protocols_without_a_context_of_their_own_follow_the_model(edited):
    protocols = edited(r"(\n  context_tokens): \d+", r"\1: 512", "evaluate").evaluate.protocols
    assert {protocol.context_tokens for protocol in protocols.values()} == {512}
    one = edited(r"(blocks: .*context_tokens): null", r"\1: 128", "evaluate").evaluate.protocols
    assert (one["blocks"].context_tokens, one["sliding"].context_tokens) == (128, 256)


def test_scientific_notation_is_a_number(edited):
    assert edited(r"val_frac: [\d.]+", "val_frac: 1e-2", "data").data.val_frac == 0.01


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match="no such file"):
        load_params(tmp_path / "params.yaml", ["data"])
