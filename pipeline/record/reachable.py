"""Which top-level definitions of one source file can run: the rest is removed.

The one idea: a definition (function, class, assignment) is needed when a needed statement refers to its name as a
global; statements that define nothing (calls, `if`) are needed from the start. Scopes are Python's own (`symtable`), so
a local variable that shares its name with a function keeps nothing alive. Decorators, defaults, base classes and
annotations count as references. Relies on definitions having no side effects.

Source: PEP 709: since Python 3.12 a function's symbol table also holds the variables of its list, set and dict
comprehensions, as if they were its own or, at module level, globals. Generator expressions keep their own table.

Checked by: tests/record/test_flatten.py.
"""

import ast
import builtins
import symtable
from collections.abc import Iterator
from functools import cache


def defined_names(statement: ast.stmt) -> list[str]:
    """Return the names a top-level function, class or assignment binds; empty for every other statement."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


def global_references(statement: ast.stmt) -> frozenset[str]:
    """Return the names that `statement`, run at module level, reads from the module's globals at any depth."""
    return _references(ast.unparse(statement))


@cache
def _references(source: str) -> frozenset[str]:
    """Most statements come by unchanged, again and again."""
    table = symtable.symtable(comprehensions_as_generators(source), "<statement>", "exec")
    return frozenset(_table_references(table, module_level=True))


def comprehensions_as_generators(source: str) -> str:
    """Return source that reads the same names, with every comprehension written as a generator expression."""
    # Text, not a deep copy: python-minifier leaves links to its whole tree on the context nodes that all trees share.
    return ast.unparse(ast.fix_missing_locations(_Generators().visit(ast.parse(source))))


class _Generators(ast.NodeTransformer):
    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return self.generic_visit(ast.GeneratorExp(pair, node.generators))


def _table_references(table: symtable.SymbolTable, module_level: bool) -> Iterator[str]:
    # A class body that assigns a name may still have read the global of that name first.
    falls_through = module_level or table.get_type() == "class"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (falls_through or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _table_references(child, module_level=False)


def import_binding(alias: ast.alias) -> str:
    """Return the name that `import a.b`, `import a.b as c` or `from a import b` binds."""
    return alias.asname or alias.name.partition(".")[0]


def remove_unreachable(tree: ast.Module) -> ast.Module:
    """Return a module with the top-level definitions and imported names that nothing needed refers to removed."""
    others = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    owners: dict[str, list[ast.stmt]] = {}
    for statement in others:
        for name in defined_names(statement):
            owners.setdefault(name, []).append(statement)
    pending = [statement for statement in others if not defined_names(statement)]
    kept: set[ast.stmt] = set()
    used: set[str] = set()
    while pending:
        statement = pending.pop()
        if statement not in kept:
            kept.add(statement)
            names = global_references(statement)
            used |= names
            pending += [owner for name in names for owner in owners.get(name, ())]
    body: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            body += _used_import(statement, used)
        elif statement in kept:
            body.append(statement)
    return ast.Module(body, type_ignores=[])


def _used_import(node: ast.Import | ast.ImportFrom, used: set[str]) -> list[ast.stmt]:
    """Return an import of those of its names that are used, if any is."""
    names = [alias for alias in node.names if import_binding(alias) in used]
    kept = ast.ImportFrom(node.module, names, node.level) if isinstance(node, ast.ImportFrom) else ast.Import(names)
    return [kept] if names else []


def undefined_names(tree: ast.Module) -> list[str]:
    """Return the globals that some statement reads and no top-level statement or builtin provides, sorted."""
    defined = {"__name__", *dir(builtins)}
    read: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            defined.update(import_binding(alias) for alias in statement.names)
        else:
            defined.update(defined_names(statement))
            read |= global_references(statement)
    return sorted(read - defined)
