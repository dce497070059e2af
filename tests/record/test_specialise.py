"""A specialised program computes what the library computes, and holds nothing that its recipe does not use."""

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.recipes.recipes import recipe_names
from pipeline.record.build import record_source
from pipeline.record.flow import Flow
from pipeline.record.minify import minify, wrap
from pipeline.record.shorten import own_names
from pipeline.record.specialise import specialise, without_unused
from pipeline.record.trim import trim
from tests.shrunk_recipes import shrunk_recipe, write_inputs

REPO = Path(__file__).resolve().parents[2]

PROGRAM = """
from dataclasses import dataclass, replace


class ArtifactError(Exception):
    pass


def require(ok: bool, field: str) -> None:
    if not ok:
        raise ValueError(field)


def require_always(ok: bool, field: str) -> None:
    if not ok:
        raise ValueError(field)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    spokes: int

    def __post_init__(self) -> None:
        require(self.spokes > 0, "spokes_message")


@dataclass(frozen=True, kw_only=True)
class Config:
    front: Wheel | None
    rear: Wheel
    order: tuple[int, ...]
    seed: int

    @property
    def total_spokes(self) -> int:
        return self.rear.spokes + (0 if self.front is None else self.front.spokes)


class Counter:
    def __init__(self, limit_value: int) -> None:
        self.limit_value = limit_value
        self.count_value = 0
        self.unread_value = limit_value

    def next(self) -> int:
        self.count_value += 1
        return self.count_value


def first_above(values: list[int], bound: int | None) -> int | None:
    return next((value for value in values if bound is not None and value > bound), None)


def ride_front(wheel: Wheel) -> str:
    return "front_message"


def halves(config: Config) -> list[int]:
    middle = len(config.order) // 2
    return [len(part) for part in (config.order[:middle], config.order[middle:])]


def tell(note: str) -> None:
    print(note)


def stay_silent(note: str) -> None:
    pass


def work(config: Config, log_note, progress_note) -> int:
    trials = 0

    def attempt() -> None:
        nonlocal trials
        trials += 1

    for _ in range(3):
        attempt()
        progress_note(f"trial {trials}")
    log_note(f"seed {config.seed}")
    return trials


def main(config: Config) -> None:
    config = replace(config, seed=len(str(config.total_spokes)))
    counter = Counter(2)
    chosen = None
    if config.front is not None:
        print(ride_front(config.front))
    elif isinstance(config.rear, Wheel):
        print(config.total_spokes, halves(config), config.seed, counter.next(), counter.limit_value)
    for value in (first_above([1, 5, 7], 4), first_above([1], None)):
        if value != chosen:
            print("changed", value)
            chosen = value
    if config.seed > 100:
        raise ArtifactError("guard_message")
    require_always(len(sys_path()) > 0, "demand_message")
    assert chosen is None, "assert_message"
    print(work(config, tell, stay_silent))


def sys_path() -> list[str]:
    import sys

    return sys.path


main(Config(front=None, rear=Wheel(spokes=36), order=(0, 1, 2), seed=7))
"""


def printed(source: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
    return output.getvalue()


def test_a_specialised_program_prints_what_the_program_prints():
    small = specialise(PROGRAM)
    assert printed(small) == printed(minify(small)) == printed(PROGRAM)
    assert "36 [1, 2] 2 1 2\nchanged 5\nchanged None\n" in printed(PROGRAM)


def test_what_cannot_run_or_is_not_read_is_gone():
    small = specialise(PROGRAM)
    for gone in (
        "front",
        "spokes",
        "total_spokes",
        "unread_value",
        "require",
        "stay_silent",
        "progress_note",
        "limit_value",
        "spokes_message",
        "guard_message",
        "assert_message",
        "ArtifactError",
    ):
        assert not re.search(rf"\b{gone}\b", small), gone
    assert "demand_message" in small
    assert specialise(small) == specialise(PROGRAM)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("x = [1, 2]\nx.append(len(x))\nprint(x)", "[1, 2, 2]\n"),
        ("names = {'a': 1}\nnames['a'] = 2\nprint(names['a'])", "2\n"),
        ("total = 0\nfor i in range(3):\n    total += i\nprint(total)", "3\n"),
        ("found = None\nfor i in range(3):\n    if found is None:\n        found = i\nprint(found)", "0\n"),
        ("part = (1, 2, 3)[1:]\nprint(part, len(part))", "(2, 3) 2\n"),
        ("a, *b = (1, 2, 3)\nprint(a, b)", "1 [2, 3]\n"),
        ("try:\n    done = 1 // len('')\nexcept ZeroDivisionError:\n    done = None\nprint(done is None)", "True\n"),
        ("f = (lambda step, scale=2: step * scale)\nprint(f(3), f(step=1, scale=5))", "6 5\n"),
        ("flag = bool(1)\nprint(flag is True, flag == 1, 1 == 1.0, (1, True)[0] is True)", "True True True False\n"),
        ("x = 5\nprint(f'{x} {x:>3} {{}} {x!r}')", "5   5 {} 5\n"),
    ],
)
def test_ordinary_python_keeps_its_meaning(body, shown):
    indented = "\n".join("    " + line for line in body.splitlines())
    source = f"def main() -> None:\n{indented}\n\n\nmain()\n"
    assert printed(source) == shown
    assert printed(minify(specialise(source))) == shown


RENAMED = """
import json


class Box:
    def __init__(self) -> None:
        self.level_value = 1
        self.real_value = 2
        self.imag = 3

    def level_up(self) -> int:
        self.level_value += 1
        return self.level_value


def main() -> None:
    box = Box()
    print(box.level_up(), box.real_value, box.imag, hasattr(json, "real_value"), json.loads("1").imag)


main()
"""


def test_only_attributes_of_our_own_objects_get_short_names():
    tree = ast.parse(RENAMED)
    # `imag` is also read from an object that could be any, `real_value` asked for by a string.
    assert own_names(tree, Flow(tree)) == {"level_up", "level_value"}
    assert printed(specialise(RENAMED)) == printed(RENAMED)


@pytest.mark.slow
def test_the_keys_of_a_state_dict_keep_their_names():
    tree = ast.parse(without_unused(record_source(shrunk_recipe(REPO / "recipes/tiny.yaml"), REPO)))
    shortened = own_names(tree, Flow(tree))
    assert "after_step" in shortened
    assert not shortened & {"token_embedding", "blocks", "weight", "forward", "step"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def run_record(program: bytes, inputs: Path, folder: Path, *runner: str) -> tuple[list[str], bytes]:
    folder.mkdir()
    (folder / "train_gpt.py").write_bytes(program)
    command = [sys.executable, *(runner or ["-I"]), "train_gpt.py", "--data", str(inputs / "data")]
    command += ["--tokenizer", str(inputs / "tokenizer.model")]
    environment = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = ("Code size", "Total submission", "total_eval_time")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(own) and "train_gpt.py" not in line]
    return [re.sub(r"(train_time|step_avg):[0-9.]+ms", "", line) for line in lines], (folder / "model.fwy").read_bytes()


def check_recipe(name: str, inputs: Path, folder: Path) -> None:
    """Train, quantize and score with the library's text and with what ships: same log, same artifact."""
    recipe = shrunk_recipe(REPO / "recipes" / f"{name}.yaml")
    source = record_source(recipe, REPO)
    whole = run_record(source.encode(), inputs, folder / "whole")
    assert run_record(wrap(minify(specialise(source))), inputs, folder / "small") == whole
    assert sum(line.startswith("final_") for line in whole[0]) == len(recipe.evaluate.items)


def check_facts(name: str, inputs: Path, folder: Path) -> None:
    """Every value of a run is one that the analysis allows, and nothing runs that it says cannot."""
    source = record_source(shrunk_recipe(REPO / "recipes" / f"{name}.yaml"), REPO)
    trimmed = ast.unparse(trim(ast.parse(source)))
    run_record(trimmed.encode(), inputs, folder / "watched", str(REPO / "tests" / "watched_program.py"))


def test_the_shipped_program_trains_quantizes_and_scores_as_the_library(inputs, tmp_path):
    check_recipe("tiny", inputs, tmp_path)


@pytest.mark.slow
def test_the_analysis_of_the_program_is_true_of_its_run(inputs, tmp_path):
    check_facts("tiny", inputs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names(REPO / "recipes") if name != "tiny"])
def test_every_recipe_ships_a_program_that_computes_what_the_library_computes(name, inputs, tmp_path):
    check_recipe(name, inputs, tmp_path)
    check_facts(name, inputs, tmp_path)
