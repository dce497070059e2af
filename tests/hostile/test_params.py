"""params.yaml at its worst: whatever a file holds, it loads or is refused in one short line, within seconds."""

import json
import math
import os
import random
import re
import time
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.config import MOST_CHARACTERS, MOST_ENTRIES, SECTIONS, UNHASHED_NAMES, load_params, parse_value
from stages.shell.rules import check_params
from tests.configurations import FILES, SCHEMA, changed, documents, places_of_numbers, section_class, takes_numbers
from tests.hostile.mutations import damaged_value

TOO_FAR = (10**11, 10**30, -(10**30), math.inf, -math.inf, math.nan)
FLOATS_REACH = 10**11
"""Far for a count; a float may be that large."""
MAY_BE_NEGATIVE = {"attention.qk_gain", "mlp.slope"}


def refusal(path: Path) -> str:
    """Return the line that refuses a configuration, empty for one that loads; it comes within five seconds."""
    started, message = time.monotonic(), ""
    try:
        check_params(str(path))
    except ValueError as error:
        message = str(error)
        is_short = message and len(message) < 500 and "\n" not in message
        assert is_short, message[:2000]
    assert time.monotonic() - started < 5
    return message


def refused_number(document: dict[str, Any], key: str, value: object) -> str:
    """Return the line that refuses a number at a dotted key; where it holds a list or mapping, as an entry of it."""
    section = key.partition(".")[0]
    for entry in (value, [value], [[value, value]], {"name": [value]}):
        try:
            parse_value(section_class(section), changed(document, {key: entry})[section], section)
        except ValueError as error:
            if "expected a list" not in str(error) and "expected a mapping" not in str(error):
                return str(error)
        else:
            break
    return f"{key} took {value}"


def test_documents_hold_every_number_of_the_schema():
    numbers = {
        (cls, name) for cls in SCHEMA for name, kind in typing.get_type_hints(cls).items() if takes_numbers(kind)
    }
    assert set(places_of_numbers()) == numbers


def test_every_number_has_a_range():
    wrong = []
    for (cls, name), (document, key) in places_of_numbers().items():
        is_float = "float" in str(typing.get_type_hints(cls)[name])
        values = [value for value in TOO_FAR if not (is_float and value == FLOATS_REACH)]
        if not key.endswith(tuple(MAY_BE_NEGATIVE)):
            values.append(-1)
        for value in values:
            line = refused_number(document, key, value)
            if not re.match(rf"{re.escape(key)}(\.name|(\[0\])*: got).*expected", line):
                wrong.append(f"{key} {value}: {line}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**26, math.inf, math.nan, 1.0, True])
def test_seeds_have_a_range(seed, tmp_path: Path):
    write(tmp_path / "params.yaml", {**documents()[0], "seeds": [seed]})
    assert refusal(tmp_path / "params.yaml").startswith("seeds")


@pytest.mark.parametrize("value", [4.0, True, "4"])
def test_a_choice_is_of_its_type(value):
    with pytest.raises(ValueError, match=r"^quantize\.trellis_states: got"):
        parse_value(section_class("quantize"), {**documents()[0]["quantize"], "trellis_states": value}, "quantize")


def test_no_name_of_the_schema_is_one_that_dvc_leaves_out():
    names = {*SECTIONS, *(name for cls in SCHEMA for name in typing.get_type_hints(cls))}
    assert not names & set(UNHASHED_NAMES)


@pytest.mark.parametrize("name", UNHASHED_NAMES)
@pytest.mark.parametrize("place", ["", "budget.", "evaluate.protocols.", "model.unread.", "model.rope."])
def test_no_key_may_have_such_a_name(name: str, place: str, tmp_path: Path):
    write(tmp_path / "params.yaml", changed(documents()[0], {place + name: [1]}))
    assert refusal(tmp_path / "params.yaml").startswith(f"{place}{name}: got a key named {name}, expected another name")


TEXTS = {
    "alias bomb": (
        "data: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"b{i}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)),
        "aliases (*) followed",
    ),
    "a list inside itself": ("data: &a [*a]", "aliases (*) followed"),
    "a merge with itself": ("data: &a {<<: *a}", "aliases (*) followed"),
    "2,000 brackets": ("[" * 2000, "nested too deeply"),
    "brackets only": ("[" * (MOST_CHARACTERS - 1), "nested too deeply"),
    "braces only": ("{a: " * 40_000, "nested too deeply"),
    "dashes": ("- " * 90_000, "nested too deeply"),
    "a wrong bool": ("seeds: [1]\ndata: !!bool maybe", "line 2: not valid YAML: 'maybe' is no bool"),
    "a wrong int": ("seeds: !!int x", "line 1: not valid YAML: 'x' is no int"),
    "a wrong day": ("seeds: 2026-99-99", "line 1: not valid YAML: '2026-99-99' is no timestamp"),
    "5,000 digits": ("seeds: [" + "9" * 5000 + "]", "line 1: not valid YAML"),
    "90,000 hexadecimal digits": ("seeds: [0x" + "f" * 90_000 + "]", "missing key"),
    "an object": ("seeds: !!python/object/apply:os.getpid []", "line 1: not valid YAML: could not determine"),
    "a tab": ("data:\n\tx: 1", "line 2: not valid YAML: found character '\\t'"),
    "a key twice": ("seeds: [1]\nseeds: [2]", "line 2: not valid YAML: found duplicate key"),
    "an unclosed list": ("seeds: [444", "line 1: not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: not valid YAML"),
    "a NUL": ("a\0b", "not valid YAML: unacceptable character"),
    "nothing": ("", "got None (NoneType), expected a mapping of sections"),
    "a list": ("- 1", "got [1] (list), expected a mapping of sections"),
    "a long key": ("a" * 1000 + ": 1", "unknown key in"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(9000)), "k0: unknown key in"),
}
"""What a file holds, and what of the line says so."""


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_configuration_is_one_short_line(name: str, tmp_path: Path):
    text, message = TEXTS[name]
    (tmp_path / "params.yaml").write_text(text)
    assert message in refusal(tmp_path / "params.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named_with_its_line(encoding: str, tmp_path: Path):
    (tmp_path / "params.yaml").write_bytes("# first\n# gr\u00fcn\n".encode(encoding))
    line = 1 if encoding == "utf-16" else 2
    assert (
        refusal(tmp_path / "params.yaml") == f"{tmp_path}/params.yaml: line {line}: not UTF-8; save the file as UTF-8"
    )


def test_what_is_no_small_file_is_not_read(tmp_path: Path):
    assert "got a folder, expected a YAML file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "got a pipe or device, expected a YAML file" in refusal(tmp_path / "pipe")
    assert "got a pipe or device" in refusal(Path("/dev/zero"))
    with open(tmp_path / "long", "wb") as file:
        file.truncate(10**9)
    assert "got 1,000,000,000 bytes, expected a configuration of at most" in refusal(tmp_path / "long")
    assert "no such file" in refusal(tmp_path / "absent")


def test_lists_and_messages_stay_short(tmp_path: Path):
    write(tmp_path / "params.yaml", changed(documents()[0], {"model.parallel_blocks": [0] * (MOST_ENTRIES + 1)}))
    assert refusal(tmp_path / "params.yaml").startswith(f"model.parallel_blocks: got {MOST_ENTRIES + 1} entries")
    write(tmp_path / "params.yaml", changed(documents()[0], {"evaluate.items": ["x" * 100_000]}))
    assert refusal(tmp_path / "params.yaml").startswith("evaluate.items: got 'xxx")


def test_aliases_are_read_as_they_always_were(tmp_path: Path):
    text = (
        FILES[0]
        .read_text()
        .replace("float:   {kind", "float: &same {kind")
        .replace("blocks:  {kind: blocks, context_tokens: null, mixture: null}", "blocks: *same")
    )
    assert "&same" in text
    assert "*same" in text
    (tmp_path / "params.yaml").write_text("\ufeff" + text)
    assert vars(load_params(tmp_path / "params.yaml", SECTIONS)) == vars(load_params(FILES[0], SECTIONS))


def test_inputs_that_failed(shared: Path):
    paths = sorted((shared / "hostile" / "parsers").glob("*.yaml"))
    assert paths
    assert all(refusal(path) for path in paths)


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as JSON, which is YAML but for how it spells the numbers that are none."""
    path.write_text(json.dumps(document).replace("NaN", ".nan").replace("Infinity", ".inf"))


def mutated(choose: random.Random) -> Any:
    """Return a valid document after a few changes of values, keys and whole branches."""
    document: Any = choose.choice(documents())
    for _ in range(choose.choice((1, 1, 1, 2, 4))):
        document = damaged_value(document, choose)
    return document


@given(choose=st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_mutation_loads_or_is_one_line(tmp_path_factory, choose):
    path = tmp_path_factory.mktemp("mutated") / "params.yaml"
    write(path, mutated(choose))
    refusal(path)


@given(st.integers(0, len(FILES) - 1), st.integers(0, 10**6), st.binary(max_size=8), st.integers(0, 8))
@settings(max_examples=60)
def test_so_does_a_text_with_other_bytes(tmp_path_factory, file, place, inserted, removed):
    content = FILES[file].read_bytes()
    at = place % len(content)
    path = tmp_path_factory.mktemp("bytes") / "params.yaml"
    path.write_bytes(content[:at] + inserted + content[at + removed :])
    refusal(path)


@pytest.mark.slow
def test_so_do_ten_thousand_mutations(tmp_path: Path):
    generator = random.Random(0)
    path = tmp_path / "params.yaml"
    for _ in range(10_000):
        write(path, mutated(generator))
        refusal(path)
