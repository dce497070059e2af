"""The shape of the house: who may import whom, how long things get, what nobody may do. Read from the syntax trees."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.closure import import_closure

REPO = Path(__file__).resolve().parent.parent
ROOMS = [REPO / folder for folder in ("pipeline", "stages", "benchmarks")]
SOURCES = [REPO / "fairway.py", *sorted(path for folder in ROOMS for path in folder.rglob("*.py"))]

RANK = {
    "base": 0,
    "launching": 1,
    "model": 2,
    "data": 2,
    "optim": 2,
    "recipes": 2,
    "mixture": 2,
    "corpus": 3,
    "codec": 3,
    "quant": 4,
    "scoring": 4,
    "training": 4,
    "interop": 4,
    "calibration": 5,
    "inference": 5,
    "projection": 5,
    "reports": 6,
    "record": 7,
    "verification": 8,
    "audit": 9,
}
"""Room of `pipeline` -> floor of the house; imports stay in a room or go downwards."""


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text())


def _project_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("pipeline", "stages"):
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("pipeline", "stages"):
                    yield node.lineno, alias.name


def _without_type_checking(tree: ast.Module) -> ast.Module:
    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    return Drop().visit(tree)


def test_imports_go_downwards():
    wrong = []
    for path, tree in _trees():
        top, *rest = path.relative_to(REPO).with_suffix("").parts
        for line, module in _project_imports(_without_type_checking(tree)):
            target = module.split(".")
            if top == "pipeline" and rest[0] != "__init__":
                upward = target[0] == "stages" or (target[1] != rest[0] and RANK[target[1]] >= RANK[rest[0]])
                if upward:
                    wrong.append(f"{path.relative_to(REPO)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_library_knows_no_shell():
    shells = {"click", "rich", "dvc"}
    wrong = [
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path, tree in _trees()
        if path.is_relative_to(REPO / "pipeline")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and {a.name.split(".")[0] for a in node.names} & shells)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in shells)
    ]
    assert not wrong, wrong


def test_stages_import_no_torch_at_the_top():
    heavy = {"torch", "numpy", "sentencepiece", "rich"}
    wrong = []
    for path in (REPO / "stages").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}:{node.lineno} {name}" for name in names if name.split(".")[0] in heavy]
    assert not wrong, wrong


@pytest.mark.parametrize(("folder", "limit"), [("pipeline", 300), ("stages", 160)])
def test_modules_stay_short(folder: str, limit: int):
    lengths = {str(p.relative_to(REPO)): len(p.read_text().splitlines()) for p in (REPO / folder).rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > limit} == {}


def test_functions_stay_short():
    long = [
        f"{path.relative_to(REPO)}:{node.lineno} {node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long, long


def test_public_functions_and_modules_have_docstrings():
    missing = []
    for path, tree in _trees():
        if path.name != "__init__.py" and not ast.get_docstring(tree):
            missing.append(str(path.relative_to(REPO)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node in tree.body and not node.name.startswith("_"):
                missing += [] if ast.get_docstring(node) else [f"{path.relative_to(REPO)}:{node.lineno} {node.name}"]
    assert not missing, missing


def test_no_bare_except_and_no_unsafe_load():
    wrong = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            where = f"{path.relative_to(REPO)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{where} bare except")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                wrong += [] if safe else [f"{where} {ast.unparse(node.func)} without weights_only=True"]
    assert not wrong, wrong


def test_the_network_calls_no_generic_alias():
    """The compiler of torch 2.11 does not read `list[Tensor]()`."""
    found = [
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if path.is_relative_to(REPO / "pipeline/model") and isinstance(node, ast.Call)
        if isinstance(node.func, ast.Subscript) and ast.unparse(node.func.value) in ("list", "dict", "set", "tuple")
    ]
    assert not found, found


def test_only_the_launcher_reads_the_environment():
    readers = {
        str(path.relative_to(REPO))
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    }
    assert readers <= {
        "pipeline/launching/processes.py",  # torchrun's ranks
        "stages/shell/console.py",
        "stages/demo.py",
        "benchmarks/course.py",  # what a child process needs of this machine
        "stages/cli.py",
        "benchmarks/__init__.py",
        "benchmarks/waiting.py",  # how threads wait, before torch is loaded
    }


def test_source_is_ascii():
    assert [str(p) for p in SOURCES if not p.read_text().isascii()] == []


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        for statement in node.body if isinstance(getattr(node, "body", None), list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield str(statement.value.value)


def test_every_file_named_in_prose_exists():
    made = {"train_gpt.py", "train_gpt_human.py", "token_gates.py"}  # by `package`, by docs/conditioner.md
    rooms = "pipeline|stages|benchmarks|tests|docs|recipes"
    below = (path for room in rooms.split("|") for path in (REPO / room).rglob("*"))
    there = [f"/{path.relative_to(REPO)}" for path in (REPO / "fairway.py", *below)]
    prose = {path: "\n".join(_docstrings(tree)) for path, tree in _trees()}
    prose |= {path: path.read_text() for path in [REPO / "README.md", *(REPO / "docs").glob("*.md")]}
    missing = [
        f"{path.relative_to(REPO)}: {name}"
        for path, text in prose.items()
        for name in re.findall(rf"[\w/]*\w\.py\b|\b(?:{rooms})/[\w/.-]*\w", text)
        if Path(name).name not in made and not any(file.endswith(f"/{name}") for file in there)
    ]
    assert not missing, "\n".join(missing)


def test_a_quoted_annotation_names_classes_of_the_library():
    # What a record's program does not define is taken to have no objects (pipeline/record/settle.py).
    carried = import_closure("pipeline.record.program", REPO)
    library = [(path, tree) for path, tree in _trees() if path in carried]
    classes = {node.name for _, tree in _trees() for node in tree.body if isinstance(node, ast.ClassDef)}
    wrong = []
    for path, tree in library:
        for node in ast.walk(tree):
            note = getattr(node, "annotation", None) or getattr(node, "returns", None)
            if isinstance(note, ast.Constant) and isinstance(note.value, str):
                names = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*(?![\w.])", note.value)) - {"None"}
                wrong += [f"{path.relative_to(REPO)}:{node.lineno} {name}" for name in names - classes]
    assert not wrong, wrong


def test_no_file_of_the_checkout_is_large():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    sizes = {name: (REPO / name).stat().st_size for name in listed.split("\0") if (REPO / name).is_file()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 1 << 19} == {}
