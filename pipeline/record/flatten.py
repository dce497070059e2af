"""One source file out of many: a module and all it imports, flattened in dependency order.

The one idea: when every top-level name of the library is unique and modules import each other only as
`from pipeline.x import name`, flattening is concatenation without those lines. Everything that would break this
(aliases, relative or star imports, equal names, builtins shadowed, names nobody defines) is refused with one line that
names the files. Only what the tail, the statements that run the program, can reach is kept. The text
does not depend on the Python that writes it: since 3.12, `ast.unparse` gives nested f-strings quotes that are a syntax
error before, so those are rewritten.

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
    Docstrings survive, comments do not. Equal inputs give equal text.
    Raises ValueError naming the files when the modules cannot be flattened.
    """
    body: list[ast.stmt] = []
    owners: dict[str, str] = {}
    imports: dict[str, tuple[str, str, ast.Import | ast.ImportFrom]] = {}
    for path in _ordered_files(entry_module, root):
        shown = _shown(path, root)
        body += ast.parse(f"repr({shown!r})").body if marked else []
        for statement in _module_statements(path, root):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                _add_import(imports, statement, shown)
            else:
                _claim_names(owners, statement, shown)
                body.append(statement)
    for binding in sorted(imports.keys() & owners.keys()):
        raise ValueError(f"{owners[binding]}: top-level name {binding} is also imported in {imports[binding][1]}")
    statements = [*ast.parse(head).body, *_merged_imports(imports), *body, *ast.parse(tail).body]
    tree = ast.Module(statements, type_ignores=[])
    tree = ast.fix_missing_locations(_PortableFormats().visit(remove_unreachable(tree)))
    if missing := undefined_names(tree):
        raise ValueError(f"flattening {entry_module}: no module defines {', '.join(missing)}")
    return ast.unparse(tree) + "\n"


def project_imports(source: str) -> list[str]:
    """Return the project's own modules that `source` imports at any depth, sorted; a program has none."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if is_project(alias.name))
        elif isinstance(node, ast.ImportFrom) and (node.level or is_project(node.module)):
            names.add("." * node.level + (node.module or ""))
    return sorted(names)


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _ordered_files(entry_module: str, root: Path) -> list[Path]:
    """Return the files of the closure, package `__init__` files left out, every file after those it imports."""
    ordered: list[Path] = []
    open_modules: list[str] = []

    def visit(module: str, importer: str) -> None:
        path = module_file(module, root)
        if path is None:
            raise ValueError(f"{importer}: imports {module}, which is not a module under {root.name}/")
        if path.name == "__init__.py":
            raise ValueError(f"{importer}: imports from the package {module}; import from the defining module")
        if module in open_modules:
            raise ValueError(f"{importer}: circular import of {module}")
        if path in ordered:
            return
        open_modules.append(module)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and not node.level and is_project(node.module):
                visit(str(node.module), _shown(path, root))
        open_modules.pop()
        ordered.append(path)

    visit(entry_module, "the caller")
    return ordered


def _module_statements(path: Path, root: Path) -> Iterator[ast.stmt]:
    """Yield the third-party imports and definitions of a module; refuse what flattening cannot carry over."""
    shown = _shown(path, root)
    tree = ast.parse(path.read_text("utf-8"))
    _check_nodes(tree, shown)
    for statement in tree.body:
        where = f"{shown}:{statement.lineno}"
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if isinstance(statement, ast.ImportFrom) and is_project(statement.module):
            _check_imported_names(statement, where, root)
            continue
        if not isinstance(statement, ast.Import | ast.ImportFrom) and not defined_names(statement):
            raise ValueError(
                f"{where}: `{ast.unparse(statement).splitlines()[0]}` would run on import; "
                "only imports, definitions and assignments to names can be flattened"
            )
        yield statement


def _check_nodes(tree: ast.Module, shown: str) -> None:
    for node in ast.walk(tree):
        problem = None
        if isinstance(node, ast.Import) and any(is_project(alias.name) for alias in node.names):
            problem = "import of a project module; write `from pipeline.x import name`"
        elif isinstance(node, ast.ImportFrom):
            problem = _import_problem(node, top_level=node in tree.body)
        elif isinstance(node, ast.Name) and node.id in _FORBIDDEN_NAMES:
            problem = f"{node.id} cannot be flattened"
        if problem:
            raise ValueError(f"{shown}:{getattr(node, 'lineno', 1)}: {problem}")


class _PortableFormats(ast.NodeTransformer):
    """Write each f-string that has text or another f-string inside a replacement field as a call of str.format."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        fields = [field for field in ast.walk(node) if isinstance(field, ast.FormattedValue)]
        if not any(_is_text(inner) for field in fields for inner in ast.walk(field.value)):
            return node
        arguments: list[ast.expr] = []
        template = ast.Constant(self._template(node, arguments))
        return ast.Call(ast.Attribute(template, "format", ast.Load()), arguments, [])

    def _template(self, node: ast.expr, arguments: list[ast.expr]) -> str:
        """Return the format text of an f-string or format spec; what it formats is appended to `arguments`."""
        assert isinstance(node, ast.JoinedStr)
        text = ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                arguments.append(self.visit(part.value))
                conversion = f"!{chr(part.conversion)}" if part.conversion >= 0 else ""
                spec = ":" + self._template(part.format_spec, arguments) if part.format_spec else ""
                text += "{" + conversion + spec + "}"
            else:
                text += str(ast.literal_eval(part)).replace("{", "{{").replace("}", "}}")
        return text


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _import_problem(node: ast.ImportFrom, top_level: bool) -> str | None:
    if node.level:
        return "relative import; write `from pipeline.x import name`"
    if node.module == "__future__":
        return "`from __future__` would change every other module of the program"
    if any(alias.name == "*" for alias in node.names):
        return "star import; name what is imported"
    if is_project(node.module) and not top_level:
        return f"import of {node.module} inside a function or block; move it to the top of the module"
    if is_project(node.module) and any(alias.asname for alias in node.names):
        return f"alias in the import of {node.module}; use the name it is defined under"
    return None


def _check_imported_names(statement: ast.ImportFrom, where: str, root: Path) -> None:
    path = module_file(str(statement.module), root)
    assert path is not None  # _ordered_files has visited it
    provided = {name for node in ast.parse(path.read_text("utf-8")).body for name in defined_names(node)}
    for alias in statement.names:
        if alias.name not in provided:
            raise ValueError(f"{where}: {alias.name} is not defined in {statement.module}; import from where it is")


def _claim_names(owners: dict[str, str], statement: ast.stmt, shown: str) -> None:
    for name in defined_names(statement):
        if name in owners:
            raise ValueError(f"top-level name {name} is defined in {owners[name]} and in {shown}; rename one")
        if hasattr(builtins, name):
            raise ValueError(f"{shown}: top-level name {name} hides the builtin from all other modules; rename it")
        owners[name] = shown


def _add_import(
    imports: dict[str, tuple[str, str, ast.Import | ast.ImportFrom]], statement: ast.Import | ast.ImportFrom, shown: str
) -> None:
    """Record each imported name; `imports` maps a binding to (what it means, first file, import statement)."""
    for alias in statement.names:
        binding = import_binding(alias)
        single: ast.Import | ast.ImportFrom
        if isinstance(statement, ast.ImportFrom):
            meaning = f"{statement.module}.{alias.name}"
            single = ast.ImportFrom(statement.module, [alias], 0)
        else:
            meaning = alias.name if alias.asname else binding
            single = ast.Import([alias])
        known = imports.setdefault(binding, (meaning, shown, single))
        if known[0] != meaning:
            raise ValueError(f"{binding} is {known[0]} in {known[1]} and {meaning} in {shown}; import it one way")
        if "." in alias.name and isinstance(single, ast.Import) and not alias.asname:
            # `import a.b` binds a but also loads a.b: kept beside any other import that binds a.
            imports.setdefault(alias.name, (alias.name, shown, single))


def _merged_imports(imports: dict[str, tuple[str, str, ast.Import | ast.ImportFrom]]) -> list[ast.stmt]:
    """Return one statement per imported module, sorted by text; equal statements once."""
    plain: dict[str, ast.stmt] = {}
    members: dict[str, dict[str, ast.alias]] = {}
    for _, _, statement in imports.values():
        if isinstance(statement, ast.Import):
            plain[ast.unparse(statement)] = statement
        else:
            members.setdefault(str(statement.module), {})[import_binding(statement.names[0])] = statement.names[0]
    merged: list[ast.stmt] = [plain[text] for text in sorted(plain)]
    return merged + [
        ast.ImportFrom(module, [members[module][key] for key in sorted(members[module])], 0)
        for module in sorted(members)
    ]
