"""One source file out of many: a module and all it imports, flattened in dependency order.

The one idea: when every top-level name of the library is unique and modules import each other only as
`from pipeline.x import name`, flattening is concatenation without those lines. Everything that would break this
(aliases, relative or star imports, equal names, builtins shadowed, names nobody defines) is refused with one line that
names the files. Only what the tail, the statements that run the program, can reach is kept.

Differs: general bundlers keep modules as namespaces at run time; here nothing of the package structure is left.
Checked by: tests/record/test_flatten.py.
"""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.closure import is_project, module_file
from pipeline.record.reachable import defined_names, import_binding, remove_unreachable, undefined_names

_FORBIDDEN_NAMES = frozenset({"vars", "locals", "globals", "eval", "exec", "__file__"})
"""Names that switch the minifier's renaming off or mean something else in one file."""


def flatten(entry_module: str, root: Path, tail: str, *, head: str = "", marked: bool = False) -> str:
    """Return one source text: `head`, what `tail` needs of `entry_module` and its imports, then `tail`.

    `tail`: Python statements that run the program, written in terms of the top-level names of the library.
    `head`: statements that run before anything is imported.
    `marked`: begin what each file defines with the statement `repr(<its path>)`, for measurements.
    Docstrings survive, comments do not. Equal inputs give equal text, whichever Python writes it.
    Raises ValueError naming the files when the modules cannot be flattened.
    """
    body: list[ast.stmt] = []
    owners: dict[str, str] = {}
    imports: dict[str, tuple[str, str]] = {}
    for shown, tree in _ordered_trees(entry_module, root):
        body += ast.parse(f"repr({shown!r})").body if marked else []
        for statement in _module_statements(tree, shown):
            if isinstance(statement, ast.ImportFrom) and is_project(statement.module):
                _check_owner(owners, statement, shown, root)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                _add_import(imports, statement, shown)
            else:
                _claim_names(owners, statement, shown)
                body.append(statement)
    for binding in sorted(imports.keys() & owners.keys()):
        raise ValueError(f"{owners[binding]}: top-level name {binding} is also imported in {imports[binding][1]}")
    parts = [head, *sorted({text for text, _ in imports.values()}, key=lambda text: (text.startswith("from"), text))]
    tree = ast.Module([*ast.parse("\n".join(parts)).body, *body, *ast.parse(tail).body], type_ignores=[])
    tree = remove_unreachable(tree)
    if missing := undefined_names(tree):
        raise ValueError(f"flattening {entry_module}: no module defines {', '.join(missing)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and any(map(_is_text, ast.walk(node.value))):
            text = f"`{ast.unparse(node.value)}` holds a text inside of an f-string, which Pythons quote differently"
            raise ValueError(f"flattening {entry_module}: {text}; give it a name first")
    return ast.unparse(tree) + "\n"


def _ordered_trees(entry_module: str, root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield the files of the closure, package `__init__` files left out, every file after those it imports."""
    done: set[str] = set()
    going: list[str] = []

    def visit(module: str, importer: str) -> Iterator[tuple[str, ast.Module]]:
        path = module_file(module, root)
        if path is None:
            raise ValueError(f"{importer}: imports {module}, which is not a module under {root.name}/")
        if path.name == "__init__.py":
            raise ValueError(f"{importer}: imports from the package {module}; import from the defining module")
        if module in going:
            raise ValueError(f"{importer}: circular import of {module}")
        if module in done:
            return
        shown, tree = path.relative_to(root).as_posix(), ast.parse(path.read_text("utf-8"))
        going.append(module)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and not node.level and is_project(node.module):
                yield from visit(str(node.module), shown)
        done.add(going.pop())
        yield shown, tree

    return visit(entry_module, "the caller")


def _module_statements(tree: ast.Module, shown: str) -> Iterator[ast.stmt]:
    """Yield the imports and definitions of a module; refuse what flattening cannot carry over."""
    for node in ast.walk(tree):
        if problem := _problem(node, node in tree.body):
            raise ValueError(f"{shown}:{getattr(node, 'lineno', 1)}: {problem}")
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if not isinstance(statement, ast.Import | ast.ImportFrom) and not defined_names(statement):
            raise ValueError(
                f"{shown}:{statement.lineno}: `{ast.unparse(statement).splitlines()[0]}` would run on import; "
                "only imports, definitions and assignments to names can be flattened"
            )
        yield statement


def _problem(node: ast.AST, top_level: bool) -> str | None:
    if isinstance(node, ast.Import) and any(is_project(alias.name) for alias in node.names):
        return "import of a project module; write `from pipeline.x import name`"
    if isinstance(node, ast.ImportFrom):
        return _import_problem(node, top_level)
    if isinstance(node, ast.Name) and node.id in _FORBIDDEN_NAMES:
        return f"{node.id} cannot be flattened"
    return None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _import_problem(node: ast.ImportFrom, top_level: bool) -> str | None:
    if node.level:
        return "relative import; write `from pipeline.x import name`"
    if node.module == "__future__":
        return "`from __future__` would change every other module of the program"
    if any(alias.name == "*" for alias in node.names):
        return "star import; name what is imported"
    if not is_project(node.module):
        return None
    if not top_level:
        return f"import of {node.module} inside a function or block; move it to the top of the module"
    if any(alias.asname for alias in node.names):
        return f"alias in the import of {node.module}; use the name it is defined under"
    return None


def _check_owner(owners: dict[str, str], statement: ast.ImportFrom, shown: str, root: Path) -> None:
    path = module_file(str(statement.module), root)
    for alias in statement.names:
        if path is None or owners.get(alias.name) != path.relative_to(root).as_posix():
            where = f"{shown}:{statement.lineno}"
            raise ValueError(f"{where}: {alias.name} is not defined in {statement.module}; import from where it is")


def _claim_names(owners: dict[str, str], statement: ast.stmt, shown: str) -> None:
    for name in defined_names(statement):
        if name in owners:
            raise ValueError(f"top-level name {name} is defined in {owners[name]} and in {shown}; rename one")
        if hasattr(builtins, name):
            raise ValueError(f"{shown}: top-level name {name} hides the builtin from all other modules; rename it")
        owners[name] = shown


def _add_import(imports: dict[str, tuple[str, str]], statement: ast.Import | ast.ImportFrom, shown: str) -> None:
    """Note each imported name; `imports` maps what is bound, or loaded beside it, to (import statement, first file)."""
    for alias in statement.names:
        single: ast.stmt = ast.Import([alias])
        if isinstance(statement, ast.ImportFrom):
            single = ast.ImportFrom(statement.module, [alias], 0)
        text, binding = ast.unparse(single), import_binding(alias)
        if "." in alias.name and not alias.asname:
            imports.setdefault(alias.name, (text, shown))  # `import a.b` binds a, but also loads a.b
            text = f"import {binding}"
        known, where = imports.setdefault(binding, (text, shown))
        if known != text:
            raise ValueError(f"{binding} is `{known}` in {where} and `{text}` in {shown}; import it one way")
