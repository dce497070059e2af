"""Flattening: the program runs as the package does, holds only what it needs, and refuses what it cannot carry."""

import ast
import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import python_minifier

from pipeline.base.closure import import_closure
from pipeline.base.config import SECTIONS, load_params
from pipeline.record.build import recipe_of
from pipeline.record.flatten import flatten
from pipeline.record.prove import project_imports
from pipeline.record.ship import minify, without_unused
from tests.record.test_trim import PROGRAM

TOY = {
    "pipeline/__init__.py": '"""Toy."""\n',
    "pipeline/shapes/__init__.py": "from pipeline.shapes.square import Square\n",
    "pipeline/shapes/base.py": '''
"""Base."""
import math
from dataclasses import dataclass
from functools import lru_cache, partial

SCALE = 3
UNUSED = partial(int, 2)
Side = int | float


@dataclass(frozen=True, kw_only=True)
class Shape:
    side: Side
    label: str = "shape"
    """Shown."""


def root(value):
    return math.sqrt(value)


def never_called(value):
    return math.pi * value
''',
    "pipeline/shapes/square.py": '''
import math
from functools import partial

from pipeline.shapes.base import SCALE, Shape, root

PAIR_A, PAIR_B = 1, 2


class Square(Shape):
    def area(self, extra=0):
        """Area."""
        return self.side ** 2 * SCALE + extra


def also_unused():
    return helper_of_unused()


def helper_of_unused():
    return partial(math.floor, 2)
''',
    "pipeline/program.py": """
from pipeline.shapes.base import root
from pipeline.shapes.square import PAIR_A, Square


def main(side, label):
    square = Square(side=side, label=label)
    print(square.area(), root(square.area()), square.label, PAIR_A)
""",
}
TAIL = 'if __name__ == "__main__":\n    main(2.5, "toy")'


@pytest.fixture
def toy(tmp_path: Path):
    """Return a function that writes the toy package with some files replaced and gives its root."""

    def write(**changes: str) -> Path:
        replaced = {name.replace("__", "/") + ".py": text for name, text in changes.items()}
        for name, text in {**TOY, **replaced}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def run_text(source: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
    return output.getvalue()


def test_a_program_prints_what_the_package_prints(toy):
    root = toy()
    package = subprocess.run(
        [sys.executable, "-c", 'from pipeline.program import main; main(2.5, "toy")'],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root)},
    )
    assert run_text(flatten("pipeline.program", root, TAIL)) == package.stdout != ""


def test_a_program_keeps_only_what_the_tail_reaches(toy):
    tree = ast.parse(flatten("pipeline.program", toy(), TAIL))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.name for node in imports for alias in node.names}
    assert defined == {"Shape", "root", "Square", "main"}
    assert imported == {"math", "dataclass"}


def test_a_program_has_no_project_import_and_is_deterministic(toy):
    first = flatten("pipeline.program", toy(), TAIL)
    assert project_imports(first) == []
    assert project_imports("def f():\n    from pipeline.a import b\nimport stages.c") == ["pipeline.a", "stages.c"]
    assert first == flatten("pipeline.program", toy(), TAIL)


def test_imports_of_several_modules_are_merged_once(toy):
    source = flatten("pipeline.program", toy(), "print(never_called, also_unused, UNUSED)")
    imports = [line for line in source.splitlines() if "import" in line]
    assert imports == ["import math", "from functools import partial"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "pipeline__shapes__square": "def root():\n    pass\nPAIR_A = Square = 1\n"
                "from pipeline.shapes.base import Shape\n"
            },
            ["root", "pipeline/shapes/base.py", "pipeline/shapes/square.py"],
        ),
        ({"pipeline__program": "from pipeline.shapes.base import root as r\n"}, ["program.py:1", "alias"]),
        ({"pipeline__program": "from .shapes.base import root\n"}, ["program.py:1", "relative"]),
        ({"pipeline__program": "from pipeline.shapes.base import *\n"}, ["program.py:1", "star"]),
        ({"pipeline__program": "import pipeline.shapes.base\n"}, ["program.py:1", "from pipeline.x import name"]),
        ({"pipeline__program": "def main():\n    from pipeline.shapes.base import root\n"}, ["program.py:2", "top"]),
        ({"pipeline__program": "from pipeline.shapes import Square\n"}, ["pipeline.shapes", "defining module"]),
        ({"pipeline__program": "from pipeline.shapes.square import root\n"}, ["root", "pipeline.shapes.square"]),
        ({"pipeline__program": "from __future__ import annotations\n"}, ["program.py:1", "__future__"]),
        ({"pipeline__program": "print('hello')\n"}, ["program.py:1", "on import"]),
        ({"pipeline__program": "def main():\n    return vars()\n"}, ["program.py:2", "vars"]),
        ({"pipeline__program": "def sum():\n    pass\n"}, ["program.py", "sum", "builtin"]),
        (
            {"pipeline__program": "from pipeline.shapes.base import root\nimport numpy as math\n"},
            ["math", "numpy", "pipeline/shapes/base.py", "pipeline/program.py"],
        ),
        (
            {"pipeline__program": "from pipeline.shapes.base import root\nmath = 2\n"},
            ["math", "pipeline/shapes/base.py", "pipeline/program.py"],
        ),
        ({"pipeline__program": "def main(side, label):\n    return undefined_thing\n"}, ["undefined_thing"]),
        ({"pipeline__program": "from pipeline.shapes.gone import x\n"}, ["program.py", "pipeline.shapes.gone"]),
        ({"pipeline__shapes__base": "from pipeline.shapes.square import Square\n"}, ["circular"]),
    ],
)
def test_refusals_name_the_file_and_the_reason(toy, changes, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked one by one
        flatten("pipeline.program", toy(**changes), TAIL)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_import_closure_holds_packages_and_nested_imports(toy):
    root = toy(
        stages__run="def run():\n    from pipeline.program import main\n    main(1, '')\n",
        pipeline__nested="from . import program\nfrom .shapes import base\n",
    )
    names = [path.relative_to(root).as_posix() for path in import_closure("pipeline.shapes.base", root)]
    # The package's own imports run too: that is what makes square.py part of the closure of base.py.
    assert names == [f"pipeline/{name}.py" for name in ("__init__", "shapes/__init__", "shapes/base", "shapes/square")]
    (root / "stages/__init__.py").write_text("")
    names = [path.relative_to(root).as_posix() for path in import_closure("stages.run", root)]
    assert "pipeline/program.py" in names
    assert "stages/run.py" in names
    relative = import_closure("pipeline.nested", root)
    assert {path.name for path in relative} >= {"program.py", "base.py", "square.py", "nested.py"}
    with pytest.raises(ValueError, match=r"the caller: imports pipeline\.absent"):
        import_closure("pipeline.absent", root)


def test_a_text_inside_of_an_fstring_is_refused_by_name(toy):
    program = "def main(side, label):\n    print(f\"{', '.join([label])}\")\n"
    with pytest.raises(ValueError, match=r"^flattening pipeline\.program: `.*join\(\[label\]\)` holds a text"):
        flatten("pipeline.program", toy(pipeline__program=program), TAIL)


OTHER_PYTHON = """
import sys, types
sys.modules["brotli"] = types.ModuleType("brotli")  # compiled for this environment's Python; minify never calls it
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
import json
from pathlib import Path
from pipeline.record.flatten import flatten
from pipeline.record.ship import minify
from pipeline.record.ship import without_unused
asked = json.load(sys.stdin)
source = flatten(asked["module"], Path(asked["root"]), asked["tail"])
sys.stdout.buffer.write((source + minify(without_unused(source))).encode())
"""


def assert_every_python_writes_the_same(version: str, repo: Path, module: str, root: Path, tail: str) -> None:
    """Flatten, trim and minify a program here and with another Python."""
    found = [
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
        *filter(None, [shutil.which(f"python{version}")]),
    ]
    if not found:
        pytest.skip(f"no Python {version} found: install it with pyenv to run this test")
    source = flatten(module, root, tail)
    expected = source + minify(without_unused(source))
    asked = {"module": module, "root": str(root), "tail": tail}
    done = subprocess.run(
        [found[0], "-B", "-I", "-c", OTHER_PYTHON, str(repo), str(Path(python_minifier.__file__).parent.parent)],
        input=json.dumps(asked).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == expected


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_program_is_the_same_text_whichever_python_writes_it(version: str, repo: Path, toy):
    body, call = PROGRAM.rsplit("\n\n", 1)
    assert call.startswith("main(")
    assert_every_python_writes_the_same(version, repo, "pipeline.program", toy(pipeline__program=body), call)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_record_is_the_same_text_whichever_python_writes_it(version: str, repo: Path):
    tail = f"main({recipe_of(load_params(repo / 'params.yaml', SECTIONS))!r}, 'digest')"
    assert_every_python_writes_the_same(version, repo, "pipeline.record.program", repo, tail)
