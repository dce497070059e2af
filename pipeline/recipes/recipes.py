"""Recipes: complete configurations by name, what sets two configurations apart, and one section written in place.

A recipe is a file of the same schema as params.yaml; its first line, a comment, says what it is. Reading, comparing and
writing work on plain YAML values and import no section's class.

Checked by: tests/test_recipes.py, tests/stages/test_recipe.py.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.config import parse_yaml, read_yaml

MISSING = "(absent)"


class Difference(NamedTuple):
    """One key whose value differs."""

    key: str
    """Dotted."""
    before: str
    """Value as YAML, or MISSING."""
    after: str
    """The same on the other side."""


def recipe_names(folder: Path) -> list[str]:
    """Return the names of the recipes in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def recipe_path(folder: Path, name: str) -> Path:
    """Return the file of a recipe; ValueError with the nearest name when there is none."""
    names = recipe_names(folder)
    if name in names:
        return folder / f"{name}.yaml"
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)
    advice = f"did you mean `{nearest[0]}`?" if nearest else f"no recipes in {folder}"
    raise ValueError(f"recipe: got {name!r}, which does not exist; {advice}")


def description(path: Path) -> str:
    """Return what the first line of a recipe says."""
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("#").strip()


def differences(before: Path, after: Path) -> list[Difference]:
    """Return the keys in which two configuration files differ, in the order of the first; comments do not count."""
    return list(_differences(read_yaml(before), read_yaml(after), ""))


def value_differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> list[Difference]:
    """Return the same for plain values; `prefix` stands before every key."""
    return list(_differences(before, after, prefix))


def section_values(path: Path, section: str) -> dict[str, Any]:
    """Return one section of a configuration file as plain values."""
    return read_yaml(path)[section]


def with_section(text: str, section: str, values: Mapping[str, Any]) -> str:
    """Return YAML `text` with `values` in the place of a section's; comments of keys that stay remain.

    What is returned is read back first. ValueError when the section does not stand as a block of its own.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.fullmatch(rf"{section}:\s*(#.*)?", line)), None)
    if start is None:
        raise ValueError(f"{section}: no such section, expected a line `{section}:` with its keys below")
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i])), len(lines))
    while not lines[end - 1].strip():  # blank lines belong to what follows
        end -= 1
    written = _written({section: values}, "", _comments(lines[start:end]))
    result = "\n".join([*lines[:start], *written, *lines[end:]]) + "\n"
    found, expected = parse_yaml(result), {**parse_yaml(text), section: values}
    assert found == expected, "the section was written wrongly"
    return result


def _comments(lines: Sequence[str]) -> dict[str, str]:
    """Return the comment behind each key of block-style YAML, by dotted key."""
    found: dict[str, str] = {}
    parents = {-1: ""}
    for line in lines:
        if match := re.match(r"( *)([\w-]+):(?:.*?\s(#.*))?", line):
            depth, name, comment = len(match[1]), match[2], match[3]
            parents = {indent: key for indent, key in parents.items() if indent < depth}
            parents[depth] = f"{parents[max(parents)]}.{name}".lstrip(".")
            found |= {parents[depth]: comment} if comment else {}
    return found


def _written(values: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[str]:
    """Yield block-style lines; what is no mapping stands as JSON, which is YAML."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_block = isinstance(value, Mapping) and value
        line = "  " * prefix.count(".") + (f"{key}:" if is_block else f"{key}: {_leaf(value)}")
        yield f"{line:<36}{comments[name]}" if name in comments else line
        if is_block:
            yield from _written(value, f"{name}.", comments)


def _leaf(value: object) -> str:
    """Return JSON, without quotes around a word that reads as itself."""
    text = json.dumps(value)
    word = text[1:-1] if isinstance(value, str) else ""
    is_bare = re.fullmatch(r"[a-z][a-z_-]*", word) and word not in ("null", "true", "false", "yes", "no", "on", "off")
    return word if is_bare else text


def _differences(before: Mapping, after: Mapping, prefix: str) -> Iterator[Difference]:
    for key in [*before, *(key for key in after if key not in before)]:
        name, ours, theirs = f"{prefix}{key}", before.get(key, MISSING), after.get(key, MISSING)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs, f"{name}.")
        elif ours != theirs or isinstance(ours, bool) != isinstance(theirs, bool):
            yield Difference(name, _shown(ours), _shown(theirs))


def _shown(value: object) -> str:
    return MISSING if value == MISSING else json.dumps(value, ensure_ascii=False)
