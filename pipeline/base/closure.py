"""Which project files a module or a stage runs, read from syntax trees.

The one idea: what importing a module executes can be known without executing it. DVC's code dependencies, a report's
code digest and the flattened program all rest on this list.

Checked by: tests/base/test_closure.py.
"""

import ast
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pipeline.base.config import SECTIONS

PROJECT_PACKAGES = ("pipeline", "stages")
"""Top-level packages of this project; every other import is somebody else's."""
APART = ("pipeline.launching", "pipeline.reports", "stages.shell")
"""Rooms that no result of making or scoring depends on: where processes run, what people read. A change there
makes none of those stages run again."""


def import_closure(module: str, root: Path, apart: Collection[str] = (), also: Iterable[str] = ()) -> list[Path]:
    """Return the project files that running `module` may import, its own and package `__init__` files included, sorted.

    Follows imports at the top and inside functions, not those under `if TYPE_CHECKING`, which never run, nor
    into the packages `apart`.
    `also`: modules that it loads besides, without an import statement.
    Raises ValueError when a file imports a project module that does not exist.
    """
    found: set[Path] = set()
    pending = [(name, "the caller") for name in (module, *also)]
    while pending:
        name, importer = pending.pop()
        if any(f"{name}.".startswith(f"{package}.") for package in apart):
            continue
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        for part in [name, *parents]:
            path = module_file(part, root)
            if path is None:
                raise ValueError(f"{importer}: imports {part}, which is not a module under {root.name}/")
            if path not in found:
                found.add(path)
                pending += [(target, path.relative_to(root).as_posix()) for target in _imported(part, path, root)]
    return sorted(found)


def stage_closure(stage: str, root: Path, apart: Collection[str] = ()) -> list[Path]:
    """Return the files that stage `stage` runs, without those of the packages `apart`.

    They are its import closure and the config classes of the sections that it loads: the loader imports those by name,
    where no import statement shows it.
    """
    addresses = [address for section in loaded_sections(stage, root) if (address := SECTIONS[section])]
    return import_closure(f"stages.{stage}", root, apart, (address.partition(":")[0] for address in addresses))


def loaded_sections(stage: str, root: Path) -> list[str]:
    """Return the sections of params.yaml that stage `stage` asks `load_params` for, in the order of the file."""
    asked: set[str] = set()
    for node in ast.walk(ast.parse((root / "stages" / f"{stage}.py").read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_params":
            wanted = node.args[1]
            asked.update(SECTIONS if ast.unparse(wanted) == "SECTIONS" else ast.literal_eval(wanted))
    return [section for section in SECTIONS if section in asked]


def module_file(module: str, root: Path) -> Path | None:
    """Return the file of a project module below `root`, None when there is none."""
    base = root.joinpath(*module.split("."))
    candidates = (base.with_name(base.name + ".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def is_project(module: str | None) -> bool:
    """Return whether a dotted module name belongs to this project."""
    return module is not None and module.partition(".")[0] in PROJECT_PACKAGES


def _imported(module: str, path: Path, root: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_project(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.rsplit(".", node.level - 1)[0]
                base = f"{anchor}.{base}" if base else anchor
            if is_project(base):
                yield base
                submodules = (f"{base}.{alias.name}" for alias in node.names)
                yield from (name for name in submodules if module_file(name, root) is not None)


def _executed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    skipped = node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _executed_nodes(child)
